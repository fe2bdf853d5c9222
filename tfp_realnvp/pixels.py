"""Pixels on `[0, num_levels)`: the check of their range, and dequantization."""

import numpy as np
import tensorflow as tf

__all__ = ['assert_on_range', 'dequantize', 'is_on_range']


def is_on_range(x, num_levels):
  """Which elements of `x` are pixels on `[0, num_levels)`; NaN is not."""
  if x.dtype.is_integer and x.dtype.min == 0 and num_levels > x.dtype.max:
    return tf.fill(tf.shape(x), True)
  return (x >= 0) & (x < num_levels)


def assert_on_range(x, num_levels, name='x'):
  """Returns `x`, after a check at run time that it holds pixels.

  Args:
    x: `Tensor`.
    num_levels: `int`, how many values a pixel can take.
    name: What the error calls `x`.

  Raises:
    InvalidArgumentError: If an element is NaN or outside `[0, num_levels)`; not
      in graphs that XLA compiles, which drop the check.
  """
  outside = ~is_on_range(x, num_levels)

  def fail():
    first = tf.argmax(tf.cast(tf.reshape(outside, [-1]), tf.int32))
    message = (
      f'`{name}` must be pixels on [0, {num_levels}), neither NaN nor outside; '
      'the first offending value is'
    )
    data = [message, tf.gather(tf.reshape(x, [-1]), first)]
    with tf.control_dependencies([tf.debugging.Assert(False, data)]):
      return tf.identity(x)

  return tf.cond(tf.reduce_any(outside), fail, lambda: x)


def dequantize(x, noise, num_levels):
  """Spreads integer pixels over unit intervals (Theis et al., 2016).

  Args:
    x: `Tensor` of pixels on `[0, num_levels)`. A fraction is dropped.
    noise: Float `Tensor` like `x`, uniform on `[0, 1)`.
    num_levels: `int`, how many values a pixel can take.

  Returns:
    `floor(x) + noise`, of the dtype of `noise`, on `[0, num_levels)`.
  """
  # Rounding may carry the sum to the next integer; the last one is outside.
  largest = np.nextafter(noise.dtype.as_numpy_dtype(num_levels), 0)
  return tf.minimum(tf.floor(tf.cast(x, noise.dtype)) + noise, largest)
