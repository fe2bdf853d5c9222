"""Checkerboard and channel masks.

A mask is boolean and True where the input passes through unchanged (`b = 1` in
the paper). It is a NumPy array if the event shape is static, else a tensor.
"""

from collections.abc import Sequence
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ['channel_mask', 'checkerboard_mask']


def checkerboard_mask(
  event_shape: Sequence[int | tf.Tensor], parity: int = 1
) -> np.ndarray | tf.Tensor:
  """Returns a checkerboard mask over space (section 3.4, figure 3 left).

  Args:
    event_shape: `(H, W, C)`, ints or scalar integer `Tensor`s. `C` is not used.
    parity: 0 or 1. The mask is True where `(row + column) % 2 == parity`. The
      paper uses 1.

  Returns:
    Boolean `[H, W, 1]`.

  Raises:
    ValueError: If `event_shape` does not have three elements, or `parity` is
      not 0 or 1.
  """
  _check_parity(parity)
  sizes = _elements(event_shape)
  if len(sizes) != 3 or not all(map(_is_size, sizes[:2])):
    raise ValueError(f'`event_shape` must be (H, W, C), got {event_shape!r}.')
  height, width, _ = sizes
  dynamic = tf.is_tensor(height) or tf.is_tensor(width)
  arange = tf.range if dynamic else np.arange
  rows, columns = arange(height), arange(width)
  return ((rows[:, None] + columns) % 2 == parity)[..., None]


def channel_mask(
  event_shape: Sequence[int | tf.Tensor | None], parity: int = 1
) -> np.ndarray:
  """Returns a mask over the last dimension (section 3.4, figure 3 right).

  Args:
    event_shape: `(H, W, C)` or `(D,)`. The last element must be a Python int.
    parity: 0 or 1. With 1, as in the paper, the mask is True for the first half
      of the channels, with 0 for the second half. If the number of channels is
      odd, the first half is the smaller one.

  Returns:
    Boolean `[1, 1, C]` or `[D]`.

  Raises:
    ValueError: If there are fewer than two channels, or `parity` is not 0 or 1.
  """
  _check_parity(parity)
  sizes = _elements(event_shape)
  if len(sizes) not in (1, 3):
    raise ValueError(
      f'`event_shape` must be (H, W, C) or (D,), got {event_shape!r}.'
    )
  channels = sizes[-1]
  if tf.is_tensor(channels) or not _is_size(channels) or channels < 2:
    raise ValueError(
      '`event_shape` must end in a number of channels that can be split, an '
      f'int of at least 2, got {event_shape!r}.'
    )
  mask = (np.arange(channels) < channels // 2) == bool(parity)
  return mask.reshape((1,) * (len(sizes) - 1) + (channels,))


def _check_parity(parity: Any) -> None:
  if not isinstance(parity, numbers.Integral) or parity not in (0, 1):
    raise ValueError(f'`parity` must be 0 or 1, got {parity!r}.')


def _elements(event_shape: Any) -> tuple:
  """Returns the elements of a shape, or `()` if it is not a sequence."""
  try:
    return tuple(event_shape)
  except TypeError:
    return ()


def _is_size(value: Any) -> bool:
  if tf.is_tensor(value):
    return value.shape.rank == 0 and value.dtype.is_integer
  is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  return is_int and value >= 0
