"""Small functions that the whole library uses."""

import math
import numbers
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

__all__ = [
  'assert_all',
  'check_int',
  'check_positive',
  'dims',
  'stateless_seed',
  'to_tensor',
]


def assert_all(is_valid: tf.Tensor, x: tf.Tensor, message: str) -> tf.Tensor:
  """Returns `x`, after a check at run time that all elements are valid.

  Args:
    is_valid: Boolean `Tensor` of the shape of `x`.
    x: `Tensor`.
    message: What must be true, for the error.

  Raises:
    InvalidArgumentError: If an element is not valid. Graphs compiled by XLA
      drop the check.
  """
  invalid = ~is_valid

  def fail() -> tf.Tensor:
    first = tf.argmax(tf.cast(tf.reshape(invalid, [-1]), tf.int32))
    value = tf.gather(tf.reshape(x, [-1]), first)
    data = [f'{message}; the first invalid value is', value]
    with tf.control_dependencies([tf.debugging.Assert(False, data)]):
      return tf.identity(x)

  return tf.cond(tf.reduce_any(invalid), fail, lambda: x)


def check_int(
  value: Any, name: str, minimum: int = 1, optional: bool = False
) -> int | None:
  """Returns `value` as an `int`, or raises an error that names the argument.

  Args:
    value: Value to check.
    name: Name of the argument, for the error.
    minimum: Smallest allowed value.
    optional: Whether `None` is allowed. It is returned unchanged.

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


def check_positive(value: Any, name: str) -> None:
  """Raises a `ValueError` unless `value` is a finite number above 0."""
  if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
    raise ValueError(f'`{name}` must be a positive number, got {value!r}.')


def dims(x: tf.Tensor) -> list[int | tf.Tensor]:
  """Returns the shape of `x`: known sizes as ints, others as scalar tensors."""
  dynamic = None
  shape = list(x.shape)
  for axis, size in enumerate(shape):
    if size is None:
      dynamic = tf.shape(x) if dynamic is None else dynamic
      shape[axis] = dynamic[axis]
  return shape


def soft_bound(x: tf.Tensor, bound: float) -> tf.Tensor:
  """Returns `x / (1 + |x| / bound)`, which is between `-bound` and `bound`."""
  return x / (1 + tf.abs(x) / bound)


def stateless_seed(seed: Any) -> tf.Tensor:
  """Returns a stateless seed, always the same one for the same `int`.

  TFP's own `sanitize_seed` returns another seed at each call with an `int`.

  Args:
    seed: `int`, stateless seed, or `None` for a random seed.
  """
  return tfp.random.sanitize_seed(
    [0, int(seed)] if isinstance(seed, numbers.Integral) else seed
  )


def to_tensor(value: Any, dtype: tf.DType | None, name: str) -> tf.Tensor:
  """Converts `value` to a tensor, or raises an error that names the argument.

  Args:
    value: Value to convert.
    dtype: Dtype of the tensor, or `None` to keep that of `value`.
    name: Name of the argument, for the error.

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
