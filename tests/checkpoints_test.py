import collections
import contextlib
import functools
import os
import re
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
  flow = flow_testing.two_couplings(
    (4, 4, 1), hidden_channels=hidden_channels, seed=seed
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


_VECTORS = np.random.default_rng(0).integers(0, 4, [8, 2]).astype(np.uint8)


def _vector_model(
  optimizer=None, num_couplings=2, seed=1, noise_seed=0, dtype=tf.float32
):
  """Returns a model of vectors, which takes little time to train."""
  flow = flow_testing.chain(
    (2,),
    hidden_units=(2,),
    num_couplings=num_couplings,
    dtype=dtype,
    seed=seed,
  )
  base = tfd.Sample(tfd.Normal(tf.zeros([], dtype), 1), sample_shape=(2,))
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(base, flow), num_levels=4, seed=noise_seed
  )
  model.compile(optimizer or keras.optimizers.Adam(1e-2))
  return model


def _everything(model):
  state = model.state
  saved = state.step, state.skipped_in_a_row, state.seeds
  return _state(model) + [v.numpy() for v in saved]


def _names(directory):
  return {path.stem for path in directory.glob('ckpt-*.index')}


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_metrics_are_resumed_though_their_checkpoint_was_replaced(tmp_path):
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path, max_to_keep=1)
  model.fit(_VECTORS, batch_size=2, verbose=0)
  checkpoints.save()
  checkpoints.restore(epoch_steps=8)
  count = model.metrics[0].count.numpy()
  model.reestimate_statistics(_VECTORS)
  checkpoints.save()
  assert _names(tmp_path) == {'ckpt-4-1'}
  model.fit(_VECTORS, batch_size=2, verbose=0, callbacks=[checkpoints])
  assert model.metrics[0].count.numpy() == 2 * count


def _flip(path, offset):
  data = bytearray(path.read_bytes())
  data[offset] ^= 0xFF
  path.write_bytes(data)


@pytest.mark.slow
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


@pytest.mark.parametrize('part', ['model', 'optimizer'])
def test_values_that_are_not_finite_are_neither_written_nor_restored(
  part, tmp_path, monkeypatch, caplog
):
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  checkpoints.save()
  variables = model.variables
  if part == 'optimizer':
    variables = [v.value for v in model.optimizer.variables]
  variable = next(v for v in variables if v.shape.rank)
  variable.assign(np.nan * variable)
  model.step.assign(1)
  with pytest.raises(FloatingPointError, match='Step 1 is not saved, because'):
    checkpoints.save()
  assert _names(tmp_path) == {'ckpt-0'}
  # As an earlier version wrote it.
  monkeypatch.setattr(tfp_realnvp.Checkpoints, '_check_finite', lambda _: None)
  checkpoints.save()
  assert _names(tmp_path) == {'ckpt-0', 'ckpt-1'}
  restored = tfp_realnvp.Checkpoints(_vector_model(), tmp_path).restore()
  assert restored.endswith('ckpt-0')
  assert 'has values that are not finite' in caplog.text


def test_nothing_whole_is_an_error_and_nothing_at_all_a_beginning(directory):
  for path in directory.glob('*.index'):
    path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match='Every checkpoint in .* is damaged'):
    tfp_realnvp.Checkpoints(_model(), directory).restore()
  assert tfp_realnvp.Checkpoints(_model(), directory / 'new').restore() is None


def _assert_refused(checkpoints, model, match):
  """Asserts that a restore raises an error and changes nothing."""
  before = _everything(model)
  with pytest.raises(ValueError, match=match):
    checkpoints.restore()
  for found, expected in zip(_everything(model), before, strict=True):
    np.testing.assert_array_equal(found, expected)


def test_checkpoint_of_another_model_is_refused(directory):
  model = _model(hidden_channels=3)
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  _assert_refused(
    checkpoints, model, r'ckpt-6 .* another model: 1?\d+ variables differ'
  )


