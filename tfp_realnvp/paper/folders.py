"""Loads a folder of images, of which it keeps small copies."""

from collections.abc import Callable
from concurrent import futures
import functools
import hashlib
import io
import pathlib
import time
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from tfp_realnvp import model_dirs

__all__ = ['load']

# A tenth of all possible hashes is held out.
_FIRST_TRAINED_ON = f'{256 // 10:02x}'
_SECONDS_BETWEEN_LINES = 10.0
_MAX_NAMED = 10  # Files that cannot be read.


def load(
  folder: str | None,
  model_dir: pathlib.Path,
  smallest_side: int,
  num_channels: int,
) -> tuple[tf.data.Dataset, tf.data.Dataset, Callable[[Any], tf.Tensor]]:
  """Loads the images of a folder, and holds out about a tenth of them.

  Each image is decoded and resized once. Its copy is a PNG file with the hash
  of the original as its name, which the next call finds again.

  Args:
    folder: The folder. Its subfolders count. Hidden files do not, nor those of
      `model_dir`.
    model_dir: Directory of the run, below which the copies are written.
    smallest_side: Smaller side of the copies.
    num_channels: 3, or 1 for shades of gray.

  Returns:
    Training and held-out elements, and the function that reads the image of
    one.

  Raises:
    SystemExit: If there are no images, or `model_dir` cannot be written.
  """
  if folder is None or not pathlib.Path(folder).is_dir():
    raise SystemExit(
      f'--dataset=folder needs a folder of images, got --data_dir={folder}.'
    )
  paths = sorted(
    path
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
    and not path.name.startswith('.')
    and model_dir.resolve() not in path.resolve().parents
  )
  mode = 'L' if num_channels == 1 else 'RGB'
  cache_dir = model_dir / f'images-{smallest_side}-{mode}'
  print(f'Reading {len(paths)} files of --data_dir={folder}.', flush=True)
  with (
    model_dirs.exit_unless_writable(model_dir),
    futures.ThreadPoolExecutor() as pool,
  ):
    cache_dir.mkdir(parents=True, exist_ok=True)
    copy = functools.partial(_copy, cache_dir, smallest_side, mode)
    copies = dict(zip(paths, _with_progress(pool.map(copy, paths), len(paths))))
  _warn_of_unreadable(copies, folder)
  # By what is in a file, so that images that are added later leave the others
  # where they are, and copies of an image stay together.
  images = sorted(str(path) for path in copies.values() if path)
  if len(images) < 2:
    raise SystemExit(
      f'--data_dir={folder} must contain at least two images, one to train on '
      f'and one to hold out; found {len(images)}.'
    )
  first = str(cache_dir / _FIRST_TRAINED_ON)
  num_test = sum(image < first for image in images)
  num_test = min(max(1, num_test), len(images) - 1)
  test, train = (
    tf.data.Dataset.from_tensor_slices({'image': part})
    for part in (images[:num_test], images[num_test:])
  )

  def read(element: Any) -> tf.Tensor:
    contents = tf.io.read_file(element['image'])
    return tf.io.decode_png(contents, channels=num_channels)

  return train, test, read


def _copy(
  cache_dir: pathlib.Path, smallest_side: int, mode: str, path: pathlib.Path
) -> pathlib.Path | None:
  """Returns the path of the small copy, or `None` if there is no image."""
  try:
    contents = path.read_bytes()
    name = hashlib.sha256(contents).hexdigest()
    copy = cache_dir / f'{name}.png'
    if copy.exists():
      return copy
    png = _shrink(contents, smallest_side, mode)
  except Exception:  # Pillow does not wrap the errors of damaged files.
    return None
  model_dirs.replace_file(copy, png)
  return copy


def _shrink(contents: bytes, smallest_side: int, mode: str) -> bytes:
  """Decodes, rotates and resizes an image, and encodes it as PNG.

  Args:
    contents: The file. The image is rotated as its EXIF tag says. Of an
      animation only the first frame counts.
    smallest_side: Smaller side of the result.
    mode: 'RGB', or 'L' for shades of gray.
  """
  from PIL import Image  # An optional dependency.
  from PIL import ImageOps

  image = Image.open(io.BytesIO(contents))
  # Decodes a large JPEG at a fraction of its size, but not below this one.
  image.draft(mode, [2 * smallest_side] * 2)
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):  # Pillow would clip it to 255.
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  if image.mode in ('I', 'F'):
    raise ValueError('Pixels without a known range.')
  size = [round(n * smallest_side / min(image.size)) for n in image.size]
  image = image.convert(mode).resize(size, Image.Resampling.BILINEAR)
  file = io.BytesIO()
  image.save(file, 'PNG')
  return file.getvalue()


def _with_progress(copies: Any, count: int) -> Any:
  """Yields the elements of `copies`, and prints how many there were."""
  told = time.monotonic()
  for number, copy in enumerate(copies, 1):
    if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
      told = time.monotonic()
      print(f'Read {number} of {count} files.', flush=True)
    yield copy


def _warn_of_unreadable(
  copies: dict[pathlib.Path, pathlib.Path | None], folder: str
) -> None:
  paths = [str(path) for path, copy in copies.items() if copy is None]
  if paths:
    more = len(paths) - _MAX_NAMED
    logging.warning(
      'Skipped %d of %d files in --data_dir=%s that cannot be read as images: '
      '%s%s. Convert images to JPEG, PNG, TIFF, WebP, BMP or GIF, with 8 or 16 '
      'bits.',
      len(paths),
      len(copies),
      folder,
      ', '.join(paths[:_MAX_NAMED]),
      f' and {more} more' if more > 0 else '',
    )
