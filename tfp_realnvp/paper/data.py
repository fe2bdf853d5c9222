"""Loads the data sets of the paper, digits, and folders of images."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.paper import folders
from tfp_realnvp.paper import presets

__all__ = ['Data', 'load', 'prepare_image']

# Images are shuffled in windows of this size, which are held in memory as
# encoded images.
_SHUFFLE_WINDOW = 50_000

# Training and test elements, and the function that reads the image of one.
_Loaded = tuple[tf.data.Dataset, tf.data.Dataset, Callable[[Any], tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Data:
  """A data set with the preprocessing of its preset.

  Attributes:
    preset: `Preset` of the data set.
    train: Finite `tf.data.Dataset` of encoded training images.
    test: Finite `tf.data.Dataset` of encoded held-out images.
    decode: Function from an element of `train` or `test` to a uint8 image
      `[H, W, C]` of any size and its condition, float32 `[K]` or `None`.
  """

  preset: presets.Preset
  train: tf.data.Dataset
  test: tf.data.Dataset
  decode: Callable[[Any], tuple[tf.Tensor, tf.Tensor | None]]

  def training_batches(
    self, batch_size: int, seed: int, start: int = 0
  ) -> tf.data.Dataset:
    """Returns infinitely many shuffled and augmented batches.

    Order, crops and flips depend on the seed and the step only. A run that
    resumes at step `start` gets the same batches as one that started at 0.

    Args:
      batch_size: Number of images in a batch.
      seed: `int`.
      start: Step of the first batch.

    Returns:
      `tf.data.Dataset` of uint8 images `[batch_size, H, W, C]`, or of pairs of
      images and conditions `[batch_size, K]`.
    """
    first = start * batch_size
    epoch, done = divmod(first, self.num_train)
    elements = (
      tf.data.Dataset.range(epoch, tf.int64.max)
      .flat_map(functools.partial(_shuffled, self.train, seed))
      .skip(done)
      .enumerate(first)
    )

    def prepare(index: tf.Tensor, element: Any) -> Any:
      return self._prepare(element, tf.stack([seed, index]))

    return (
      elements.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(batch_size, drop_remainder=True)
      .prefetch(tf.data.AUTOTUNE)
      .with_options(_options())
    )

  def batches(
    self, split: str = 'test', batch_size: int = 100, limit: int = -1
  ) -> tf.data.Dataset:
    """Returns the images of a split once, in order, without augmentation.

    Args:
      split: 'train' or 'test'.
      batch_size: Number of images in a batch. The last batch may have fewer.
      limit: Largest number of images, or -1 for all.

    Returns:
      `tf.data.Dataset` of the same elements as that of `training_batches`.
    """
    return (
      getattr(self, split)
      .take(limit)
      .map(self._prepare, num_parallel_calls=tf.data.AUTOTUNE)
      .batch(batch_size)
      .prefetch(tf.data.AUTOTUNE)
      .with_options(_options())
    )

  def arrays(
    self, split: str = 'test', limit: int = -1
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images of a split, and their conditions or `None`."""
    batches = list(self.batches(split, limit=limit).as_numpy_iterator())
    if not isinstance(batches[0], tuple):
      return np.concatenate(batches), None
    return tuple(np.concatenate(parts) for parts in zip(*batches))

  @property
  def num_train(self) -> int:
    """Number of training images."""
    return int(self.train.cardinality())

  @property
  def num_test(self) -> int:
    """Number of held-out images."""
    return int(self.test.cardinality())

  def _prepare(self, element: Any, seed: tf.Tensor | None = None) -> Any:
    image, condition = self.decode(element)
    image = prepare_image(image, self.preset, seed)
    return image if condition is None else (image, condition)


