"""Checks of `sample_weight`, and what a weight of 0 means."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp import util

__all__ = ['check', 'replace_rows', 'to_tensor']

_RULE = '`sample_weight` must be finite and at least 0'


def check(sample_weight: Any, num_rows: int) -> np.ndarray:
  """Returns the weights of the rows of an array, as an array.

  Args:
    sample_weight: What was passed.
    num_rows: Number of rows.

  Raises:
    TypeError: If `sample_weight` does not hold numbers.
    ValueError: If its shape is not `[num_rows]`, or a weight is negative, NaN
      or infinite.
  """
  try:
    weight = np.asarray(sample_weight)
  except ValueError:  # Rows of different lengths.
    weight = None
  if weight is None or weight.dtype.kind not in 'biuf':
    raise TypeError(
      f'`sample_weight` must be an array of numbers, got {sample_weight!r}.'
    )
  if weight.shape != (num_rows,):
    raise _shape_error((num_rows,), weight.shape)
  invalid = ~(np.isfinite(weight) & (weight >= 0))
  if invalid.any():
    row = invalid.argmax()
    raise ValueError(f'{_RULE}, got {weight[row]} in row {row}.')
  return weight


def to_tensor(sample_weight: Any, x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  """Returns the weights `[N]` of a batch as a tensor.

  Args:
    sample_weight: What the batch contains.
    x: `[N, ...]`.
    dtype: Dtype of the result.

  Raises:
    TypeError: If `sample_weight` does not hold numbers.
    ValueError: If it does not have the shape `[N]`.
    InvalidArgumentError: At run time, if it does not have the shape `[N]` or a
      weight is negative, NaN or infinite. Graphs compiled by XLA drop the check
      of the values.
  """
  weight = tf.convert_to_tensor(sample_weight)
  kind = weight.dtype
  if not (kind.is_floating or kind.is_integer or kind.is_bool):
    raise TypeError(
      f'`sample_weight` must hold numbers, got {sample_weight!r}.'
    )
  if not weight.shape.is_compatible_with(x.shape[:1]):
    raise _shape_error(x.shape[:1], weight.shape)
  tf.debugging.assert_equal(
    tf.shape(weight),
    tf.shape(x)[:1],
    '`sample_weight` must have a weight for each event of `x`.',
  )
  weight = tf.cast(tf.ensure_shape(weight, x.shape[:1]), dtype)
  is_valid = tf.math.is_finite(weight) & (weight >= 0)
  return util.assert_all(is_valid, weight, _RULE)


def replace_rows(
  weight: tf.Tensor, *values: tf.Tensor | None
) -> list[tf.Tensor | None]:
  """Replaces rows of weight 0 by a row that counts.

  Whatever they held, such as NaN, then has no effect on the others.

  Args:
    weight: `[N]`.
    *values: `[N, ...]` or `None`.
  """
  # Not `tf.argmax`, which fails if a replica has no rows.
  heaviest = tf.argsort(weight, direction='DESCENDING')[:1]
  rows = tf.where(weight > 0, tf.range(tf.size(weight)), heaviest)
  return [v if v is None else tf.gather(v, rows) for v in values]


def _shape_error(expected: Any, shape: Any) -> ValueError:
  return ValueError(
    f'`sample_weight` must have shape {expected}, a weight for each event of '
    f'`x`; got shape {shape}.'
  )
