import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp.bijectors import squeeze


def _image():
  """Two channels; the value says channel, row and column: 100 c + 10 y + x."""
  return np.fromfunction(lambda y, x, c: 100 * c + 10 * y + x, [4, 4, 2])


def test_ordinary_order_is_channel_major():
  y = squeeze.Squeeze(dtype=tf.float64).forward(_image())
  np.testing.assert_array_equal(y[1, 0], [20, 21, 30, 31, 120, 121, 130, 131])


def test_checkerboard_order_is_pixel_major():
  y = squeeze.Squeeze(order='checkerboard', dtype=tf.float64).forward(_image())
  np.testing.assert_array_equal(y[1, 0], [20, 120, 31, 131, 21, 121, 30, 130])


def test_checkerboard_order_of_larger_blocks_puts_even_sums_first():
  x = np.arange(9.0).reshape(3, 3, 1)
  y = squeeze.Squeeze(3, 'checkerboard', dtype=tf.float64).forward(x)
  np.testing.assert_array_equal(y, [[[0, 2, 4, 6, 8, 1, 3, 5, 7]]])


def test_figure_3():
  x = tf.reshape(tf.range(1.0, 17.0), [4, 4, 1])
  np.testing.assert_array_equal(
    squeeze.Squeeze().forward(x),
    [[[1, 2, 5, 6], [3, 4, 7, 8]], [[9, 10, 13, 14], [11, 12, 15, 16]]],
  )


@pytest.mark.parametrize('order', ['ordinary', 'checkerboard'])
def test_log_det_has_the_shape_of_the_batch(order):
  bijector = squeeze.Squeeze(order=order)
  _, fldj = bijector.forward_and_log_det(tf.ones([5, 7, 2, 2, 1]))
  np.testing.assert_array_equal(fldj, np.zeros([5, 7]))


def test_partly_unknown_event_shapes():
  bijector = squeeze.Squeeze()
  assert bijector.forward_event_shape([None, 6, 3]).as_list() == [None, 3, 12]
  assert bijector.inverse_event_shape([None, 3, 12]).as_list() == [None, 6, 3]


def test_validate_args_finds_odd_sizes_at_run_time():
  bijector = squeeze.Squeeze(validate_args=True)
  forward = tf.function(
    bijector.forward, input_signature=[tf.TensorSpec([None, None, None, 1])]
  )
  assert forward(tf.ones([1, 4, 2, 1])).shape == [1, 2, 1, 4]
  with pytest.raises(tf.errors.InvalidArgumentError, match='`block_size` 2'):
    forward(tf.ones([1, 5, 4, 1]))


def test_block_size_may_be_of_numpy():
  assert squeeze.Squeeze(np.int64(2)).block_size == 2
