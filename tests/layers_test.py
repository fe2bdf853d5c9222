import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.networks import layers

tfb = tfp.bijectors
tfd = tfp.distributions


@pytest.mark.parametrize('lagged', [False, True])
@pytest.mark.parametrize(
  'dtype, tolerance', [(tf.float32, 1e-4), (tf.float64, 1e-9)]
)
def test_batch_norm_normalizes(lagged, dtype, tolerance):
  x = np.random.default_rng(0).normal(3, 2, [4, 5, 6, 3])
  batch = x.mean((0, 1, 2)), x.var((0, 1, 2))
  moving = [np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]), 0.25]
  offset = np.array([1.0, -2.0, 3.0])
  blended = [0.75 * m + 0.25 * b for m, b in zip(moving, batch)]
  for training in (True, False):
    norm = [tf.constant(value, dtype) for value in (offset, *moving)]
    y, statistics = layers.batch_norm(
      tf.constant(x, dtype), layers.Norm(*norm), training, lagged
    )
    if training:
      np.testing.assert_allclose(statistics, batch, rtol=tolerance)
    mean, variance = (blended if lagged else batch) if training else moving[:2]
    expected = (x - mean) / np.sqrt(variance + 1e-4) + offset
    np.testing.assert_allclose(y, expected, atol=tolerance)


@pytest.mark.parametrize('size', [1, 3])
def test_periodic_convolution_by_hand(size):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=[1, 4, 5, 2]), rng.normal(size=[size, size, 2, 3])
  expected, reach = 0, size // 2
  for dy in range(size):
    for dx in range(size):
      moved = np.roll(x, [reach - dy, reach - dx], axis=[1, 2])
      expected = expected + moved @ kernel[dy, dx]
  y = layers.convolve(tf.constant(x), tf.constant(kernel), 'periodic')
  np.testing.assert_allclose(y, expected, atol=1e-12)


def test_weight_normalization_by_hand():
  kernel = tf.reshape(tf.constant([3.0, 1.0, 4.0, 0.0]), [1, 1, 2, 2])
  normalized = layers.normalized(kernel, tf.constant([2.0, 3.0]))
  np.testing.assert_allclose(
    normalized[0, 0], [[1.2, 3.0], [1.6, 0.0]], rtol=1e-6
  )