@pytest.mark.parametrize(
  'saved, restored, where',
  [(4, 2, 'the checkpoint'), (2, 4, 'the model')],
)
def test_checkpoint_of_another_number_of_couplings_is_refused(
  saved, restored, where, tmp_path
):
  tfp_realnvp.Checkpoints(_vector_model(num_couplings=saved), tmp_path).save()
  model = _vector_model(num_couplings=restored)
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  _assert_refused(
    checkpoints, model, rf'another model: \d+ variables are in {where} alone'
  )


def test_checkpoint_of_another_dtype_is_refused(tmp_path):
  tfp_realnvp.Checkpoints(_vector_model(dtype=tf.float64), tmp_path).save()
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  _assert_refused(checkpoints, model, r'float64 \[.*\], here float32 \[')


_ADAM = functools.partial(keras.optimizers.Adam, 1e-2)
_MOMENTUM = functools.partial(keras.optimizers.SGD, 1e-2, momentum=0.9)
_SCALED = lambda: keras.optimizers.LossScaleOptimizer(_ADAM())


@pytest.mark.parametrize(
  'saved, restored, names',
  [
    (_MOMENTUM, keras.optimizers.RMSprop, 'SGD .*momentums.* RMSprop'),
    (_MOMENTUM, keras.optimizers.Lion, 'SGD .* Lion'),
    (_MOMENTUM, keras.optimizers.Adagrad, 'SGD .* Adagrad'),
    (_MOMENTUM, keras.optimizers.SGD, 'momentums.* SGD .with iterations.'),
    (_ADAM, keras.optimizers.Adadelta, 'Adam .* Adadelta'),
    (_ADAM, keras.optimizers.Adamax, 'Adam .* Adamax'),
    (_ADAM, keras.optimizers.AdamW, 'Adam .* AdamW'),
    (_ADAM, _SCALED, r'Adam .* LossScaleOptimizer\(Adam\)'),
    (_SCALED, _ADAM, r'LossScaleOptimizer\(Adam\).* with Adam'),
    (
      functools.partial(_ADAM, amsgrad=True),
      functools.partial(_ADAM, use_ema=True),
      'velocity_hats.* model_variables_moving_average',
    ),
  ],
)
def test_checkpoint_of_another_optimizer_is_refused(
  saved, restored, names, tmp_path
):
  tfp_realnvp.Checkpoints(_vector_model(saved()), tmp_path).save()
  model = _vector_model(restored())
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  _assert_refused(checkpoints, model, f'that of another optimizer, .*{names}')


@pytest.mark.slow
@pytest.mark.parametrize(
  'optimizer', [keras.optimizers.SGD, _MOMENTUM, _ADAM, _SCALED]
)
def test_state_of_the_optimizer_is_restored(optimizer, tmp_path):
  model = _vector_model(optimizer(), seed=1)
  model.fit(_VECTORS, batch_size=4, verbose=0)
  tfp_realnvp.Checkpoints(model, tmp_path).save()
  restored = _vector_model(optimizer(), seed=2)
  tfp_realnvp.Checkpoints(restored, tmp_path).restore()
  for found, expected in zip(_everything(restored), _everything(model)):
    np.testing.assert_array_equal(found, expected)


def test_checkpoint_without_description_is_refused(tmp_path):
  # As earlier versions wrote it.
  model = _vector_model()
  tf.train.Checkpoint(
    distribution=model.distribution, optimizer=model.optimizer
  ).write(str(tmp_path / 'ckpt-6'))
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  _assert_refused(checkpoints, model, 'ckpt-6 was written by an earlier versi')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['run[1]', 'run?*', 'a\\b', '[a/b]/[c]'])
def test_directory_may_have_any_name(name, tmp_path):
  directory = tmp_path / name
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(
    model, directory, every=2, max_to_keep=1
  )
  model.fit(
    _VECTORS, batch_size=2, shuffle=False, verbose=0, callbacks=[checkpoints]
  )
  assert {path.name for path in directory.iterdir()} == {
    'checkpoint',
    'ckpt-4.index',
    'ckpt-4.data-00000-of-00001',
  }
  restored = _vector_model(seed=2)
  checkpoints = tfp_realnvp.Checkpoints(restored, directory)
  # The epoch goes on with the metrics of the checkpoint.
  assert checkpoints.restore(epoch_steps=8) == str(directory / 'ckpt-4')
  assert _everything(restored)[0].any()
  for found, expected in zip(_everything(restored), _everything(model)):
    np.testing.assert_array_equal(found, expected)
  losses = [
    m.fit(_VECTORS, batch_size=2, shuffle=False, verbose=0, callbacks=[c])
    for m, c in [(restored, checkpoints)]
  ]
  assert np.isfinite(losses[0].history['loss'])


