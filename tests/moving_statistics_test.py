import numpy as np
import pytest
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


def test_weighted_moments_are_those_of_repeated_rows():
  x = np.random.default_rng(0).normal(size=[4, 2, 3, 5])
  weights = np.array([2, 0, 1, 3])
  repeated = x.repeat(weights, axis=0)
  expected = repeated.mean((0, 1, 2)), repeated.var((0, 1, 2))
  assert not moving_statistics.is_weighted()
  with moving_statistics.weighted(tf.constant(weights, tf.float64)):
    assert moving_statistics.is_weighted()
    moments = moving_statistics.batch_moments(tf.constant(x))
    # Several rows of a network may belong to one weight.
    merged = moving_statistics.batch_moments(tf.reshape(x, [8, 3, 5]))
    with moving_statistics.weighted(None):
      assert not moving_statistics.is_weighted()
  np.testing.assert_allclose(moments, expected, rtol=1e-12)
  np.testing.assert_allclose(merged, expected, rtol=1e-12)
  np.testing.assert_allclose(
    moving_statistics.batch_moments(tf.constant(x))[0], x.mean((0, 1, 2))
  )


def test_rows_of_no_weight_leave_the_averages_as_they_are():
  statistics = moving_statistics.MovingStatistics(1, 0.5, tf.float64)
  statistics.update(*tf.constant([[3.0], [4.0]], tf.float64))
  for rows in (0, 2):
    with moving_statistics.weighted(tf.zeros([rows], tf.float64)):
      x = tf.ones([rows, 1], tf.float64)
      statistics.update(*moving_statistics.batch_moments(x))
    np.testing.assert_array_equal(statistics.mean, [3.0])
    np.testing.assert_array_equal(statistics.variance, [4.0])


def test_no_update_where_no_batch_is_left():
  statistics = moving_statistics.MovingStatistics(1)

  @tf.function
  def step(iterator):
    statistics.update(*moving_statistics.batch_moments(next(iterator)))

  iterator = iter(tf.data.Dataset.from_tensors(tf.ones([2, 1])))
  step(iterator)
  with pytest.raises(tf.errors.OutOfRangeError):
    step(iterator)
  assert statistics.num_updates == 1
