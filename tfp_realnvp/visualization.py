"""Image grids and the paper's latent-space figures, as NumPy arrays."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfp_realnvp import util

__all__ = [
  'image_grid',
  'keep_coarse',
  'manifold',
  'side_by_side',
  'to_uint8',
]

_RED = (255, 0, 0)


def to_uint8(pixels: Any, num_levels: int = 256) -> np.ndarray:
  """Converts pixels on `[0, num_levels)` to 8-bit pixels for display.

  Args:
    pixels: Array of any shape. Values outside the range are clipped, and NaN
      becomes 0.
    num_levels: Number of values a pixel can take.

  Returns:
    `uint8` array of the same shape.

  Raises:
    ValueError: If `num_levels` is not an int of at least 1.
  """
  util.check_int(num_levels, 'num_levels')
  # A small dtype such as int8 may be too small for `num_levels`.
  pixels = np.asarray(pixels).astype(np.float64)
  levels = np.nan_to_num(np.clip(np.floor(pixels), 0, num_levels - 1))
  return np.round(levels * (255 / max(num_levels - 1, 1))).astype(np.uint8)


def image_grid(
  images: Any,
  num_columns: int = 8,
  zoom: int = 1,
  padding: int = 1,
  marked: Iterable[int] = (),
) -> np.ndarray:
  """Arranges images in a grid on a white background.

  Args:
    images: `uint8` array `[N, H, W, C]` where `C` is 1 or 3.
    num_columns: Number of images in a row.
    zoom: Side of the square that each pixel becomes.
    padding: Width of the white space between and around the images, in pixels.
    marked: Indices of images to frame in red. If there are any, the result has
      three channels.

  Returns:
    `uint8` array `[height, width, C]`.

  Raises:
    ValueError: If `images` has another shape or dtype, or another argument is
      out of range.
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
    raise ValueError(
      '`images` must have shape [N, H, W, 1] or [N, H, W, 3] with N > 0, got '
      f'{images.shape}.'
    )
  util.check_int(num_columns, 'num_columns')
  util.check_int(zoom, 'zoom')
  util.check_int(padding, 'padding', minimum=0)
  if images.dtype != np.uint8:
    raise ValueError(f'`images` must be uint8, got {images.dtype}.')
  marked = list(marked)
  if any(util.check_int(i, 'marked', 0) >= len(images) for i in marked):
    raise ValueError(
      f'`marked` must be indices of the {len(images)} images, got {marked!r}.'
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


def side_by_side(left: Any, right: Any, gap: int = 8) -> np.ndarray:
  """Places two images next to each other.

  Args:
    left: `uint8` array `[height, left_width, C]`.
    right: `uint8` array `[height, right_width, C]`.
    gap: Width of the white space between them, in pixels.

  Returns:
    `uint8` array `[height, left_width + gap + right_width, C]`.

  Raises:
    ValueError: If the shapes do not match, an image is not `uint8`, or `gap` is
      not an int of at least 0.
  """
  left, right = np.asarray(left), np.asarray(right)
  if left.ndim != 3 or right.ndim != 3 or left.shape[::2] != right.shape[::2]:
    raise ValueError(
      '`left` and `right` must be [height, width, C] with the same height and '
      f'C, got shapes {left.shape} and {right.shape}.'
    )
  if left.dtype != np.uint8 or right.dtype != np.uint8:
    raise ValueError(
      f'`left` and `right` must be uint8, got {left.dtype} and {right.dtype}.'
    )
  util.check_int(gap, 'gap', minimum=0)
  white = np.full([left.shape[0], gap, left.shape[2]], 255, np.uint8)
  return np.concatenate([left, white, right], axis=1)


def manifold(latents: Any, num_angles: int = 8) -> np.ndarray:
  """Returns a two-dimensional manifold through four latents (eq. 19).

      z = cos(phi) (cos(phi') z_1 + sin(phi') z_2)
        + sin(phi) (cos(phi') z_3 + sin(phi') z_4)

  Both angles take the values `2 pi k / num_angles`: `phi'` is constant in each
  row and `phi` in each column. If `num_angles` is divisible by 4, the four
  latents are where rows and columns 0 and `num_angles / 4` cross.

  Args:
    latents: Array `[4, ...]`: `z_1` to `z_4`.
    num_angles: Number of values of each angle.

  Returns:
    Array `[num_angles, num_angles, ...]` of the dtype of `latents`, or float64
    if `latents` are integers.

  Raises:
    ValueError: If there are not four latents, or `num_angles` is not an int of
      at least 1.
  """
  latents = np.asarray(latents)
  if not latents.ndim or len(latents) != 4:
    raise ValueError(f'`latents` must be four, got shape {latents.shape}.')
  util.check_int(num_angles, 'num_angles')
  if latents.dtype.kind not in 'fc':  # Integers would round the cosines to 0.
    latents = latents.astype(np.float64)
  angles = 2 * np.pi * np.arange(num_angles) / num_angles
  circle = np.stack([np.cos(angles), np.sin(angles)]).astype(latents.dtype)
  latents = latents.reshape(2, 2, *latents.shape[1:])  # By phi, by phi'.
  return np.einsum('ix,jy,ij...->yx...', circle, circle, latents)


def keep_coarse(flow: Any, latents: Any, fresh: Any) -> list[np.ndarray]:
  """Replaces the latents of the finest scales (appendix D of the paper).

  Args:
    flow: `RealNVPChain`.
    latents: `[N, H, W, C]`.
    fresh: Replacements, `[N, H, W, C]`.

  Returns:
    List with one array like `latents` for each scale of the flow. Element `i`
    has the latents of the `i` finest scales replaced: the first element keeps
    all latents, the last only those of the coarsest scale.

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