def test_damage_is_still_found_in_a_directory_with_brackets(tmp_path, caplog):
  directory = tmp_path / '[run]'
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(model, directory)
  checkpoints.save()
  model.step.assign(1)
  checkpoints.save()
  _flip(directory / 'ckpt-1.data-00000-of-00001', -100)
  assert checkpoints.restore() == str(directory / 'ckpt-0')
  assert f'{directory}/ckpt-1 is damaged' in caplog.text


@pytest.mark.slow
def test_seeds_drawn_at_random_are_restored(tmp_path):
  model = _vector_model(noise_seed=None)
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  checkpoints.save()
  resumed = _vector_model(noise_seed=None)
  # What `fit` has been traced with may not matter.
  resumed.fit(_VECTORS, batch_size=8, verbose=0)
  tfp_realnvp.Checkpoints(resumed, tmp_path).restore()
  for m in (model, resumed):
    m.fit(_VECTORS, batch_size=4, shuffle=False, verbose=0)
    m.reestimate_statistics(_VECTORS, batch_size=4)
  for found, expected in zip(_everything(resumed), _everything(model)):
    np.testing.assert_array_equal(found, expected)
  losses = [m.evaluate(_VECTORS, verbose=0) for m in (model, resumed)]
  np.testing.assert_array_equal(*losses)


def test_a_seed_that_is_given_has_precedence_over_the_saved_one(tmp_path):
  tfp_realnvp.Checkpoints(_vector_model(noise_seed=0), tmp_path).save()
  model = _vector_model(noise_seed=1)
  tfp_realnvp.Checkpoints(model, tmp_path).restore()
  np.testing.assert_array_equal(
    model.state.seeds, _vector_model(noise_seed=1).state.seeds
  )


class _Change(keras.callbacks.Callback):
  """Halves the learning rate after every step."""

  def on_train_batch_end(self, batch, logs=None):
    optimizer = self.model.optimizer
    optimizer.learning_rate = 0.5 * float(optimizer.learning_rate.numpy())


@pytest.mark.slow
def test_learning_rate_that_a_callback_changed_is_restored(tmp_path):
  models = []
  for _ in range(2):
    models.append(_vector_model(_ADAM()))
    checkpoints = tfp_realnvp.Checkpoints(models[-1], tmp_path)
    checkpoints.restore()
    models[-1].fit(
      _VECTORS, batch_size=2, verbose=0, callbacks=[checkpoints, _Change()]
    )
    checkpoints.save()
  rates = [model.optimizer.learning_rate.numpy() for model in models]
  np.testing.assert_allclose(rates, [1e-2 * 0.5**4, 1e-2 * 0.5**8], rtol=1e-6)


@pytest.mark.slow
def test_learning_rate_survives_going_back_within_a_run(tmp_path):
  model = _vector_model(_ADAM())
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  model.fit(_VECTORS, batch_size=4, verbose=0)
  checkpoints.save()
  model.fit(_VECTORS, batch_size=4, verbose=0, callbacks=[_Change()])
  checkpoints.restore()
  assert model.optimizer.learning_rate.numpy() == np.float32(1e-2)
  model.fit(_VECTORS, batch_size=4, verbose=0, callbacks=[_Change()])
  checkpoints.save()
  restarted = _vector_model(_ADAM())
  tfp_realnvp.Checkpoints(restarted, tmp_path).restore()
  assert restarted.optimizer.learning_rate.numpy() == np.float32(1e-2 / 4)


