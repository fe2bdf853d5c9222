import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import conditioner

tfb = tfp.bijectors
tfd = tfp.distributions


def _keras_network(num_layers=1):
  hidden = [keras.layers.Dense(8, activation='relu') for _ in range(num_layers)]
  return keras.Sequential([keras.Input([1]), *hidden, keras.layers.Dense(2)])


class _Hiding(tf.Module):
  """Holds a Keras layer, whose variables a `tf.Module` does not see."""

  def __init__(self):
    self.layer = _keras_network()

  def __call__(self, x):
    return self.layer(x)


@pytest.mark.parametrize('wrap', [lambda f: f, tf.function])
@pytest.mark.parametrize('training', [False, True])
def test_hidden_variables_are_an_error_at_the_first_call(training, wrap):
  network = _keras_network()
  for hiding in (lambda x: tf.split(network(x), 2, axis=-1), _Hiding()):
    coupling = affine_coupling.AffineCoupling(hiding, [True, False])
    call = wrap(lambda x, c=coupling: c.forward(x, training=training))
    for _ in range(2):
      with pytest.raises(ValueError, match=r'kernel.*bias.*cannot be found'):
        call(tf.ones([3, 2]))
  # Shown, or used without a variable, it is as good as any.
  for shown in (network, lambda x: (x, x), lambda x: tf.ones([3, 2])):
    coupling = affine_coupling.AffineCoupling(shown, [True, False])
    wrap(coupling.forward)(tf.ones([3, 2]))


@pytest.mark.parametrize(
  'copy_of', [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_a_deep_copy_has_the_variables_of_its_own_network(copy_of):
  coupling = affine_coupling.AffineCoupling(_keras_network(), [True, False])
  other = copy_of(coupling)
  own = {id(v.value) for v in other.shift_and_log_scale_fn.variables}
  assert {id(v) for v in other.trainable_variables} == own
  assert not own & {id(v) for v in coupling.variables}
  x = tf.ones([3, 2])
  before = other.forward(x)
  other.trainable_variables[0].assign_add(
    tf.ones_like(other.trainable_variables[0])
  )
  assert np.abs(other.forward(tf.identity(x)) - before).max() > 1e-3


def test_what_keras_froze_is_not_trainable():
  network = _keras_network(2)
  coupling = affine_coupling.AffineCoupling(network, [True, False])
  dist = tfd.TransformedDistribution(
    tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Invert(coupling)
  )
  kernels = [layer.kernel.value for layer in network.layers]
  trainable = lambda: {v.ref() for v in dist.trainable_variables}
  assert len(trainable()) == 6
  network.layers[1].trainable = False
  assert len(trainable()) == 4
  assert kernels[1].ref() not in trainable()
  assert len(dist.variables) == 6
  network.layers[1].trainable = True
  assert len(trainable()) == 6
  network.trainable = False
  assert not trainable()


def test_a_network_with_any_keyword_arguments_is_given_both():
  seen = []

  def network(x, **kwargs):
    seen.append(kwargs)
    return x, x

  coupling = affine_coupling.AffineCoupling(network, [True, False])
  coupling.forward(tf.ones([3, 2]), training=True, condition=np.ones([4]))
  assert seen[0]['training'] is True
  np.testing.assert_array_equal(seen[0]['condition'], np.ones([3, 4]))


@pytest.mark.parametrize('as_tensor', [np.array, tf.constant])
def test_condition_is_broadcast_to_the_batch(as_tensor):
  x = tf.zeros([3, 4, 5])
  condition = as_tensor([1.0, 2.0])
  result = conditioner.broadcast_condition(condition, x, event_ndims=1)
  assert result.dtype == tf.float32
  np.testing.assert_array_equal(result, np.broadcast_to([1, 2], [3, 4, 2]))
  assert conditioner.broadcast_condition(result, x, event_ndims=1) is result
  with pytest.raises(ValueError, match=r'`condition` must have shape \[..., K'):
    conditioner.broadcast_condition(np.ones([2, 2]), x, event_ndims=1)


@pytest.mark.slow
def test_keras_and_functions_serve_as_networks_of_a_chain():
  def convolutional(spec):
    assert spec.mask is not None or spec.level == 1
    return keras.Sequential(
      [
        keras.Input([None, None, spec.in_channels]),
        keras.layers.Conv2D(4, 3, padding='same', activation='relu'),
        keras.layers.Conv2D(2 * spec.out_channels, 1),
      ]
    )

  def plain(spec):
    return lambda x: (
      tf.ones_like(x[..., :1]) * tf.ones([spec.out_channels]),
      tf.zeros_like(x[..., :1]) * tf.ones([spec.out_channels]),
    )

  images = np.random.default_rng(0).integers(90, 140, [40, 4, 4, 1])
  for networks in (convolutional, plain):
    flow = tfp_realnvp.RealNVPChain((4, 4, 1), num_scales=2, networks=networks)
    dist = tfd.TransformedDistribution(
      flow_testing.isotropic_normal((4, 4, 1)), flow
    )
    if networks is plain:
      assert not flow.trainable_variables
      assert np.isfinite(dist.log_prob(images.astype('f'))).all()
      continue
    model = tfp_realnvp.DensityEstimator(dist, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    before = [v.numpy() for v in model.trainable_variables]
    assert len(before) == 10 * 4
    history = model.fit(images, epochs=4, batch_size=20, verbose=0).history
    assert history['loss'][-1] < history['loss'][0]
    moved = [
      np.any(v.numpy() != b) for v, b in zip(model.trainable_variables, before)
    ]
    assert all(moved)
