import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import mask as mask_lib

tfb = tfp.bijectors
tfd = tfp.distributions


def _double_and_log2(kept):
  """Shift by twice what is kept, scale by two."""
  return 2 * kept, tf.fill(tf.shape(kept), np.log(2.0).astype(np.float32))


def test_equation_7_by_hand():
  coupling = affine_coupling.AffineCoupling(_double_and_log2, [True, False])
  y, fldj = coupling.forward_and_log_det(tf.constant([[3.0, 5.0]]))
  np.testing.assert_allclose(y, [[3.0, 5.0 * 2 + 2 * 3.0]])
  np.testing.assert_allclose(fldj, [np.log(2.0)], rtol=1e-6)


def test_equation_9_by_hand():
  seen = []

  def network(kept):
    seen.append(kept)
    # Shift each pixel by the sum of what is kept.
    total = tf.reduce_sum(kept, [1, 2], keepdims=True)
    return tf.zeros_like(kept) + total, tf.ones_like(kept)

  coupling = affine_coupling.AffineCoupling(network, mask_lib.checkerboard_mask)
  x = tf.reshape(tf.constant([1.0, 2.0, 3.0, 4.0]), [1, 2, 2, 1])
  y, fldj = coupling.forward_and_log_det(x)
  np.testing.assert_array_equal(seen[0][..., 0], [[[0.0, 2.0], [3.0, 0.0]]])
  expected = [[[np.e * 1 + 5, 2.0], [3.0, np.e * 4 + 5]]]
  np.testing.assert_allclose(y[..., 0], expected, rtol=1e-6)
  np.testing.assert_allclose(fldj, [2.0])


def test_a_network_may_return_one_tensor():
  coupling = affine_coupling.AffineCoupling(
    lambda kept: tf.concat([kept, tf.zeros_like(kept)], -1), [False, True]
  )
  np.testing.assert_array_equal(
    coupling.forward(tf.constant([[1.0, 2.0]])), [[3.0, 2.0]]
  )


def _keras_model(built):
  layers = [keras.layers.Dense(8, 'tanh'), keras.layers.Dense(2)]
  if built:
    layers.insert(0, keras.Input([1]))
  return keras.Sequential(layers)


@pytest.mark.parametrize('built', [True, False])
def test_variables_of_a_keras_model_count(built, tmp_path):
  model = _keras_model(built)
  coupling = affine_coupling.AffineCoupling(model, [True, False])
  dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)), tfb.Invert(coupling)
  )
  x = tf.random.stateless_normal([5, 2], [0, 1])
  if not built:
    dist.log_prob(x)
  assert len(model.trainable_variables) == 4
  expected = {v.value.ref() for v in model.trainable_variables}
  assert {v.ref() for v in coupling.trainable_variables} == expected
  assert {v.ref() for v in dist.trainable_variables} == expected
  estimator = tfp_realnvp.DensityEstimator(dist, num_levels=None)
  assert {v.ref() for v in estimator.trainable_variables} == expected
  with tf.GradientTape() as tape:
    loss = -tf.reduce_mean(dist.log_prob(x))
  gradients = tape.gradient(loss, dist.trainable_variables)
  assert all(np.any(g != 0) for g in gradients)

  path = tf.train.Checkpoint(dist).save(str(tmp_path / 'ckpt'))
  other = affine_coupling.AffineCoupling(_keras_model(True), [True, False])
  other_dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)), tfb.Invert(other)
  )
  restored = tf.train.Checkpoint(other_dist).restore(path)
  restored.assert_existing_objects_matched()
  np.testing.assert_array_equal(other_dist.log_prob(x), dist.log_prob(x))


def test_a_keras_model_of_images_is_inverted():
  model = keras.Sequential(
    [keras.Input([None, None, 1]), keras.layers.Conv2D(2, 3, padding='same')]
  )
  coupling = affine_coupling.AffineCoupling(model, mask_lib.checkerboard_mask)
  x = tf.random.stateless_normal([2, 3, 4, 4, 1], [0, 1])
  y = coupling.forward(x)
  np.testing.assert_allclose(coupling.inverse(tf.identity(y)), x, atol=1e-5)
  assert np.abs(y - x).max() > 0.01
