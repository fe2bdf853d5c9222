import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import estimator_testing
from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.training import density_estimator

tfb = tfp.bijectors
tfd = tfp.distributions


def test_class_weights_count():
  model = estimator_testing.vector_estimator(
    tf.float64, condition_size=2, batch_norm=False
  )
  x, condition = estimator_testing.vectors(), np.eye(2)[np.arange(40) % 2]
  weights = np.where(condition[:, 1] == 1, 3.0, 1.0)
  expected = model.evaluate(
    x, condition, sample_weight=weights, verbose=0, return_dict=True
  )
  history = model.fit(
    x, condition, class_weight={0: 1.0, 1: 3.0}, batch_size=40, verbose=0
  ).history
  np.testing.assert_allclose(history['loss'], expected['loss'], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [tf.float64, tf.float32])
def test_arrays_reach_the_distribution_in_its_precision(dtype):
  model = estimator_testing.vector_estimator(
    dtype, condition_size=1, batch_norm=False
  )
  # Far out, where float32 is coarse.
  far = tf.constant(2.0**30, dtype)
  dist = tfd.TransformedDistribution(model.distribution, tfb.Shift(far))
  model = density_estimator.DensityEstimator(dist, num_levels=None)
  model.compile(keras.optimizers.SGD(1e-3))
  x = estimator_testing.vectors() + 2.0**30
  condition = 0.1 + estimator_testing.vectors()[:, :1]
  x, condition = (a.astype(dtype.as_numpy_dtype) for a in (x, condition))
  kwargs = {
    'distribution_kwargs': {'bijector_kwargs': {'condition': condition}}
  }
  expected = dist.log_prob(x, **kwargs)
  loss = -np.mean(expected)
  tolerance = 1e-10 if dtype == tf.float64 else 1e-5
  for found in (
    model.evaluate(x, condition, verbose=0, return_dict=True)['loss'],
    model.test_on_batch(x, condition, return_dict=True)['loss'],
    model.fit(x, condition, batch_size=40, verbose=0).history['loss'][0],
  ):
    np.testing.assert_allclose(found, loss, rtol=tolerance)
  assert keras.config.floatx() == 'float32'


@pytest.mark.parametrize(
  'call', ['predict', 'predict_on_batch', 'train_on_batch']
)
def test_float64_arrays_are_not_rounded(call):
  model = estimator_testing.vector_estimator(tf.float64)
  x = estimator_testing.vectors()
  expected = model.distribution.log_prob(x)
  kwargs = {'verbose': 0} if call == 'predict' else {}
  if call == 'train_on_batch':
    expected = -np.mean(
      model.distribution.log_prob(x, bijector_kwargs={'training': True})
    )
  got = getattr(model, call)(x, **kwargs)
  got = got[0] if call == 'train_on_batch' else got
  np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_frozen_model_is_not_trained():
  model = estimator_testing.vector_estimator()
  x = estimator_testing.vectors()
  model.fit(x, verbose=0)
  before = [v.numpy() for v in model.variables]
  model.trainable = False
  assert model.trainable_variables == []
  assert len(model.non_trainable_variables) == len(before)
  for train in (model.fit, model.train_on_batch):
    with pytest.raises(ValueError, match='`trainable` is False'):
      train(x)
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable, value)
  model.evaluate(x, verbose=0)
  model.trainable = True
  model.fit(x, verbose=0)
  assert any(np.any(v != b) for v, b in zip(model.variables, before))


def _keras_coupling():
  network = keras.Sequential(
    [keras.Input([1]), keras.layers.Dense(8, 'tanh'), keras.layers.Dense(2)]
  )
  return tfp_realnvp.AffineCoupling(network, [True, False])


def _of_coupling(coupling):
  model = density_estimator.DensityEstimator(
    tfd.TransformedDistribution(
      flow_testing.isotropic_normal((2,)), tfb.Invert(coupling)
    ),
    num_levels=None,
  )
  model.compile(keras.optimizers.Adam(1e-2))
  return model


def test_frozen_layers_of_keras_networks_are_not_trained():
  coupling = _keras_coupling()
  first, second = coupling.shift_and_log_scale_fn.layers
  first.trainable = False
  model = _of_coupling(coupling)
  before = first.kernel.numpy(), second.kernel.numpy()
  model.fit(estimator_testing.vectors(), verbose=0)
  np.testing.assert_array_equal(first.kernel, before[0])
  assert np.any(second.kernel != before[1])
  # Also what is frozen after training has begun.
  second.trainable = False
  with pytest.raises(ValueError, match='has no trainable variables'):
    model.fit(estimator_testing.vectors(), verbose=0)
  first.trainable = second.trainable = True
  with pytest.raises(ValueError, match='[Uu]nknown variable'):
    model.fit(estimator_testing.vectors(), verbose=0)
  model.compile(keras.optimizers.Adam(1e-2))
  model.fit(estimator_testing.vectors(), verbose=0)
  assert np.any(first.kernel != before[0])


@pytest.mark.slow
def test_a_deep_copy_of_a_keras_network_learns_as_the_network_does():
  coupling = _keras_coupling()
  x = 2 * estimator_testing.vectors() + 5
  losses = [
    _of_coupling(each)
    .fit(x, epochs=3, shuffle=False, verbose=0)
    .history['loss']
    for each in (copy.deepcopy(coupling), coupling)
  ]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
  assert losses[0][2] < losses[0][0]


def test_a_network_that_is_not_built_is_an_error():
  network = keras.Sequential([keras.layers.Dense(2)])
  coupling = tfp_realnvp.AffineCoupling(network, [True, False])
  with pytest.raises(ValueError, match='has no variables yet: build'):
    _of_coupling(coupling)
  coupling.forward(tf.ones([1, 2]))
  _of_coupling(coupling).fit(estimator_testing.vectors(), verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['Adafactor', 'Lion', 'Muon', 'Nadam', 'RMSprop', 'SGD']
)
def test_optimizers_of_keras(name):
  if not hasattr(keras.optimizers, name):
    pytest.skip(f'Keras {keras.__version__} has no {name}')
  model = estimator_testing.vector_estimator(compiled=False)
  model.compile(getattr(keras.optimizers, name)(1e-2))
  history = model.fit(
    2 + estimator_testing.vectors(), epochs=3, verbose=0
  ).history
  assert history['loss'][-1] < history['loss'][0]


def test_what_cannot_be_saved_says_what_can(tmp_path):
  model = estimator_testing.vector_estimator()
  callback = keras.callbacks.ModelCheckpoint(str(tmp_path / 'model.keras'))
  for save in (
    lambda: model.save(tmp_path / 'model.keras'),
    lambda: keras.models.clone_model(model),
    lambda: model.fit(
      estimator_testing.vectors(), verbose=0, callbacks=[callback]
    ),
    lambda: model.export(tmp_path / 'export'),
  ):
    with pytest.raises(
      NotImplementedError, match='`tfp_realnvp.export_saved_m'
    ):
      save()


@pytest.mark.parametrize(
  'name', ['loss_weights', 'metrics', 'weighted_metrics', 'loss']
)
def test_losses_and_metrics_cannot_be_chosen(name):
  with pytest.raises(ValueError, match=f"`{name}` cannot be chosen.*'mae'"):
    estimator_testing.vector_estimator(compiled=False).compile(
      **{name: ['mae']}
    )
