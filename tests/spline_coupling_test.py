import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfd = tfp.distributions


def _coupling(values, **kwargs):
  """Returns a coupling whose network returns the same `values` for all rows."""
  values = tf.constant(values, tf.float64)
  network = lambda kept: tf.tile(values[tf.newaxis], [len(kept), 1])
  return tfp_realnvp.SplineCoupling(
    network, [True, False], num_bins=2, dtype=tf.float64, **kwargs
  )


def _raw(logarithm):
  """What the network must return for a logarithm: its bound is 3."""
  return logarithm / (1 - np.abs(logarithm) / 3)


def test_spline_by_hand():
  # Bins [-2, -1] and [-1, 2] become [-2, 1] and [1, 2]. The slope between them
  # is 2, and 1 at the ends.
  raw = _raw(np.log([1 / 3, 1, 3, 1, 2]))
  coupling = _coupling(raw, bound=2)
  x = np.array([[0.3, -1.5], [0.3, -1.0], [0.3, 0.5], [0.3, 3.0], [0.3, -9.0]])
  y, fldj = coupling.forward_and_log_det(x)

  def piece(t, width, height, low, left, right):
    """Equations 4 and 5 of Durkan et al."""
    s = height / width
    bottom = s + (left + right - 2 * s) * t * (1 - t)
    value = low + height * (s * t**2 + left * t * (1 - t)) / bottom
    top = s**2 * (right * t**2 + 2 * s * t * (1 - t) + left * (1 - t) ** 2)
    return value, np.log(top / bottom**2)

  expected = [
    piece(0.5, 1, 3, -2, 1, 2),
    (1, np.log(2)),
    piece(0.5, 3, 1, 1, 2, 1),
    (3, 0),
    (-9, 0),
  ]
  values, log_dets = np.transpose(expected)
  np.testing.assert_array_equal(y[:, 0], x[:, 0])
  np.testing.assert_allclose(y[:, 1], values, rtol=1e-12)
  np.testing.assert_allclose(fldj, log_dets, atol=1e-12)
  x_again, ildj = coupling.inverse_and_log_det(tf.identity(y))
  np.testing.assert_allclose(x_again, x, rtol=1e-12)
  np.testing.assert_allclose(ildj, -log_dets, atol=1e-12)


def test_zeros_give_the_identity():
  x = np.random.default_rng(0).normal(size=[100, 2]) * 3
  y, fldj = _coupling(np.zeros(5)).forward_and_log_det(x)
  np.testing.assert_allclose(y, x, rtol=1e-12)
  np.testing.assert_allclose(fldj, 0, atol=1e-12)


def test_numbers_of_a_channel_are_side_by_side():
  # Channel 0 has the slopes of a steep spline, channel 1 is the identity.
  network = lambda kept: tf.constant([[0.0, 0, 0, 0, 5] + [0.0] * 5])
  coupling = tfp_realnvp.SplineCoupling(
    network, [False, False, True], num_bins=2
  )
  y = coupling.forward(tf.constant([[1.0, 1.0, 1.0]]))
  assert y[0, 0] > 1.5
  np.testing.assert_allclose(y[0, 1:], 1.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('is_keras', [False, True])
def test_a_chain_of_splines_learns_two_bumps(is_keras):
  keras.utils.set_random_seed(0)

  def keras_network(spec):
    size = spec.out_channels * spec.params_per_channel
    return keras.Sequential(
      [
        keras.Input([spec.in_channels]),
        keras.layers.Dense(16, activation='relu'),
        keras.layers.Dense(size, kernel_initializer='zeros'),
      ]
    )

  rng = np.random.default_rng(0)
  x = rng.normal(size=[2000, 2]) * 0.2 + rng.choice([-1, 1], [2000, 1])
  flow = tfp_realnvp.RealNVPChain(
    (2,),
    num_couplings=2,
    networks=keras_network if is_keras else None,
    couplings=tfp_realnvp.SplineCouplings(),
  )
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), flow),
    num_levels=None,
    seed=0,
  )
  # With a rate that does not fall, the last loss depends on rounding errors.
  rate = keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=12 * 20)
  model.compile(keras.optimizers.Adam(rate))
  model.fit(x, batch_size=100, epochs=12, verbose=0)
  # The entropy of the two bumps: a bit, and two normals of deviation 0.2.
  entropy = np.log(2) + np.log(2 * np.pi * np.e * 0.2**2)
  loss = model.evaluate(x, verbose=0, return_dict=True)['loss']
  assert loss < entropy + 0.15
