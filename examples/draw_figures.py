"""Draws the paper's figures from a model that train.py trained.

    python examples/draw_figures.py --model_dir=runs/cifar10

Writes PNG files to <model_dir>/figures:

- samples.png: held-out images beside samples (figures 5 and 7 to 11).
- manifold.png: the manifold of eq. 19 through four held-out images, which have
  red borders (figures 6 and 12 to 16).
- samples_2x.png, samples_10x.png: samples of 2 and 10 times the size from the
  same weights (figures 17 to 21).
- compression.png: in each row a held-out image and its reconstructions from
  fewer and fewer of its coarsest latents, where the others are sampled (figures
  22 to 26).
- reconstruction.png: held-out images, their reconstructions from all latents,
  and the differences. The program prints the largest one.
- interpolation.png: interpolations between pairs of held-out images, one pair
  in each row.
- temperature.png: samples at temperatures 0.5, 0.6, ..., 1.2, one in each
  column.

For a conditional model also:

- classes.png: samples, one class in each row.
- attribute_change.png: held-out images, and images decoded from their latents
  under other conditions: each class, or the attributes of the image before
  (figures 27 and 28). With classes, the program also prints how often an image
  is likelier under its own class than under the others.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import model_dirs
from tfp_realnvp import visualization
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets

tfd = tfp.distributions

FLAGS = flags.FLAGS

_NUM_IMAGES = 1000  # Held-out images. The figures show the first of them.
_NEEDED = {'manifold': 4, 'interpolation': 2}  # The others need one.
_TEMPERATURES = np.arange(0.5, 1.25, 0.1)


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  model_dirs.define_flag('The --model_dir of train.py.')
  flags.DEFINE_string(
    'data_dir', None, 'The --data_dir of train.py (default: that of the run).'
  )
  model_dirs.define_seed('Seed of the samples.')


class Artist:
  """Draws the figures of a model. Each method returns a `uint8` image."""

  def __init__(
    self,
    distribution: tfd.Distribution,
    preset: presets.Preset,
    prior_name: str,
    images: np.ndarray,
    condition: np.ndarray | None,
    seed: int = 0,
  ):
    """Initializes Artist.

    Args:
      distribution: Trained `tfd.TransformedDistribution`.
      preset: `Preset` of the distribution.
      prior_name: Key of the prior in `experiment.PRIORS`.
      images: Held-out images, uint8 `[N, H, W, C]`.
      condition: Conditions of the images, `[N, K]`, or `None`.
      seed: Seed of the samples.
    """
    self.distribution = distribution
    self._flow = distribution.bijector
    self._prior = distribution.distribution
    self._prior_name = prior_name
    self._preset = preset
    self._images = images
    self._condition = condition
    self._seed = seed
    self._forward = tf.function(self._flow.forward)
    self._inverse = tf.function(self._flow.inverse)

  def samples(self) -> np.ndarray:
    images = self._images[:64] + 0.5
    white = self._preset.num_levels - 0.5
    places = np.full([64, *images.shape[1:]], white, images.dtype)
    places[: len(images)] = images
    samples = self._sample(self._prior, 64)
    return visualization.side_by_side(self._grid(places), self._grid(samples))

  def manifold(self) -> np.ndarray:
    # The whole manifold has the condition of the first image.
    condition = self._conditions(4)[:1]
    latents = self._encode(self._images[:4], condition.repeat(4, axis=0))
    points = visualization.manifold(latents, num_angles=8)
    points = points.reshape(64, *self._preset.image_shape)
    pixels = self._decode(points, condition.repeat(64, axis=0))
    return self._grid(pixels, padding=2, marked=(0, 2, 16, 18))

  def larger_samples(self, factor: int, count: int) -> np.ndarray:
    """Samples larger images with the same weights (appendix C)."""
    samples = self._sample(self._larger_prior(factor), count)
    return self._grid(samples, num_columns=min(count, 4))

  def compression(self) -> np.ndarray:
    images, condition = self._first(8)
    latents = self._encode(images, condition)
    fresh = self._prior.sample(len(images), seed=[self._seed, 1])
    columns = [images + 0.5] + [
      self._decode(kept, condition)
      for kept in visualization.keep_coarse(self._flow, latents, fresh)
    ]
    return self._columns(columns)

  def reconstruction(self) -> tuple[np.ndarray, float]:
    """Returns the image, and the largest error in levels of a pixel."""
    images, condition = self._first(8)
    decoded = self._decode(self._encode(images, condition), condition)
    error = np.abs(decoded - (images + 0.5))
    # Scale the rounding errors so that the largest one is white.
    scaled = error * (self._preset.num_levels - 1) / error.max()
    picture = self._grid(
      np.concatenate([images + 0.5, decoded, scaled]), num_columns=len(images)
    )
    return picture, error.max()

  def interpolation(self) -> np.ndarray:
    count = min(8, len(self._images) // 2)
    images, condition = self._first(2 * count)
    first, last = np.split(self._encode(images, condition), 2)
    rows = []
    for start, end, own in zip(first, last, condition):
      # Along the circle of eq. 19 at phi = 0, from phi' = 0 to pi / 2.
      points = visualization.manifold([start, end, start, end], 28)[:8, 0]
      rows.append(self._decode(points, own[np.newaxis].repeat(8, axis=0)))
    return self._grid(np.concatenate(rows))

  def temperature(self) -> np.ndarray:
    latents = self._prior.sample(8, seed=[self._seed, 2])
    mean = self._prior.mean()
    columns = [
      self._decode(mean + t * (latents - mean), self._conditions(8))
      for t in _TEMPERATURES
    ]
    return self._columns(columns)

  def classes(self) -> np.ndarray:
    classes = np.eye(self._preset.data.condition_size, dtype=np.float32)
    latents = self._prior.sample(8 * len(classes), seed=[self._seed, 3])
    return self._grid(self._decode(latents, classes.repeat(8, axis=0)))

  def attribute_change(self) -> np.ndarray:
    """Draws `g(f(x; y); y')` for other conditions `y'` (appendix F)."""
    images, condition = self._first(8)
    latents = self._encode(images, condition)
    if self._preset.data.condition_feature == 'label':
      others = np.eye(self._preset.data.condition_size, dtype=np.float32)
      others = [
        other[np.newaxis].repeat(len(images), axis=0) for other in others
      ]
    else:
      others = [np.roll(condition, 1, axis=0)]
    columns = [images + 0.5]
    columns += [self._decode(latents, other) for other in others]
    return self._columns(columns)

  def label_shares(self) -> tuple[float, float]:
    """Returns how often images are likelier under their own label.

    Returns:
      above_mean: Fraction of images whose log-likelihood under their own label
        is above the mean under the other labels.
      above_all: Fraction of images for which it is above all others.
    """
    log_prob = tf.function(self.distribution.log_prob)
    pixels = tf.constant(self._images, tf.float32) + 0.5
    classes = np.eye(self._preset.data.condition_size, dtype=np.float32)
    log_probs = np.stack(
      [
        log_prob(
          pixels,
          **experiment.bijector_kwargs(np.tile(one, [len(self._images), 1])),
        )
        for one in classes
      ],
      axis=1,
    )
    own = self._condition.astype(bool)
    right = log_probs[own]
    others = log_probs[~own].reshape(len(right), -1)
    return (
      np.mean(right > others.mean(axis=1)),
      np.mean(right > others.max(axis=1)),
    )

  def _first(self, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first images, up to `count`, and their conditions."""
    images = self._images[:count]
    return images, self._conditions(len(images))

  def _conditions(self, count: int) -> np.ndarray:
    """Returns the first conditions, of size 0 for an unconditional model.

    If there are fewer than `count`, they are repeated.
    """
    if self._condition is None:
      return np.zeros([count, 0], np.float32)
    return np.resize(self._condition, [count, self._condition.shape[1]])

  def _encode(self, images: np.ndarray, condition: np.ndarray) -> np.ndarray:
    pixels = tf.constant(images, tf.float32) + 0.5
    return self._inverse(pixels, **_condition_kwargs(condition)).numpy()

  def _decode(self, latents: Any, condition: np.ndarray) -> np.ndarray:
    latents = tf.constant(latents)
    return self._forward(latents, **_condition_kwargs(condition)).numpy()

  def _sample(self, prior: tfd.Distribution, count: int) -> np.ndarray:
    latents = prior.sample(count, seed=[self._seed, 0])
    return self._decode(latents, self._conditions(count))

  def _larger_prior(self, factor: int) -> tfd.Distribution:
    height, width, channels = self._preset.image_shape
    shape = (factor * height, factor * width, channels)
    larger = experiment.PRIORS[self._prior_name](self._flow, shape)
    for variable, trained in zip(larger.variables, self._prior.variables):
      variable.assign(trained)
    return larger

  def _columns(self, columns: Sequence[np.ndarray]) -> np.ndarray:
    """Arranges batches of the same size as the columns of a grid."""
    images = np.stack(columns, axis=1)
    return self._grid(
      images.reshape(-1, *images.shape[2:]), num_columns=len(columns)
    )

  def _grid(
    self, pixels: np.ndarray, num_columns: int = 8, **kwargs: Any
  ) -> np.ndarray:
    pixels = visualization.to_uint8(pixels, self._preset.num_levels)
    zoom = max(1, 64 // pixels.shape[1])
    return visualization.image_grid(pixels, num_columns, zoom, **kwargs)


def _condition_kwargs(condition: np.ndarray) -> dict[str, tf.Tensor]:
  return {'condition': tf.constant(condition)} if condition.shape[1] else {}


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  model_dir = pathlib.Path(FLAGS.model_dir)
  distribution, preset, trained = experiment.load_trained(model_dir)
  conditional = trained.get('conditional', False)
  data_dir = FLAGS.data_dir or trained['data_dir']
  data = image_data.load(
    preset, trained['dataset'], data_dir, conditional, model_dir
  )
  images, condition = data.arrays('test', _NUM_IMAGES)
  artist = Artist(
    distribution,
    preset,
    trained.get('prior', 'standard'),
    images,
    condition,
    FLAGS.seed,
  )
  figures = {
    'samples': artist.samples,
    'manifold': artist.manifold,
    'samples_2x': lambda: artist.larger_samples(2, 8),
    'samples_10x': lambda: artist.larger_samples(10, 1),
    'compression': artist.compression,
    'interpolation': artist.interpolation,
    'temperature': artist.temperature,
  }
  if conditional:
    figures['attribute_change'] = artist.attribute_change
    if preset.data.condition_feature == 'label':
      figures['classes'] = artist.classes
  left_out = [name for name in figures if len(images) < _NEEDED.get(name, 1)]
  if len(images) < 16:
    print(
      f'There are only {len(images)} held-out images. So figures have fewer '
      f'images{"".join(f", and {n}.png is left out" for n in left_out)}.'
    )
  folder = model_dir / 'figures'
  for name, draw in figures.items():
    if name not in left_out:
      _write(folder / f'{name}.png', draw())
  picture, error = artist.reconstruction()
  _write(folder / 'reconstruction.png', picture)
  print(f'Largest error of a reconstructed pixel: {error:.1e} levels.')
  if 'classes' in figures:
    above_mean, above_all = artist.label_shares()
    print(
      f'Of {len(images)} held-out images {100 * above_mean:.1f} % are likelier '
      f'under their label than under the others on average, '
      f'{100 * above_all:.1f} % than under each of them.'
    )


def _write(path: pathlib.Path, picture: np.ndarray) -> None:
  with model_dirs.exit_unless_writable(path.parent.parent):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tf.io.encode_png(picture).numpy())
  print(path)


if __name__ == '__main__':
  define_flags()
  app.run(main)
