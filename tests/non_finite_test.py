import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import estimator_testing
from tfp_realnvp.training import density_estimator

tfb = tfp.bijectors
tfd = tfp.distributions


def _garbage(kind, count=10):
  if kind == 'uniform':  # Pixels like no image: a step is made.
    return np.random.default_rng(0).uniform(0, 255, [count, 4, 4, 1])
  images = estimator_testing.images(count).astype(np.float32)
  images[1, 2, 3, 0] = {'nan': np.nan, 'beyond': 1e30, 'below': -1.0}[kind]
  return images


@pytest.mark.parametrize(
  'jit_compile', [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  'kind',
  [
    'nan',
    *(pytest.param(k, marks=pytest.mark.slow) for k in ('beyond', 'below')),
  ],
)
def test_batch_of_garbage_changes_nothing_but_the_count(kind, jit_compile):
  model = estimator_testing.image_estimator(compiled=False)
  model.compile(keras.optimizers.Adam(1e-2), jit_compile=jit_compile)
  estimator_testing.fit_batches(model, estimator_testing.images(20))
  state = model.variables + [v.value for v in model.optimizer.variables]
  before = [v.numpy() for v in state]
  history = estimator_testing.fit_batches(model, _garbage(kind))
  assert history['non_finite'] == [10]
  for variable, value in zip(state, before):
    np.testing.assert_array_equal(variable, value)
  assert model.step.numpy() == 3
  # Between others it is left out of the means, too.
  history = estimator_testing.fit_batches(
    model, estimator_testing.images(20), _garbage(kind)
  )
  assert history['non_finite'] == [10]
  assert np.isfinite(history['loss']).all()
  assert model.optimizer.iterations == 4
  assert any(
    np.any(variable.numpy() != value) for variable, value in zip(state, before)
  )


@pytest.mark.slow
def test_batch_of_garbage_leaves_averages_of_weights_as_they_were():
  model = estimator_testing.image_estimator(compiled=False)
  model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
  estimator_testing.fit_batches(model, estimator_testing.images(20))
  averages = model.optimizer._model_variables_moving_average
  before = [v.numpy() for v in averages]
  history = estimator_testing.fit_batches(model, _garbage('nan'))
  assert history['non_finite'] == [10]
  for variable, value in zip(averages, before):
    np.testing.assert_array_equal(variable, value)
  estimator_testing.fit_batches(model, estimator_testing.images(20))
  assert any(np.any(v != value) for v, value in zip(averages, before))


@pytest.mark.slow
def test_scaled_pixels_are_named():
  model = estimator_testing.image_estimator(max_skipped_in_a_row=2)
  x = estimator_testing.images(20) / np.float32(255)
  with pytest.raises(FloatingPointError, match=r'or scaled to \[0, 1\]'):
    model.fit(x, batch_size=10, verbose=0)
  # Nothing was counted: neither 0 bits, the best of all, nor any other number.
  metrics = model.get_metrics_result()
  assert np.isnan(metrics['loss']) and np.isnan(metrics['bits_per_dim'])
  assert metrics['non_finite'] == 20
  for method in (model.evaluate, model.predict):
    with pytest.raises(
      tf.errors.InvalidArgumentError, match=r'not scaled to \[0, 1\]'
    ):
      method(x, verbose=0)
  # Fractions are no fault, and neither are dark images of whole levels.
  dark = np.zeros([10, 4, 4, 1], np.float32)
  dark[0, 0, 0] = 1
  assert np.isfinite(model.predict(dark, verbose=0)).all()
  dark[0, 0, 0] = 1.5
  assert np.isfinite(model.predict(dark, verbose=0)).all()


def test_gradients_that_are_not_finite_are_skipped():
  scale = tf.Variable(1.0)

  class Steep(tfd.Normal):
    def _log_prob(self, value):
      # Finite, with the slope of a square root at 0.
      return -tf.sqrt(tf.abs(self.scale - 1.0)) - value**2

  model = density_estimator.DensityEstimator(
    tfd.Independent(Steep(tf.zeros([2]), scale), 1), num_levels=None
  )
  model.compile(keras.optimizers.SGD(0.1))
  history = model.fit(np.ones([4, 2], np.float32), verbose=0).history
  assert history['non_finite'] == [4]
  assert scale.numpy() == 1


@pytest.mark.slow
def test_training_stops_after_too_many_skipped_in_a_row():
  model = estimator_testing.image_estimator(max_skipped_in_a_row=3)
  garbage = [_garbage('nan')] * 2
  estimator_testing.fit_batches(
    model, *garbage, estimator_testing.images(10), *garbage
  )  # Never three in a row.
  with pytest.raises(FloatingPointError, match='3 batches in a row') as error:
    estimator_testing.fit_batches(
      model, _garbage('nan'), estimator_testing.images(10)
    )
  assert 'outside [0, 256)' in str(error.value)
  assert 'stopped at step 6' in str(error.value)
  assert model.optimizer.iterations == 1
  with pytest.raises(ValueError, match='`max_skipped_in_a_row` .* got 0'):
    estimator_testing.image_estimator(max_skipped_in_a_row=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'optimizer',
  [
    keras.optimizers.Adam(1e-3),
    keras.optimizers.SGD(1e-3),
    keras.optimizers.Adam(1e-3, global_clipnorm=100.0),
    keras.optimizers.SGD(1e-3, clipnorm=1.0),
  ],
  ids=['adam', 'sgd', 'global_clipnorm', 'clipnorm'],
)
def test_a_gradient_whose_square_overflows_is_skipped(optimizer):
  model = estimator_testing.vector_estimator(batch_norm=False, compiled=False)
  model.compile(optimizer)
  x = estimator_testing.vectors()
  x[3] = 1e12
  history = model.fit(x, batch_size=10, shuffle=False, verbose=0).history
  assert history['non_finite'] == [10]
  assert np.isfinite(history['loss']).all()
  for variable in model.variables + [v.value for v in optimizer.variables]:
    assert np.isfinite(variable).all()


@pytest.mark.slow
def test_skipped_batches_are_seen_within_an_execution():
  model = estimator_testing.vector_estimator(compiled=False)
  model._max_skipped_in_a_row = 3
  model.compile(keras.optimizers.SGD(1e-2), steps_per_execution=8)
  x = estimator_testing.vectors(80)
  x[10:45] = np.nan
  with pytest.raises(FloatingPointError, match='3 batches in a row'):
    model.fit(x, batch_size=10, shuffle=False, verbose=0)
  # One step was taken; those after the third batch of NaN were not.
  assert model.optimizer.iterations == 1
  model.fit(
    estimator_testing.vectors(80), batch_size=10, shuffle=False, verbose=0
  )
  assert model.optimizer.iterations == 9
