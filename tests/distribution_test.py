"""Trains on several replicas, in processes of their own, against one.

Run as a program it is one worker: KIND, DTYPE, 'synchronized' or 'own', OUTPUT.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_NUM_IMAGES = 19 * 8 + 1  # The last batch leaves nothing to the other replica.
_UNEVEN = (3, 1)  # Batch sizes. Of 1, one replica gets an empty part.


def _strategy(kind):
  import tensorflow as tf

  if kind == 'mirrored':
    (cpu,) = tf.config.list_physical_devices('CPU')
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  if kind == 'multi_worker':
    return tf.distribute.MultiWorkerMirroredStrategy()
  return tf.distribute.get_strategy()


def _uneven_steps(model, images):
  """Returns what comes out of batches that do not divide by two."""
  import tensorflow as tf

  found = {}
  for size in _UNEVEN:
    data = tf.data.Dataset.from_tensor_slices(images[:size]).batch(size)
    found[f'predicted{size}'] = model.predict(data, verbose=0)
    metrics = model.evaluate(data, verbose=0, return_dict=True)
    found[f'evaluated{size}'] = [metrics[name] for name in sorted(metrics)]
    history = model.fit(data, shuffle=False, verbose=0).history
    found[f'fitted{size}'] = [history[name][0] for name in sorted(history)]
    found[f'stepped{size}'] = _flat(model.trainable_variables)
  return found


def _flat(variables):
  return np.concatenate([v.numpy().ravel() for v in variables])


def work(kind, dtype, synchronized, output):
  """Trains 20 steps, evaluates, and writes what came out of it."""
  strategy = _strategy(kind)
  is_synchronized = synchronized == 'synchronized'
  import keras
  import tensorflow as tf
  import tensorflow_probability as tfp

  from tests import flow_testing
  import tfp_realnvp

  tfd = tfp.distributions
  losses, non_finite = [], []
  with strategy.scope():
    norm = tfp_realnvp.BatchNormOptions(synchronized=is_synchronized)
    flow = flow_testing.chain(
      (4, 4, 1), norm, num_scales=1, seed=1, dtype=dtype
    )
    # The logit, a coupling and its batch norm: quick to trace.
    flow = tfp_realnvp.RealNVPChain.from_bijectors(
      flow.bijectors[:3], (4, 4, 1), dtype=dtype
    )
    zero = tf.zeros([], dtype)
    base = tfd.Sample(tfd.Normal(zero, 1), sample_shape=(4, 4, 1))
    model = tfp_realnvp.DensityEstimator(
      tfd.TransformedDistribution(base, flow),
      l2_coefficient=0.1,
      l2_variables=flow.scale_parameters,
      seed=0,
    )
    model.compile(
      keras.optimizers.Adam(1e-2, global_clipnorm=10.0)
      if dtype == 'float64'
      else keras.optimizers.SGD(1e-4, global_clipnorm=10.0)
    )
  rng = np.random.default_rng(0)
  images = rng.integers(100, 140, [_NUM_IMAGES, 4, 4, 1]).astype(np.float32)
  images[85] = np.nan  # In the part of the second replica: both skip the batch.
  # Three batches of seven, and one that leaves nothing to the second replica.
  model.reestimate_statistics(images[:22], batch_size=7)
  reestimated = _flat(model.non_trainable_variables)
  keep_loss = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda _, logs: (
      losses.append(logs['loss']) or non_finite.append(logs['non_finite'])
    )
  )
  checkpoints = tfp_realnvp.Checkpoints(
    model, pathlib.Path(output).parent / f'{kind}_checkpoints', every=20
  )
  data = tf.data.Dataset.from_tensor_slices(images).batch(8)
  history = model.fit(
    data, shuffle=False, verbose=0, callbacks=[keep_loss, checkpoints]
  )
  metrics = model.evaluate(data.take(3), verbose=0, return_dict=True)
  model.reestimate_statistics(data.take(5))
  again = model.evaluate(data.take(3), verbose=0, return_dict=True)
  steps = model.step.numpy()
  variables = {
    f'{i}': v.numpy() for i, v in enumerate(model.trainable_variables)
  }
  np.savez(
    output,
    losses=losses,
    non_finite=non_finite,
    epoch=[history.history[name][0] for name in sorted(history.history)],
    metrics=[metrics[name] for name in sorted(metrics)],
    again=[again[name] for name in sorted(again)],
    steps=steps,
    reestimated=reestimated,
    **variables,
    **(_uneven_steps(model, images) if is_synchronized else {}),
  )


def _run(kind, tmp_path, dtype='float64', synchronized='synchronized'):
  """Starts the workers of a kind; returns what each wrote."""
  num_workers = 2 if kind == 'multi_worker' else 1
  sockets = [socket.create_server(('localhost', 0)) for _ in range(num_workers)]
  ports = [s.getsockname()[1] for s in sockets]
  for s in sockets:
    s.close()
  processes, outputs = [], []
  for index in range(num_workers):
    output = tmp_path / f'{kind}{index}.npz'
    environment = os.environ | {'PYTHONPATH': str(_ROOT)}
    if kind == 'multi_worker':
      cluster = {'worker': [f'localhost:{port}' for port in ports]}
      task = {'type': 'worker', 'index': index}
      environment['TF_CONFIG'] = json.dumps({'cluster': cluster, 'task': task})
    command = [sys.executable, __file__, kind, dtype, synchronized, str(output)]
    with (tmp_path / f'{kind}{index}.log').open('w') as log:
      processes.append(
        subprocess.Popen(command, env=environment, stdout=log, stderr=log)
      )
    outputs.append(output)
  try:
    for index, process in enumerate(processes):
      code = process.wait(timeout=600)
      log = (tmp_path / f'{kind}{index}.log').read_text()
      assert code == 0, log[-3000:]
  finally:
    for process in processes:
      process.kill()
  return [dict(np.load(output)) for output in outputs]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  (result,) = _run('alone', tmp_path_factory.mktemp('alone'))
  return result


def _assert_equal(found, expected, rtol):
  assert set(found) == set(expected)
  assert found['steps'] == 20
  assert len(found['losses']) == 20
  assert 8 in found['epoch']  # Images that were skipped.
  for name, value in expected.items():
    if name.isdigit():  # A variable: the error of all of it.
      error = np.linalg.norm(found[name] - value)
      assert error <= rtol * max(np.linalg.norm(value), 1e-2), name
    elif name.startswith(('predicted', 'reestimated', 'stepped')):
      np.testing.assert_allclose(found[name], value, rtol, 1e-9, err_msg=name)
    else:
      # Keras metrics are float32.
      np.testing.assert_allclose(found[name], value, 2e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['mirrored', 'multi_worker'])
def test_replicas_train_as_one_does(kind, alone, tmp_path):
  results = _run(kind, tmp_path)
  for result in results:
    _assert_equal(result, alone, 1e-7)
  # The chief alone has written, what all can read.
  folder = tmp_path / f'{kind}_checkpoints'
  assert sorted(path.name for path in folder.iterdir()) == [
    'checkpoint',
    'ckpt-20.data-00000-of-00001',
    'ckpt-20.index',
  ]


@pytest.mark.slow
def test_statistics_of_their_own(alone, tmp_path):
  (result,) = _run('mirrored', tmp_path, synchronized='own')
  # Each replica normalizes by its half of the batch: near, and not the same.
  for name in ('losses', 'epoch', 'metrics'):
    np.testing.assert_allclose(result[name], alone[name], rtol=0.1)
  assert np.abs(result['losses'] - alone['losses']).max() > 1e-3
  # Re-estimation takes the parts of all replicas as one batch all the same.
  np.testing.assert_allclose(
    result['reestimated'], alone['reestimated'], rtol=1e-12
  )


if __name__ == '__main__':
  work(*sys.argv[1:])
