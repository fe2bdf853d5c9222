"""Flows of tables, and how they are trained.

The couplings model whitened rows, which are easier to learn. `log_prob` of the
distributions is the density of the rows themselves. Needs pandas and
scikit-learn, which `pip install 'tfp_realnvp[examples]'` installs.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import json
import os
import pathlib

from absl import logging
import keras
import numpy as np
import pandas as pd
import sklearn.mixture
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import mixtures
from tfp_realnvp import model_dirs
from tfp_realnvp import preprocessing
from tfp_realnvp import table_settings
from tfp_realnvp import weights
from tfp_realnvp.bijectors import couplings as couplings_lib
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.networks import dense
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import density_estimator

__all__ = [
  'DESCRIPTION',
  'TableFlow',
  'build_distribution',
  'fit',
  'load',
]

tfb = tfp.bijectors
tfd = tfp.distributions

DESCRIPTION = 'table_flow.json'  # File of a directory with a flow.

_NUM_VALIDATIONS = 20


def build_distribution(
  whiten: tfb.Bijector,
  settings: table_settings.Settings,
  seed: int | None = None,
  mixture: sklearn.mixture.GaussianMixture | None = None,
) -> tfd.TransformedDistribution:
  """Builds Real NVP followed by an affine bijector.

  Args:
    whiten: Bijector from whitened rows to rows, see `preprocessing.whitening`.
    settings: Settings of the flow.
    seed: `int`, seed of the weights.
    mixture: What a mixture of the latents starts from, see `mixtures.fit`.
  """
  (size,) = whiten.bijectors[0].shift.shape
  count = settings.num_components
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  prior = tfd.Normal(zero, one)
  if np.isfinite(settings.degrees_of_freedom):
    prior = tfd.StudentT(settings.degrees_of_freedom * one, zero, one)
  base = tfd.Sample(prior, sample_shape=[size])
  networks = dense.DenseNetworks(
    hidden_units=(settings.hidden_size,) * settings.num_layers, seed=seed
  )
  if count > 1:
    start = (np.ones(count), np.zeros([count, size]), count * [np.eye(size)])
    if mixture is not None:
      start = (mixture.weights_, mixture.means_, mixture.covariances_)
    base = mixtures.base(base, *start)
    networks = dataclasses.replace(networks, output_scale=0.0)
  flow = real_nvp_chain.RealNVPChain(
    (size,),
    num_couplings=settings.num_couplings,
    networks=networks,
    couplings=couplings_lib.BY_NAME[settings.couplings](
      batch_norm=moving_statistics.BatchNormOptions()
      if settings.batch_norm
      else None
    ),
    dtype=tf.float64,
  )
  return tfd.TransformedDistribution(base, tfb.Chain([whiten, flow]))


@dataclasses.dataclass(frozen=True)
class TableFlow:
  """The density of the rows of a table.

  Attributes:
    columns: Names of the columns.
    dequantized: Names of the columns to which noise was added, see
      `preprocessing.dequantize`.
    distribution: `tfd.Distribution` of rows, float64, with event shape
      `[len(columns)]`.
    settings: Settings of the flow and of its training.
  """

  columns: tuple[str, ...]
  dequantized: tuple[str, ...]
  distribution: tfd.Distribution
  settings: table_settings.Settings

  def sample(self, count: int, seed: int) -> pd.DataFrame:
    """Draws rows; those of dequantized columns are rounded down to integers.

    Args:
      count: Number of rows.
      seed: `int`; the same seed gives the same rows.
    """
    rows = self.distribution.sample(count, seed=[seed, 0]).numpy()
    table = pd.DataFrame(rows, columns=self.columns)
    columns = list(self.dequantized)
    table[columns] = np.floor(table[columns])
    return table


def load(model_dir: str | os.PathLike[str]) -> TableFlow:
  """Loads the flow that `fit` wrote.

  Args:
    model_dir: Directory of the run.

  Raises:
    FileNotFoundError: If there is no flow in this directory.
  """
  model_dir = pathlib.Path(model_dir)
  saved = json.loads((model_dir / DESCRIPTION).read_text())
  whiten = preprocessing.affine(
    np.array(saved['shift']), np.array(saved['scale'])
  )
  settings = table_settings.Settings(**saved['settings'])
  distribution = build_distribution(whiten, settings)
  weights.load(model_dir / saved['weights'], distribution)
  return TableFlow(
    tuple(saved['columns']), tuple(saved['dequantized']), distribution, settings
  )


class _KeepBest(keras.callbacks.Callback):
  """Writes the flow whenever the validation loss is the best so far."""

  def __init__(
    self,
    model_dir: pathlib.Path,
    columns: Sequence[str],
    dequantized: Sequence[str],
    whiten: tfb.Bijector,
  ):
    super().__init__()
    self.best = np.inf
    self._model_dir = model_dir
    shift, scale = whiten.bijectors
    self._description = {
      'columns': list(columns),
      'dequantized': list(dequantized),
      'shift': shift.shift.numpy().tolist(),
      'scale': scale.scale.to_dense().numpy().tolist(),
    }

  def start(self, name: str, settings: table_settings.Settings) -> None:
    """Begins with other settings."""
    self._description |= {
      'settings': dataclasses.asdict(settings),
      'weights': f'{name}.npz',
    }

  def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
    """Keras hook: writes the flow if it is the best."""
    del epoch
    if not logs['val_loss'] < self.best:
      return
    self.best = logs['val_loss']
    path = self._model_dir / self._description['weights']
    weights.save(path, self.model.distribution)
    model_dirs.replace_json(self._model_dir / DESCRIPTION, self._description)


def fit(
  model_dir: pathlib.Path,
  columns: Sequence[str],
  dequantized: Sequence[str],
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  settings: Mapping[str, table_settings.Settings],
  seed: int = 0,
) -> TableFlow:
  """Trains a flow with each of `settings` and returns the best.

  After each twentieth of the steps, the flow is written to `model_dir` if its
  validation loss is the best so far. So a run that is stopped leaves a flow,
  which `load` reads. Writes a table of metrics for each of `settings`, too.

  Args:
    model_dir: Existing directory to write to.
    columns: Names of the columns.
    dequantized: Those to which noise was added.
    whiten: Bijector from whitened rows to rows, see `preprocessing.whitening`.
    train: Training rows, `[N, D]`.
    validation: Validation rows, `[M, D]`.
    settings: Settings by name.
    seed: `int`, seed of the weights, the order of the rows and the noise.

  Raises:
    FloatingPointError: If no validation loss is finite.
    ValueError: If there are fewer training rows than components of a mixture.
  """
  keep_best = _KeepBest(model_dir, columns, dequantized, whiten)
  whitened = [whiten.inverse(rows).numpy() for rows in (train, validation)]
  fit_mixture = functools.cache(
    functools.partial(mixtures.fit, *whitened, seed)
  )
  for name, candidate in settings.items():
    mixture = None
    if candidate.num_components != 1:
      mixture = fit_mixture(candidate.num_components)
      candidate = dataclasses.replace(
        candidate, num_components=mixture.n_components
      )
    keep_best.start(name, candidate)
    log = keras.callbacks.CSVLogger(model_dir / f'{name}.csv')
    try:
      losses = _fit(
        whiten, train, validation, candidate, mixture, seed, [keep_best, log]
      )
    except FloatingPointError as error:
      logging.warning('Settings %r failed. %s', name, error)
    else:
      print(f'Settings {name!r}: {-min(losses):.3f} nats of validation rows.')
  if not np.isfinite(keep_best.best):
    raise FloatingPointError(
      'No validation loss was finite with the settings '
      f'{", ".join(settings)}. Lower the learning rate, or leave out columns '
      'with extreme values.'
    )
  return load(model_dir)


def _fit(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  settings: table_settings.Settings,
  mixture: sklearn.mixture.GaussianMixture | None,
  seed: int,
  callbacks: list[keras.callbacks.Callback],
) -> list[float]:
  """Trains a flow and returns the validation losses."""
  model = density_estimator.DensityEstimator(
    build_distribution(whiten, settings, seed, mixture),
    num_levels=None,
    seed=seed,
  )
  optimizer = keras.optimizers.AdamW(
    keras.optimizers.schedules.CosineDecay(
      settings.learning_rate, settings.num_steps
    ),
    weight_decay=settings.weight_decay,
    global_clipnorm=100.0,
  )
  optimizer.exclude_from_weight_decay(var_names=['mixture'])
  model.compile(optimizer)

  def blur(step: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_normal(
      tf.shape(rows), [seed, step], dtype=rows.dtype
    )
    noise = whiten.forward(settings.noise * noise) - whiten.forward(0 * noise)
    return rows + noise

  rows = tf.data.Dataset.from_tensor_slices(train)
  rows = rows.shuffle(len(train), seed).repeat()
  rows = rows.batch(settings.batch_size, drop_remainder=True)
  history = model.fit(
    rows.enumerate().map(blur),
    steps_per_epoch=-(-settings.num_steps // _NUM_VALIDATIONS),
    epochs=_NUM_VALIDATIONS,
    shuffle=False,
    validation_data=tf.data.Dataset.from_tensors(validation),
    callbacks=callbacks,
    verbose=2,
  )
  return history.history['val_loss']