@pytest.mark.parametrize('scaled', [False, True])
def test_learning_rate_compiled_with_now_is_used(scaled, tmp_path, caplog):
  def model(rate):
    optimizer = keras.optimizers.Adam(rate)
    if scaled:
      optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return _vector_model(optimizer)

  tfp_realnvp.Checkpoints(model(1e-2), tmp_path).save()
  other = model(1e-3)
  with caplog.at_level('WARNING', logger='absl'):
    tfp_realnvp.Checkpoints(other, tmp_path).restore()
  assert other.optimizer.learning_rate.numpy() == np.float32(1e-3)
  assert re.search(r'rates \[0.0(09|10).*; going on with \[0.001', caplog.text)


@pytest.mark.slow
def test_schedule_goes_on_from_the_iterations_that_are_restored(tmp_path):
  schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 1, 0.5)
  model = _vector_model(keras.optimizers.Adam(1e-2))
  model.fit(_VECTORS, batch_size=2, verbose=0)
  tfp_realnvp.Checkpoints(model, tmp_path).save()
  scheduled = _vector_model(keras.optimizers.Adam(schedule))
  tfp_realnvp.Checkpoints(scheduled, tmp_path).restore()
  np.testing.assert_allclose(
    scheduled.optimizer.learning_rate, 1e-2 * 0.5**4, rtol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize('steps_per_epoch', [3, None])
def test_checkpoint_at_the_end_of_fit_holds_averaged_weights(
  steps_per_epoch, tmp_path
):
  optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
  model = _vector_model(optimizer)
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path, every=3)
  data = tf.data.Dataset.from_tensor_slices(_VECTORS).batch(2).take(3)
  if not steps_per_epoch:  # Keras does not know where the epoch ends.
    data = data.filter(lambda x: True)
    warns = pytest.warns(UserWarning, match='ran out of data')
  else:
    warns = contextlib.nullcontext()
  with warns:
    model.fit(
      data, steps_per_epoch=steps_per_epoch, verbose=0, callbacks=[checkpoints]
    )
  optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
  restored = _vector_model(optimizer, seed=2)
  path = tfp_realnvp.Checkpoints(restored, tmp_path).restore()
  # Where the end is known, weights before averaging are not saved at all.
  assert path.endswith('ckpt-3' if steps_per_epoch else 'ckpt-3-1')
  state = _everything(model)
  model.fit(_VECTORS, batch_size=8, verbose=0, callbacks=[checkpoints])
  assert not list(tmp_path.glob('ckpt-4*'))
  for found, expected in zip(_everything(restored), state):
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_several_steps_per_execution_are_saved_at_every_multiple(tmp_path):
  model = _vector_model()
  model.compile(_ADAM(), steps_per_execution=3)
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path, every=10)
  data = tf.data.Dataset.from_tensor_slices(_VECTORS).batch(8).repeat(24)
  model.fit(data, verbose=0, callbacks=[checkpoints])
  assert _names(tmp_path) == {'ckpt-12', 'ckpt-21'}


@pytest.mark.slow
def test_weights_that_changed_while_the_step_did_not_are_saved(tmp_path):
  model = _vector_model()
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path, max_to_keep=2)
  model.fit(_VECTORS, batch_size=4, verbose=0)
  checkpoints.save()
  checkpoints.save()
  model.evaluate(_VECTORS, verbose=0)
  checkpoints.save()
  assert _names(tmp_path) == {'ckpt-2'}
  for change in (
    lambda: model.trainable_variables[0].assign_add(
      tf.ones_like(model.trainable_variables[0])
    ),
    lambda: model.reestimate_statistics(_VECTORS),
  ):
    change()
    checkpoints.save()
    checkpoints.save()
    restored = _vector_model(seed=2)
    path = tfp_realnvp.Checkpoints(restored, tmp_path).restore()
    for found, expected in zip(_everything(restored), _everything(model)):
      np.testing.assert_array_equal(found, expected)
  assert path == tf.train.latest_checkpoint(tmp_path)
  assert path.endswith('ckpt-2-2')
  assert _names(tmp_path) == {'ckpt-2-1', 'ckpt-2-2'}
  model.fit(_VECTORS, batch_size=8, verbose=0)
  checkpoints.save()
  assert _names(tmp_path) == {'ckpt-2-2', 'ckpt-3'}
  path = tfp_realnvp.Checkpoints(_vector_model(), tmp_path).restore()
  assert path.endswith('ckpt-3')


