"""The directory of a training run: flags, metrics, summaries and samples."""

import csv
import io
import json
import math
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp import model_dirs
from tfp_realnvp import visualization
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.training import density_estimator

__all__ = [
  'Reports',
  'histogram_bits_per_dim',
  'prepare_model_dir',
  'real_and_samples',
  'samples_path',
]

_NUM_SAMPLES = 64  # In each image of samples.
_BITS_PER_DIM = 'test_bits_per_dim'  # What the best model is chosen by.


def prepare_model_dir(
  model_dir: pathlib.Path,
  fixed: dict[str, Any],
  others: dict[str, Any],
  is_shared: bool = False,
) -> None:
  """Creates the directory and writes flags.json, after a comparison with it.

  Args:
    model_dir: Directory of the run.
    fixed: Values of the flags that determine the model and its data, by name.
    others: Values of flags that may change when a run goes on.
    is_shared: Whether several processes write to it, see `make_model_dir`.

  Raises:
    SystemExit: If the directory cannot be written, or belongs to a run with
      another model.
  """
  path = model_dir / 'flags.json'
  model_dirs.make_model_dir(model_dir, is_shared)
  with model_dirs.exit_if_damaged(path):
    saved = dict(json.loads(path.read_bytes())) if path.exists() else {}
  for name, value in fixed.items():
    if saved.get(name, value) != value:
      raise SystemExit(
        f'--{name}={value}, but the run in --model_dir={model_dir} was started '
        f'with {saved[name]}. Use that value or another --model_dir.'
      )
  with model_dirs.exit_unless_writable(model_dir):
    model_dirs.replace_json(path, saved | others | fixed)


class Reports:
  """Writes metrics.csv, TensorBoard summaries and images of samples."""

  def __init__(
    self, model_dir: pathlib.Path, step: int, is_chief: bool, seed: int = 0
  ):
    """Initializes Reports from the rows of metrics.csv up to `step`.

    Args:
      model_dir: Directory to write to.
      step: Step at which training starts or resumes.
      is_chief: Whether this worker writes files.
      seed: Seed of the samples.
    """
    self._seed = seed
    self._model_dir = model_dir
    self._is_chief = is_chief
    self._rows = []
    path = model_dir / 'metrics.csv'
    if path.exists():
      with model_dirs.exit_if_damaged(path):
        rows = csv.DictReader(path.read_text().splitlines())
        self._rows = [row for row in rows if int(row['step']) <= step]
    before = float(self._rows[-1]['seconds']) if self._rows else 0
    self._start = time.time() - before
    if is_chief:
      self._writer = tf.summary.create_file_writer(str(model_dir))

  @property
  def step(self) -> int:
    """Step of the last row."""
    return int(self._rows[-1]['step']) if self._rows else 0

  def best(self) -> tuple[int, float]:
    """Returns the step and the bits/dim of the best evaluation so far.

    That is NaN as long as no evaluation was finite.
    """
    rows = [(float(row[_BITS_PER_DIM]), int(row['step'])) for row in self._rows]
    value, step = min(
      (row for row in rows if math.isfinite(row[0])), default=(math.nan, 0)
    )
    return step, value

  def is_best(self, metrics: dict[str, float]) -> bool:
    """Returns whether no evaluation so far was as good as this one.

    Args:
      metrics: Values by name, of which `test_bits_per_dim` counts.
    """
    value = metrics[_BITS_PER_DIM]
    return math.isfinite(value) and not self.best()[1] <= value

  def write(
    self,
    step: int,
    metrics: dict[str, float],
    model: density_estimator.DensityEstimator,
    images: image_data.Data,
  ) -> None:
    """Writes the metrics of a step, the time, and an image of samples.

    Args:
      step: Training step.
      metrics: Values by name.
      model: Model to sample from.
      images: Data whose held-out images are shown beside the samples.
    """
    row = {'step': step, **metrics, 'seconds': time.time() - self._start}
    self._rows.append(row)
    if not self._is_chief:
      return
    picture = real_and_samples(model, images, self._seed)
    path = str(samples_path(self._model_dir, step))
    tf.io.write_file(path, tf.io.encode_png(picture))
    with self._writer.as_default(step=step):
      for name, value in row.items():
        tf.summary.scalar(name, value)
      tf.summary.image('real_and_samples', picture[np.newaxis])
    # metrics.csv is written last, so that a run that is stopped before this
    # line repeats the whole report.
    self._write_rows()

  def write_result(self, step: int, result: dict[str, float]) -> None:
    """Writes what a run came to, to result.json and to all else.

    Args:
      step: Training step.
      result: Values by name. TensorBoard and the last row of metrics.csv have
        them with the prefix `final_`.
    """
    if not self._is_chief:
      return
    final = {f'final_{name}': value for name, value in result.items()}
    with self._writer.as_default(step=step):
      for name, value in final.items():
        tf.summary.scalar(name, value)
    if self._rows:
      self._rows[-1] |= final
      self._write_rows()
    path = self._model_dir / 'result.json'
    model_dirs.replace_json(path, {'step': step, **result})

  def _write_rows(self) -> None:
    text = io.StringIO()
    columns = dict.fromkeys(name for row in self._rows for name in row)
    table = csv.DictWriter(text, columns)
    table.writeheader()
    table.writerows(self._rows)
    model_dirs.replace_text(self._model_dir / 'metrics.csv', text.getvalue())


def real_and_samples(
  model: density_estimator.DensityEstimator,
  images: image_data.Data,
  seed: int = 0,
) -> np.ndarray:
  """Returns an image of held-out images (left) beside samples (right).

  Samples of a conditional flow use the conditions of the held-out images.

  Args:
    model: Model to sample from.
    images: Data set.
    seed: Seed of the samples.
  """
  real, condition = images.arrays('test', _NUM_SAMPLES)
  samples = model.distribution.sample(
    len(real),
    seed=[seed, 0],
    **experiment.bijector_kwargs(condition),
  )
  zoom = max(1, 32 // real.shape[1])
  grids = [
    visualization.image_grid(
      visualization.to_uint8(pixels, images.preset.num_levels), zoom=zoom
    )
    for pixels in (real, samples)
  ]
  return visualization.side_by_side(*grids)


def samples_path(model_dir: pathlib.Path, step: int) -> pathlib.Path:
  """Returns the path of the image of samples of a step."""
  return model_dir / f'samples-{step:07d}.png'


def histogram_bits_per_dim(
  train: np.ndarray, test: np.ndarray, num_levels: int
) -> float:
  """Returns bits/dim of a baseline that models each pixel by its histogram.

  Args:
    train: Integer images `[N, H, W, C]` to count levels in, starting from one.
    test: Integer images `[M, H, W, C]`.
    num_levels: Number of values a pixel can take.
  """
  train, test = (images.reshape(len(images), -1) for images in (train, test))
  bits = []
  for pixel, held_out in zip(train.T, test.T):
    counts = 1 + np.bincount(pixel, minlength=num_levels)
    bits.append(-np.log2(counts / counts.sum())[held_out].mean())
  return float(np.mean(bits))
