"""Pixels on `[0, num_levels)`: range, dequantization, bits per dimension."""

from collections.abc import Sequence
import math

import numpy as np
import tensorflow as tf

from tfp_realnvp import util

__all__ = [
  'assert_on_range',
  'bits_per_dim',
  'check_num_levels',
  'dequantize',
  'is_on_range',
  'is_scaled',
]


def check_num_levels(num_levels: int, dtype: tf.DType) -> None:
  """Checks that `dtype` is precise enough for dequantized pixels.

  The significand must hold the level and at least three more bits, for the
  noise and for rounding errors. With fewer, `LogitTransform` followed by its
  inverse can return another level. A deep flow may need more than three.

  Args:
    num_levels: Number of values a pixel can take.
    dtype: Floating dtype of the flow.

  Raises:
    ValueError: If `num_levels` is too large for `dtype`.
  """
  one = dtype.as_numpy_dtype(1)
  epsilon = float(np.nextafter(one, 2 * one) - one)
  largest = round(0.25 / epsilon)
  if num_levels > largest:
    raise ValueError(
      f'`num_levels` must be at most {largest} for pixels in {dtype.name}: '
      f'more levels leave no bits for the noise; got {num_levels}.'
    )


def is_on_range(x: tf.Tensor, num_levels: int) -> tf.Tensor:
  """Returns a boolean tensor, True where `x` is on `[0, num_levels)`.

  It is False where `x` is NaN.
  """
  return (x >= 0) & (x <= _largest_pixel(num_levels, x.dtype))


def is_scaled(x: tf.Tensor, num_levels: int) -> tf.Tensor:
  """Returns whether a batch was scaled to `[0, 1]`, a boolean scalar.

  It was if no value is above 1, and some are fractions.

  Args:
    x: `Tensor`, a batch of pixels.
    num_levels: Number of values a pixel can take.
  """
  if num_levels <= 2 or not x.dtype.is_floating:
    return tf.constant(False)
  return tf.reduce_all(x <= 1) & tf.reduce_any(x != tf.floor(x))


def assert_on_range(
  x: tf.Tensor, num_levels: int, name: str = 'x'
) -> tf.Tensor:
  """Checks at run time that `x` holds pixels.

  Args:
    x: `Tensor`.
    num_levels: Number of values a pixel can take.
    name: Name of `x` in the error.

  Returns:
    `x`.

  Raises:
    InvalidArgumentError: If an element is NaN or outside `[0, num_levels)`.
      Graphs compiled by XLA drop the check.
  """
  message = f'`{name}` must be pixels on [0, {num_levels}) and not NaN'
  return util.assert_all(is_on_range(x, num_levels), x, message)


def dequantize(x: tf.Tensor, noise: tf.Tensor, num_levels: int) -> tf.Tensor:
  """Adds noise to integer pixels (Theis et al., 2016).

  Args:
    x: `Tensor` of pixels on `[0, num_levels)`, rounded down first.
    noise: Float `Tensor` of the same shape, uniform on `[0, 1)`.
    num_levels: Number of values a pixel can take.

  Returns:
    `floor(x) + noise` on `[0, num_levels)`, of the dtype of `noise`.
  """
  # Rounding can carry the sum to the next integer, here to `num_levels`.
  largest = _largest_pixel(num_levels, noise.dtype)
  return tf.minimum(tf.floor(tf.cast(x, noise.dtype)) + noise, largest)


def bits_per_dim(log_prob: tf.Tensor, event_shape: Sequence[int]) -> tf.Tensor:
  """Converts a log-likelihood to bits per dimension.

  The result is `-log_prob / (D ln 2)` for events of `D` elements. If the events
  are integers plus uniform noise on `[0, 1)`, it is an upper bound on the bits
  per dimension of the integers (Theis et al., 2016).

  Args:
    log_prob: `Tensor`, in nats.
    event_shape: Shape of one event, such as `(32, 32, 3)`.

  Returns:
    `Tensor` of the shape of `log_prob`.

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


def _largest_pixel(num_levels: int, dtype: tf.DType) -> int | np.number:
  """Returns the largest value of `dtype` that is below `num_levels`.

  `dtype` may be too small for `num_levels` itself, as int8 is for 256.
  """
  if dtype.is_integer:
    return min(num_levels - 1, dtype.max)
  value = dtype.as_numpy_dtype(min(num_levels, float(dtype.max)))
  return value if float(value) < num_levels else np.nextafter(value, 0)
