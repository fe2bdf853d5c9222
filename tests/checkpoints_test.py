import collections
import os
import resource
import shutil
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfd = tfp.distributions


def _model(seed=1, hidden_channels=2):
  flow = tfp_realnvp.RealNVPChain(
    (4, 4, 1),
    num_scales=1,
    num_blocks=1,
    hidden_channels=hidden_channels,
    seed=seed,
  )
  base = flow_testing.isotropic_normal((4, 4, 1))
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(base, flow), seed=0
  )
  model.compile(keras.optimizers.Adam(1e-2))
  return model


def _batches(start, stop):
  """Batches of steps `start` to `stop`, which follow from the step alone."""
  rngs = map(np.random.default_rng, range(start, stop))
  images = np.stack([rng.integers(100, 140, [8, 4, 4, 1]) for rng in rngs])
  return tf.data.Dataset.from_tensor_slices(images.astype(np.uint8))


def _train(model, checkpoints, stop):
  """Trains up to step `stop`; returns the metrics of the epoch."""
  batches = _batches(checkpoints.step, stop)
  model.fit(batches, shuffle=False, verbose=0, callbacks=[checkpoints])
  return model.get_metrics_result()


def _state(model):
  return [v.numpy() for v in model.variables] + [
    v.numpy() for v in model.optimizer.variables
  ]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A directory with checkpoints of steps 2, 4 and 6, and what came of them."""
  directory = tmp_path_factory.mktemp('checkpoints')
  model = _model()
  checkpoints = tfp_realnvp.Checkpoints(model, directory, every=2)
  metrics = _train(model, checkpoints, 6)
  return directory, _state(model), metrics


@pytest.fixture
def directory(trained, tmp_path):
  shutil.copytree(trained[0], tmp_path / 'copy')
  return tmp_path / 'copy'


@pytest.mark.parametrize('epoch_steps', [3, 6])
def test_restored_training_takes_the_same_steps(
  epoch_steps, trained, directory
):
  _, state, metrics = trained
  for path in directory.glob('ckpt-6*'):
    path.unlink()
  model = _model(seed=2)
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  assert checkpoints.restore(epoch_steps).endswith('ckpt-4')
  assert checkpoints.step == 4
  resumed = _train(model, checkpoints, 6)
  for found, expected in zip(_state(model), state):
    np.testing.assert_array_equal(found, expected)
  if epoch_steps == 6:  # The metrics are those of the whole epoch too.
    for name, value in metrics.items():
      np.testing.assert_array_equal(resumed[name], value)


def test_metrics_of_a_finished_epoch_are_not_taken_up(trained, directory):
  model = _model()
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  checkpoints.restore(epoch_steps=6)
  # What the epoch came to can be read;
  for name, value in trained[2].items():
    np.testing.assert_array_equal(model.get_metrics_result()[name], value)
  # a new epoch begins without it.
  again = _train(model, checkpoints, 7)
  fresh = _model()
  fresh_checkpoints = tfp_realnvp.Checkpoints(fresh, directory)
  fresh_checkpoints.restore()
  np.testing.assert_array_equal(
    again['loss'], _train(fresh, fresh_checkpoints, 7)['loss']
  )


def _flip(path, offset):
  data = bytearray(path.read_bytes())
  data[offset] ^= 0xFF
  path.write_bytes(data)


@pytest.mark.parametrize(
  'damage',
  [
    lambda data, index: _flip(data, -100),
    lambda data, index: _flip(index, 100),
    lambda data, index: data.write_bytes(data.read_bytes()[:1000]),
    lambda data, index: index.write_bytes(b''),
    lambda data, index: data.unlink(),
    lambda data, index: (index.parent / 'checkpoint').write_text('damaged'),
  ],
  ids=['data', 'index', 'truncated', 'empty', 'missing', 'state'],
)
def test_damaged_checkpoint_is_named_and_the_one_before_used(
  damage, directory, caplog, request
):
  data = directory / 'ckpt-6.data-00000-of-00001'
  damage(data, directory / 'ckpt-6.index')
  model = _model(seed=2)
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  path = checkpoints.restore()
  if 'state' in request.node.name:  # The checkpoints themselves are whole.
    assert path.endswith('ckpt-6')
    return
  assert path.endswith('ckpt-4')
  assert f'{directory}/ckpt-6 is damaged' in caplog.text
  assert checkpoints.step == 4
  for found in _state(model):
    assert np.all(np.isfinite(found))
  _train(model, checkpoints, 6)
  checkpoints.save()
  assert tfp_realnvp.Checkpoints(_model(), directory).restore().endswith('-6')


def test_nothing_whole_is_an_error_and_nothing_at_all_a_beginning(directory):
  for path in directory.glob('*.index'):
    path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match='Every checkpoint in .* is damaged'):
    tfp_realnvp.Checkpoints(_model(), directory).restore()
  assert tfp_realnvp.Checkpoints(_model(), directory / 'new').restore() is None


def test_checkpoint_of_another_model_is_refused(directory):
  model = _model(hidden_channels=3)
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  with pytest.raises(ValueError, match='ckpt-6 is that of another model'):
    checkpoints.restore()


def test_full_disk_is_reported_before_training(directory, monkeypatch):
  model = _model()
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  checkpoints.restore()
  usage = collections.namedtuple('usage', 'free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(1000))
  with pytest.raises(OSError, match='takes [0-9,]+ bytes, .* has 1,000 left'):
    _train(model, checkpoints, 8)
  assert checkpoints.step == 6


def test_directory_that_cannot_be_made_is_reported_before_training(tmp_path):
  (tmp_path / 'file').write_text('')
  model = _model()
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path / 'file' / 'dir')
  with pytest.raises(OSError, match='file/dir'):
    _train(model, checkpoints, 2)
  assert checkpoints.step == 0


def test_disk_that_fills_up_leaves_the_last_good_checkpoint(directory):
  # A limit on the size of files stands for the end of the disk.
  program = textwrap.dedent(f"""
    import resource, signal
    from tests import checkpoints_test
    import tfp_realnvp
    model = checkpoints_test._model()
    checkpoints = tfp_realnvp.Checkpoints(model, {str(directory)!r}, every=2)
    checkpoints.restore()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
      checkpoints_test._train(model, checkpoints, 8)
    except OSError as error:
      print(error)
  """)
  assert resource.RLIMIT_FSIZE
  done = subprocess.run(
    [sys.executable, '-c', program],
    env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert 'The checkpoint of step 8 could not be written' in done.stdout, (
    done.stderr[-3000:]
  )
  assert f'The newest one there is {directory}/ckpt-6' in done.stdout
  assert not list(directory.glob('*temp*'))
  checkpoints = tfp_realnvp.Checkpoints(_model(), directory)
  assert checkpoints.restore().endswith('ckpt-6')
  assert tf.train.latest_checkpoint(directory).endswith('ckpt-6')


def test_errors_name_the_argument(tmp_path):
  with pytest.raises(
    ValueError, match='`every` must be an int of at least 1, got 0'
  ):
    tfp_realnvp.Checkpoints(_model(), tmp_path, every=0)
