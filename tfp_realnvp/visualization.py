"""Pictures of images: arrays in, image arrays out."""

import numpy as np

__all__ = ['image_grid', 'side_by_side', 'to_uint8']


def to_uint8(pixels, num_levels=256):
  """Turns pixels on `[0, num_levels)` into 8-bit ones, for showing.

  Args:
    pixels: Array of any shape. Values outside the range are clipped, and NaN is
      shown as 0.
    num_levels: `int`, how many values a pixel can take.

  Returns:
    `uint8` array of the same shape.
  """
  levels = np.nan_to_num(np.clip(np.floor(pixels), 0, num_levels - 1))
  return np.round(levels * (255 / max(num_levels - 1, 1))).astype(np.uint8)


def image_grid(images, num_columns=8, zoom=1, padding=1):
  """Lays images out in rows, on white.

  Args:
    images: `uint8` array `[N, H, W, C]`; `C` is 1 or 3.
    num_columns: `int`, images in a row.
    zoom: `int`, each pixel becomes a square of this side.
    padding: `int`, white pixels between images and around them.

  Returns:
    `uint8` array `[height, width, C]`.

  Raises:
    ValueError: If `images` has another shape or dtype, or a number is out of
      range.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
    raise ValueError(
      '`images` must have shape [N, H, W, 1] or [N, H, W, 3] with N > 0, got '
      f'{images.shape}.'
    )
  if not (_is_int(num_columns, 1) and _is_int(zoom, 1) and _is_int(padding, 0)):
    raise ValueError(
      '`num_columns` and `zoom` must be ints of at least 1 and `padding` of 0, '
      f'got {num_columns}, {zoom} and {padding}.'
    )
  if images.dtype != np.uint8:
    raise ValueError(f'`images` must be uint8, got {images.dtype}.')
  images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
  count, height, width, channels = images.shape
  num_rows = -(-count // num_columns)
  rows, columns = height + padding, width + padding
  grid = np.full(
    [num_rows * rows + padding, num_columns * columns + padding, channels],
    255,
    np.uint8,
  )
  for i, image in enumerate(images):
    top = i // num_columns * rows + padding
    left = i % num_columns * columns + padding
    grid[top : top + height, left : left + width] = image
  return grid


def side_by_side(left, right, gap=8):
  """Puts two pictures next to each other, with white between them.

  Args:
    left: `uint8` array `[height, width, C]`.
    right: The same, of any width and the same height.
    gap: `int`, white pixels between them.

  Returns:
    `uint8` array `[height, width of both + gap, C]`.

  Raises:
    ValueError: If the pictures do not fit, or `gap` is negative or no int.
  """
  left, right = np.asarray(left), np.asarray(right)
  if left.ndim != 3 or right.ndim != 3 or left.shape[::2] != right.shape[::2]:
    raise ValueError(
      '`left` and `right` must be [height, width, C], alike in height and C; '
      f'got shapes {left.shape} and {right.shape}.'
    )
  if not _is_int(gap, 0):
    raise ValueError(f'`gap` must be an int of at least 0, got {gap!r}.')
  white = np.full([left.shape[0], gap, left.shape[2]], 255, np.uint8)
  return np.concatenate([left, white, right], axis=1)


def _is_int(value, minimum):
  is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  return is_int and value >= minimum
