"""Pixels on `[0, num_levels)`: range, dequantization, bits per dimension."""

import math

import numpy as np
import tensorflow as tf

__all__ = [
  'assert_on_range',
  'bits_per_dim',
  'check_num_levels',
  'dequantize',
  'is_on_range',
]


def check_num_levels(num_levels, dtype):
  """Raises a `ValueError` if `dtype` cannot hold dequantized pixels.

  The bits that the levels leave over hold the noise and the rounding errors of
  the flow. With fewer than three of them, `LogitTransform` and its inverse miss
  the level they started from. A deep flow rounds more and may need more bits.

  Args:
    num_levels: `int`, how many values a pixel can take.
    dtype: Floating `tf.DType` of the flow.
  """
  one = dtype.as_numpy_dtype(1)
  epsilon = float(np.nextafter(one, 2 * one) - one)
  largest = round(0.25 / epsilon)
  if num_levels > largest:
    raise ValueError(
      f'`num_levels` must be at most {largest} for pixels in {dtype.name}: '
      'between more levels its precision leaves no room for noise; got '
      f'{num_levels}.'
    )


def is_on_range(x, num_levels):
  """Which elements of `x` are pixels on `[0, num_levels)`; NaN is not."""
  return (x >= 0) & (x <= _largest_pixel(num_levels, x.dtype))


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
  largest = _largest_pixel(num_levels, noise.dtype)
  return tf.minimum(tf.floor(tf.cast(x, noise.dtype)) + noise, largest)


def bits_per_dim(log_prob, event_shape):
  """Returns the negative log-likelihood in bits per dimension.

  `-log_prob / (D ln 2)`, where `D` is the number of elements of an event. For a
  density on pixels that are integers plus uniform noise on `[0, 1)` it bounds
  the bits per dimension of the integers from above (Theis et al., 2016).

  Args:
    log_prob: `Tensor`, in nats.
    event_shape: Shape of one event, such as `(32, 32, 3)`.

  Returns:
    `Tensor` like `log_prob`.

  Raises:
    ValueError: If `event_shape` is not fully known or has no elements.
  """
  num_elements = tf.TensorShape(event_shape).num_elements()
  if not num_elements:
    raise ValueError(
      '`event_shape` must be fully known and have elements, got '
      f'{event_shape!r}.'
    )
  return log_prob / (-math.log(2) * num_elements)


def _largest_pixel(num_levels, dtype):
  """Returns the largest value of `dtype` that is below `num_levels`.

  `num_levels` itself may be beyond the dtype, as 256 is for int8.
  """
  if dtype.is_integer:
    return min(num_levels - 1, dtype.max)
  value = dtype.as_numpy_dtype(min(num_levels, float(dtype.max)))
  return value if float(value) < num_levels else np.nextafter(value, 0)
