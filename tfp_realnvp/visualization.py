"""Pictures of images, and the latents that are worth one: arrays alone."""

import numpy as np

__all__ = [
  'image_grid',
  'keep_coarse',
  'manifold',
  'side_by_side',
  'to_uint8',
]

_RED = (255, 0, 0)


def to_uint8(pixels, num_levels=256):
  """Turns pixels on `[0, num_levels)` into 8-bit ones, for showing.

  Args:
    pixels: Array of any shape. Values outside the range are clipped, and NaN is
      shown as 0.
    num_levels: `int`, how many values a pixel can take.

  Returns:
    `uint8` array of the same shape.

  Raises:
    ValueError: If `num_levels` is not an int of at least 1.
  """
  if not _is_int(num_levels, 1):
    raise ValueError(
      f'`num_levels` must be an int of at least 1, got {num_levels!r}.'
    )
  # A small dtype may not hold the number of levels.
  pixels = np.asarray(pixels).astype(np.float64)
  levels = np.nan_to_num(np.clip(np.floor(pixels), 0, num_levels - 1))
  return np.round(levels * (255 / max(num_levels - 1, 1))).astype(np.uint8)


def image_grid(images, num_columns=8, zoom=1, padding=1, marked=()):
  """Lays images out in rows, on white.

  Args:
    images: `uint8` array `[N, H, W, C]`; `C` is 1 or 3.
    num_columns: `int`, images in a row.
    zoom: `int`, each pixel becomes a square of this side.
    padding: `int`, white pixels between images and around them.
    marked: Numbers of images around which the padding is red. If there are any,
      the picture has three channels.

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
  marked = list(marked)
  if any(not (_is_int(i, 0) and i < len(images)) for i in marked):
    raise ValueError(
      f'`marked` must be numbers of the {len(images)} images, got {marked!r}.'
    )
  images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
  if marked and images.shape[-1] == 1:
    images = images.repeat(3, axis=-1)
  count, height, width, channels = images.shape
  num_rows = -(-count // num_columns)
  rows, columns = height + padding, width + padding
  grid = np.full(
    [num_rows * rows + padding, num_columns * columns + padding, channels],
    255,
    np.uint8,
  )
  for i in marked:
    top, left = i // num_columns * rows, i % num_columns * columns
    frame = np.s_[top : top + rows + padding, left : left + columns + padding]
    grid[frame] = _RED
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
    ValueError: If the pictures do not fit or are not `uint8`, or `gap` is not
      an int of at least 0.
  """
  left, right = np.asarray(left), np.asarray(right)
  if left.ndim != 3 or right.ndim != 3 or left.shape[::2] != right.shape[::2]:
    raise ValueError(
      '`left` and `right` must be [height, width, C], alike in height and C; '
      f'got shapes {left.shape} and {right.shape}.'
    )
  if left.dtype != np.uint8 or right.dtype != np.uint8:
    raise ValueError(
      f'`left` and `right` must be uint8, got {left.dtype} and {right.dtype}.'
    )
  if not _is_int(gap, 0):
    raise ValueError(f'`gap` must be an int of at least 0, got {gap!r}.')
  white = np.full([left.shape[0], gap, left.shape[2]], 255, np.uint8)
  return np.concatenate([left, white, right], axis=1)


def manifold(latents, num_angles=8):
  """Spans a two-dimensional manifold by four latents: eq. 19 of the paper.

      z = cos(phi) (cos(phi') z_1 + sin(phi') z_2)
        + sin(phi) (cos(phi') z_3 + sin(phi') z_4)

  at `phi` and `phi'` of `2 pi k / num_angles`. Along a row `phi` grows, along a
  column `phi'`. The four latents themselves are at the angles 0 and `pi / 2`;
  where `num_angles` is divisible by 4, at the numbers 0 and `num_angles / 4` of
  the rows and columns.

  Args:
    latents: Array `[4, ...]`: `z_1` to `z_4`.
    num_angles: `int`, how many angles.

  Returns:
    Array `[num_angles, num_angles, ...]` of the dtype of `latents`, float64 if
    they are integers.

  Raises:
    ValueError: If there are not four latents, or `num_angles` is not an int of
      at least 1.
  """
  latents = np.asarray(latents)
  if not latents.ndim or len(latents) != 4:
    raise ValueError(f'`latents` must be four, got shape {latents.shape}.')
  if not _is_int(num_angles, 1):
    raise ValueError(
      f'`num_angles` must be an int of at least 1, got {num_angles!r}.'
    )
  if latents.dtype.kind not in 'fc':  # The cosines would be rounded off.
    latents = latents.astype(np.float64)
  angles = 2 * np.pi * np.arange(num_angles) / num_angles
  circle = np.stack([np.cos(angles), np.sin(angles)]).astype(latents.dtype)
  latents = latents.reshape(2, 2, *latents.shape[1:])  # By phi, by phi'.
  return np.einsum('ix,jy,ij...->yx...', circle, circle, latents)


def keep_coarse(flow, latents, fresh):
  """Replaces latents scale by scale, finest first (appendix D of the paper).

  Args:
    flow: `RealNVPChain`.
    latents: `[N, H, W, C]`.
    fresh: Array of the same shape, what they are replaced by.

  Returns:
    List with an element for each scale, arrays like `latents`: with all of them
    kept, without the finest scale's, without those of the two finest scales,
    and so on; of the last, only the coarsest scale's are kept.

  Raises:
    ValueError: If `fresh` has another shape.
  """
  if np.shape(fresh) != np.shape(latents):
    raise ValueError(
      f'`fresh` must have the shape of `latents`, {np.shape(latents)}, got '
      f'{np.shape(fresh)}.'
    )
  kept, replaced = flow.split_latents(latents), flow.split_latents(fresh)
  return [
    np.asarray(flow.merge_latents(replaced[:i] + kept[i:]))
    for i in range(len(kept))
  ]


def _is_int(value, minimum):
  is_int = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
  return is_int and value >= minimum