def load(
  preset: presets.Preset,
  name: str,
  data_dir: str | None = None,
  conditional: bool = False,
  model_dir: pathlib.Path | None = None,
) -> Data:
  """Loads a data set.

  Args:
    preset: `Preset` of the data set.
    name: Name of the data set, see `presets.preset`.
    data_dir: Directory of TFDS, or the folder of images for 'folder'.
    conditional: Whether to return conditions with the images.
    model_dir: Directory of the run, for 'folder' only. It gets small copies of
      the images.

  Raises:
    SystemExit: If the data cannot be found or read.
  """
  if conditional and preset.data.condition_feature is None:
    raise SystemExit(
      f'--conditional: the images of --dataset={name} have no labels.'
    )
  if name == 'digits':
    train, test, read = _load_digits()
  elif name == 'folder':
    train, test, read = folders.load(
      data_dir, model_dir, preset.data.smallest_side, preset.image_shape[-1]
    )
  else:
    train, test, read = _load_tfds(preset, data_dir, conditional)

  def decode(element: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    image = read(element)
    return image, _condition(element, preset) if conditional else None

  return Data(preset, train, test, decode)


def prepare_image(
  image: tf.Tensor, preset: presets.Preset, seed: Any = None
) -> tf.Tensor:
  """Applies the preprocessing of a preset to an image.

  Args:
    image: uint8 `[H, W, C]`.
    preset: `Preset`.
    seed: Stateless seed of the crop and the flip in training. `None` for the
      central crop and no flip, as in evaluation.

  Returns:
    uint8 image of shape `preset.image_shape`.
  """
  if preset.data.center_crop is not None:
    image = _center_crop(image, [preset.data.center_crop] * 2)
  if preset.data.smallest_side is not None:
    image = _resize(image, preset.data.smallest_side)
  if seed is None:
    image = _center_crop(image, preset.image_shape[:2])
  else:
    crop, flip = tf.unstack(tf.random.split(seed))
    image = tf.image.stateless_random_crop(image, preset.image_shape, crop)
    if preset.data.flip:
      image = tf.image.stateless_random_flip_left_right(image, flip)
  return tf.ensure_shape(image, preset.image_shape)


def _center_crop(image: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
  (height, width), shape = size, tf.shape(image)
  top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
  return tf.image.crop_to_bounding_box(image, top, left, height, width)


def _resize(image: tf.Tensor, smallest_side: int) -> tf.Tensor:
  """Resizes so that the smaller side is `smallest_side`, with antialiasing."""
  sides = tf.cast(tf.shape(image)[:2], tf.float32)
  sides = tf.round(sides * smallest_side / tf.reduce_min(sides))
  image = tf.image.resize(image, tf.cast(sides, tf.int32), antialias=True)
  return tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), tf.uint8)


def _shuffled(
  dataset: tf.data.Dataset, seed: int, epoch: tf.Tensor
) -> tf.data.Dataset:
  """Shuffles a data set; the order depends on seed and epoch only."""

  def shuffle(number: tf.Tensor, window: Any) -> Any:
    window_seed = tf.random.fold_in(tf.stack([seed, epoch]), number)
    size = tf.shape(tf.nest.flatten(window)[0])[0]
    order = tf.random.experimental.stateless_shuffle(
      tf.range(size), window_seed
    )
    return tf.nest.map_structure(lambda part: tf.gather(part, order), window)

  windows = dataset.batch(_SHUFFLE_WINDOW).enumerate()
  return windows.map(shuffle).prefetch(1).unbatch()


def _options() -> tf.data.Options:
  """Returns options with which each worker keeps its part of every batch."""
  options = tf.data.Options()
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.DATA
  )
  return options


def _condition(element: Any, preset: presets.Preset) -> tf.Tensor:
  """Returns the condition of an element: float32 `[K]`."""
  value = element[preset.data.condition_feature]
  if isinstance(value, dict):  # Attributes, sorted by name.
    return tf.cast(
      tf.stack([value[name] for name in sorted(value)]), tf.float32
    )
  return tf.one_hot(value, preset.data.condition_size)


def _load_digits() -> _Loaded:
  from sklearn import datasets  # An optional dependency.

  digits = datasets.load_digits()
  images = digits.images[..., np.newaxis].astype(np.uint8)
  elements = {'image': images, 'label': digits.target}
  order = np.random.default_rng(0).permutation(len(images))
  train, test = (
    tf.data.Dataset.from_tensor_slices(
      {k: v[part] for k, v in elements.items()}
    )
    for part in (order[:1500], order[1500:])
  )
  return train, test, lambda element: element['image']


def _load_tfds(
  preset: presets.Preset, data_dir: str | None, conditional: bool
) -> _Loaded:
  import tensorflow_datasets as tfds  # An optional dependency.

  name = preset.data.tfds_name
  builder = tfds.builder(name, data_dir=data_dir)
  if not builder.is_prepared():
    _download(builder, name)
  features = {'image': True}
  if conditional:
    features[preset.data.condition_feature] = True
  decoders = tfds.decode.PartialDecoding(
    features, decoders={'image': tfds.decode.SkipDecoding()}
  )
  train, test = builder.as_dataset(
    split=['train', preset.data.test_split], decoders=decoders
  )
  decode = builder.info.features['image'].decode_example
  return train, test, lambda element: decode(element['image'])


def _download(builder: Any, name: str) -> None:
  """Downloads and prepares a data set of TFDS."""
  root = builder.data_dir_root
  advice = (
    f'{name} is not prepared in --data_dir={root}. Without a network, run '
    f'`tfds build {name}` on another machine, copy the folder and pass it as '
    '--data_dir, or use --dataset=digits. Downloading failed: '
  )
  # The first file, and where TFDS keeps data sets that are prepared.
  urls = [*list(builder.url_infos or ())[:1], 'https://storage.googleapis.com']
  if not any(map(_responds, urls)):  # TFDS would try for minutes.
    raise SystemExit(f'{advice}no connection to {" or ".join(urls)}.')
  print(f'Downloading {name} to --data_dir={root}.', flush=True)
  try:
    builder.download_and_prepare()
  except Exception as error:  # TFDS does not wrap the errors of downloads.
    raise SystemExit(f'{advice}{error}') from error


def _responds(url: str) -> bool:
  import requests  # A dependency of TFDS.

  try:
    requests.head(url, timeout=5)
  except requests.RequestException:
    return False
  return True
