import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import batch_norm

tfd = tfp.distributions
tfb = tfp.bijectors


def _batches(count=4, shape=(5, 2, 3, 2)):
  rng = np.random.default_rng(0)
  return [rng.normal(1, 3, shape) for _ in range(count)]


def test_evaluation_uses_moving_statistics():
  bijector = batch_norm.BatchNormBijector(2, epsilon=1.0, dtype=tf.float64)
  bijector.statistics.mean.assign([1.0, 2.0])
  bijector.statistics.variance.assign([3.0, 8.0])
  y, fldj = bijector.forward_and_log_det(np.array([[5.0, 8.0]]))
  np.testing.assert_allclose(y, [[2.0, 2.0]])
  np.testing.assert_allclose(fldj, [-np.log(2) - np.log(3)])


def test_a_channel_counts_once_for_each_pixel():
  bijector = batch_norm.BatchNormBijector(2, epsilon=1.0, dtype=tf.float64)
  bijector.statistics.variance.assign([3.0, 8.0])
  fldj = bijector.forward_log_det_jacobian(
    np.zeros([1, 4, 5, 2]), event_ndims=3
  )
  np.testing.assert_allclose(fldj, [-20 * np.log(6)])


def test_training_uses_batch_statistics():
  bijector = batch_norm.BatchNormBijector(2, epsilon=0.5, dtype=tf.float64)
  (x,) = _batches(1)
  y, fldj = bijector.forward_and_log_det(x, event_ndims=3, training=True)
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 0.5))
  np.testing.assert_allclose(fldj, [-3 * np.log(variance + 0.5).sum()] * 5)


@pytest.mark.parametrize('lagged', [False, True])
@pytest.mark.parametrize('mode', ['eager', 'graph', 'xla'])
def test_moving_averages_follow_equations_20_and_21(lagged, mode):
  rho, epsilon = 0.8, 0.1
  bijector = batch_norm.BatchNormBijector(
    2, epsilon, momentum=rho, lagged=lagged, dtype=tf.float64
  )

  def forward(x):
    return bijector.forward(x, training=True)

  if mode != 'eager':
    forward = tf.function(forward, jit_compile=mode == 'xla')
  mean = variance = np.zeros(2)  # Of eq. 20 and 21, uncorrected.
  for t, x in enumerate(_batches(), start=1):
    batch_mean, batch_variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    mean = rho * mean + (1 - rho) * batch_mean
    variance = rho * variance + (1 - rho) * batch_variance
    corrected = mean / (1 - rho**t), variance / (1 - rho**t)
    y = forward(tf.constant(x))
    np.testing.assert_allclose(bijector.statistics.mean, corrected[0])
    np.testing.assert_allclose(bijector.statistics.variance, corrected[1])
    used = corrected if lagged else (batch_mean, batch_variance)
    np.testing.assert_allclose(y, (x - used[0]) / np.sqrt(used[1] + epsilon))
  assert bijector.statistics.num_updates == 4


def test_log_det_in_log_prob_carries_the_gradient_of_the_batch_statistics():
  bijector = batch_norm.BatchNormBijector(1, epsilon=1e-9, dtype=tf.float64)
  zero = tf.zeros([], tf.float64)
  dist = tfd.TransformedDistribution(
    tfd.Sample(tfd.Normal(zero, zero + 1), [1]), tfb.Invert(bijector)
  )
  (x,) = _batches(1, (6, 1))

  def log_prob(x):
    lp = dist.log_prob(x, bijector_kwargs={'training': True})
    return tf.reduce_sum(lp)

  # Normalized values do not change when all of x is scaled; the log-det does:
  # by -6 log(scale).
  scale = tf.constant(1.0, tf.float64)
  with tf.GradientTape() as tape:
    tape.watch(scale)
    value = log_prob(x * scale)
  np.testing.assert_allclose(tape.gradient(value, scale), -6, rtol=1e-6)


def test_lagged_gradient_goes_through_the_batch_alone():
  bijector = batch_norm.BatchNormBijector(
    1, epsilon=1e-9, momentum=0.5, lagged=True, dtype=tf.float64
  )
  x = tf.constant([[1.0], [3.0]], tf.float64)
  bijector.forward(x, training=True)
  with tf.GradientTape() as tape:
    tape.watch(x)
    y = bijector.forward(x, training=True)[1]
  # Second update: rho_2 = 1/3, so mean = 1/3 moving + 2/3 batch = 2, and its
  # derivative by either element is 2/3 * 1/2 = 1/3. The variance is 1; its
  # derivative is 2/3 * (x - 2) = -+2/3.
  gradient = tape.gradient(y, x)
  np.testing.assert_allclose(
    gradient, [[-1 / 3 + 1 / 3], [1 - 1 / 3 - 1 / 3]], atol=1e-8
  )


def test_the_same_tensor_twice_moves_the_averages_twice():
  bijector = batch_norm.BatchNormBijector(2)
  x = tf.ones([3, 2])
  first = bijector.forward(x, training=True)
  second = bijector.forward(x, training=True)
  assert bijector.statistics.num_updates == 2
  np.testing.assert_array_equal(first, second)


def test_a_copy_overrides_what_is_its_own_and_refuses_what_it_shares():
  bijector = batch_norm.BatchNormBijector(2, momentum=0.5)
  bijector.statistics.mean.assign([1.0, 2.0])
  copy = bijector.copy(lagged=True, epsilon=0.5)
  assert copy.statistics is bijector.statistics
  assert copy.lagged and copy.epsilon == 0.5
  for name, value in (
    ('momentum', 0.9),
    ('num_channels', 3),
    ('synchronized', True),
    ('dtype', tf.float64),
  ):
    with pytest.raises(
      ValueError, match=f'`{name}` must be that of `statistic'
    ):
      bijector.copy(**{name: value})
