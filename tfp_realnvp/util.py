"""Small functions that the whole library uses."""

import numbers
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ['check_int', 'dims', 'stateless_seed', 'to_tensor']


def check_int(
  value: Any, name: str, minimum: int = 1, optional: bool = False
) -> int | None:
  """Returns `value` as an `int`, or raises an error that names the argument.

  Args:
    value: What to check.
    name: Name of the argument.
    minimum: The smallest value allowed.
    optional: Whether `None` is allowed, and returned.

  Raises:
    ValueError: If `value` is not an int of at least `minimum`.
  """
  if optional and value is None:
    return None
  is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not is_int or value < minimum:
    or_none = ', or None' if optional else ''
    raise ValueError(
      f'`{name}` must be an int of at least {minimum}{or_none}, got {value!r}.'
    )
  return int(value)


def dims(x: tf.Tensor) -> list[int | tf.Tensor]:
  """Returns the shape of `x`: Python ints where static, else scalar tensors."""
  dynamic = None
  shape = list(x.shape)
  for axis, size in enumerate(shape):
    if size is None:
      dynamic = tf.shape(x) if dynamic is None else dynamic
      shape[axis] = dynamic[axis]
  return shape


def stateless_seed(seed: Any) -> tf.Tensor:
  """Returns a stateless seed; the same `int` always gives the same one.

  For an `int`, TFP's own `sanitize_seed` gives another seed at every call.

  Args:
    seed: `int`, stateless seed, or `None` for a random one.
  """
  return tfp.random.sanitize_seed(
    [0, int(seed)] if isinstance(seed, numbers.Integral) else seed
  )


def to_tensor(value: Any, dtype: tf.DType | None, name: str) -> tf.Tensor:
  """Converts `value` to a tensor, or raises an error that names the argument.

  Args:
    value: What to convert.
    dtype: Dtype of the tensor, `None` for that of `value`.
    name: Name of the argument.

  Raises:
    TypeError: If `value` cannot be converted.
  """
  try:
    return tf.convert_to_tensor(value, dtype, name=name)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f'`{name}` must be convertible to a {dtype and dtype.name} tensor: '
      f'{error}'
    ) from error