def test_a_checkpoint_that_was_removed_is_written_again(tmp_path):
  checkpoints = tfp_realnvp.Checkpoints(_vector_model(), tmp_path)
  checkpoints.save()
  for path in tmp_path.glob('ckpt-0*'):
    path.unlink()
  checkpoints.save()
  assert _names(tmp_path) == {'ckpt-0'}


def test_steps_are_batches_where_their_number_is_not_known(tmp_path):
  data = tf.data.Dataset.from_tensor_slices(_VECTORS).batch(2)
  model = _vector_model()
  with pytest.warns(UserWarning, match='ran out of data'):
    model.fit(data.filter(lambda x: True), epochs=3, verbose=0)
  assert model.step == model.optimizer.iterations == 12


def test_model_compiled_again_is_saved_with_its_optimizer(tmp_path):
  model = _vector_model(_ADAM())
  checkpoints = tfp_realnvp.Checkpoints(model, tmp_path)
  checkpoints.save()
  model.compile(_MOMENTUM())
  model.fit(_VECTORS, batch_size=4, verbose=0, callbacks=[checkpoints])
  checkpoints.save()
  restored = _vector_model(_MOMENTUM())
  tfp_realnvp.Checkpoints(restored, tmp_path).restore()
  for found, expected in zip(_everything(restored), _everything(model)):
    np.testing.assert_array_equal(found, expected)


def test_another_model_than_that_of_the_checkpoints_cannot_be_fitted(tmp_path):
  checkpoints = tfp_realnvp.Checkpoints(_vector_model(), tmp_path)
  with pytest.raises(ValueError, match='is a callback of another one'):
    _vector_model().fit(_VECTORS, verbose=0, callbacks=[checkpoints])


class _Stop(keras.callbacks.Callback):
  def on_train_batch_end(self, batch, logs=None):
    if self.model.step == 6:
      raise KeyboardInterrupt


@pytest.mark.slow
def test_backup_and_restore_of_keras_keeps_the_step(tmp_path):
  """Otherwise the noise of the first steps would be drawn again."""

  def fit(model, *callbacks):
    backup = keras.callbacks.BackupAndRestore(tmp_path / 'backup')
    model.fit(
      _VECTORS,
      batch_size=2,
      epochs=3,
      shuffle=False,
      verbose=0,
      callbacks=[backup, *callbacks],
    )

  undisturbed, killed, stopped = (_vector_model(seed=i) for i in (1, 1, 2))
  fit(undisturbed)
  with pytest.raises(KeyboardInterrupt):
    fit(killed, _Stop())
  fit(stopped)
  assert stopped.step == undisturbed.step == 12
  for found, expected in zip(_state(stopped), _state(undisturbed)):
    np.testing.assert_array_equal(found, expected)


def test_weights_of_earlier_versions_leave_the_step_as_it_is():
  model = _vector_model()
  store = {}
  model.save_own_variables(store)
  assert store.pop('step') == 0
  model.step.assign(3)
  model.load_own_variables(store)
  assert model.step == 3


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


@pytest.mark.slow
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
    tfp_realnvp.Checkpoints(_vector_model(), tmp_path, every=0)
  with pytest.raises(
    ValueError, match='`max_to_keep` must be an int of at least 1, got 0'
  ):
    tfp_realnvp.Checkpoints(_vector_model(), tmp_path, max_to_keep=0)
  model = tfp_realnvp.DensityEstimator(_vector_model().distribution)
  with pytest.raises(ValueError, match='`model` must be compiled, got <Dens'):
    tfp_realnvp.Checkpoints(model, tmp_path)
