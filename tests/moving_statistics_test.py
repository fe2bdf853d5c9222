import numpy as np
import tensorflow as tf

from tfp_realnvp.networks import moving_statistics


def test_first_update_leaves_no_trace_of_the_initial_values():
  statistics = moving_statistics.MovingStatistics(2, 0.99, tf.float64)
  np.testing.assert_array_equal(statistics.mean, [0, 0])
  np.testing.assert_array_equal(statistics.variance, [1, 1])
  moved = statistics.update(
    tf.constant([3.0, 4.0], tf.float64), tf.constant([5.0, 6.0], tf.float64)
  )
  np.testing.assert_allclose(moved, [[3, 4], [5, 6]])
  np.testing.assert_allclose(statistics.mean, [3, 4])
  np.testing.assert_allclose(statistics.variance, [5, 6])


def test_in_the_long_run_the_weight_of_the_past_is_the_momentum():
  statistics = moving_statistics.MovingStatistics(1, 0.9, tf.float64)
  statistics.num_updates.assign(1000.0)
  statistics.mean.assign([2.0])
  statistics.variance.assign([4.0])
  one = tf.ones([1], tf.float64)
  mean, variance = statistics.update(one, one)
  np.testing.assert_allclose(mean, [0.9 * 2 + 0.1])
  np.testing.assert_allclose(variance, [0.9 * 4 + 0.1])
  assert statistics.num_updates == 1001


def test_channels_without_finite_statistics_stay_as_they_are():
  statistics = moving_statistics.MovingStatistics(2, 0.5, tf.float64)
  finite = tf.constant([1.0, 2.0], tf.float64)
  statistics.update(finite, finite)
  statistics.update(
    tf.constant([3.0, np.nan], tf.float64),
    tf.constant([np.inf, 3.0], tf.float64),
  )
  np.testing.assert_allclose(statistics.mean, [1 + 2 * 2 / 3, 2])
  np.testing.assert_allclose(statistics.variance, [1, 2 + 2 / 3])


def test_a_device_alone_has_the_whole_batch():
  # Static where the size of the batch is.
  assert moving_statistics.part_of_batch(5) == (0, 5)


def test_no_variable_is_trainable():
  statistics = moving_statistics.MovingStatistics(1)
  assert len(statistics.variables) == 3
  assert not statistics.trainable_variables
