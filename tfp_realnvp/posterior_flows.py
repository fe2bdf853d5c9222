"""Posteriors of simulators: conditional flows, and how they are trained.

Needs pandas, which `pip install 'tfp_realnvp[examples]'` installs.
"""

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import model_dirs
from tfp_realnvp import weights
from tfp_realnvp.bijectors import couplings as couplings_lib
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.networks import dense
from tfp_realnvp.training import callbacks
from tfp_realnvp.training import density_estimator

__all__ = [
  'DESCRIPTION',
  'Posterior',
  'Standardization',
  'fit',
  'load',
]

tfd = tfp.distributions

DESCRIPTION = 'posterior.json'  # File of a directory with a posterior.

_WEIGHTS = 'posterior.npz'
_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Standardization:
  """Subtracts the means of columns and divides by their standard deviations.

  Attributes:
    columns: Names of the columns.
    mean: `[D]`.
    scale: Standard deviations, `[D]`.
  """

  columns: list[str]
  mean: np.ndarray
  scale: np.ndarray

  @classmethod
  def of(cls, table: pd.DataFrame) -> 'Standardization':
    """Returns the standardization of a table."""
    rows = table.to_numpy()
    return cls([*table.columns], rows.mean(0), rows.std(0))

  def forward(self, rows: np.ndarray) -> np.ndarray:
    """Returns standardized rows, float32."""
    return np.float32((rows - self.mean) / self.scale)

  def inverse(self, rows: np.ndarray) -> np.ndarray:
    """Returns rows whose standardized values are given, float64."""
    return rows * self.scale + self.mean


class Posterior:
  """A conditional flow q(theta | x), which may be trained or not.

  Attributes:
    theta: `Standardization` of the parameters.
    x: `Standardization` of the data.
    couplings: Kind of couplings, a key of `couplings.BY_NAME`.
    distribution: `tfd.Distribution` of standardized parameters, whose condition
      is standardized data.
    seed: Seed of the weights and of the samples.
  """

  def __init__(
    self,
    theta: Standardization,
    x: Standardization,
    couplings: str = 'spline',
    seed: int = 0,
  ):
    """Initializes Posterior; the arguments are its attributes."""
    self.theta = theta
    self.x = x
    self.couplings = couplings
    self.seed = seed
    size = len(theta.mean)
    flow = real_nvp_chain.RealNVPChain(
      (size,),
      num_couplings=8,
      condition_size=len(x.mean),
      networks=dense.DenseNetworks(seed=seed),
      couplings=couplings_lib.BY_NAME[couplings](),
    )
    self.distribution = tfd.TransformedDistribution(
      tfd.MultivariateNormalDiag(tf.zeros([size])), flow
    )

  def sample(self, count: int, x: np.ndarray) -> np.ndarray:
    """Draws parameters: `[count, N, D]` for data `[N, K]`."""
    draw = tf.function(self.distribution.sample)
    samples = draw(
      [count, len(x)],
      seed=[self.seed, count],
      bijector_kwargs={'condition': self.x.forward(x)},
    )
    return self.theta.inverse(samples.numpy())

  def log_prob(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns log q(theta | x) in nats: `[N]` for `[N, D]` and `[N, K]`."""
    standardized = self.distribution.log_prob(
      self.theta.forward(theta),
      bijector_kwargs={'condition': self.x.forward(x)},
    )
    return standardized.numpy() - np.log(self.theta.scale).sum()

  def save(self, model_dir: str | os.PathLike[str]) -> None:
    """Writes the posterior to an existing directory, for `load`."""
    model_dir = pathlib.Path(model_dir)
    weights.save(model_dir / _WEIGHTS, self.distribution)
    description = {
      'theta': dataclasses.asdict(self.theta),
      'x': dataclasses.asdict(self.x),
      'couplings': self.couplings,
      'seed': self.seed,
    }
    model_dirs.replace_json(model_dir / DESCRIPTION, description)


def load(model_dir: str | os.PathLike[str]) -> Posterior:
  """Loads what `Posterior.save` wrote.

  Args:
    model_dir: Directory of the run.

  Raises:
    FileNotFoundError: If there is no posterior in this directory.
  """
  model_dir = pathlib.Path(model_dir)
  saved = json.loads((model_dir / DESCRIPTION).read_text())
  for name in ('theta', 'x'):
    columns, *moments = saved[name].values()
    saved[name] = Standardization(columns, *map(np.array, moments))
  posterior = Posterior(**saved)
  weights.load(model_dir / _WEIGHTS, posterior.distribution)
  return posterior


def fit(
  posterior: Posterior,
  theta: np.ndarray,
  x: np.ndarray,
  max_epochs: int = 1000,
  patience: int = 20,
) -> dict[str, Any]:
  """Trains a posterior; the first tenth of the simulations validates it.

  The weights are moving averages over about 100 steps, which generalize better.
  On Ctrl-C the training ends, and the posterior has the best weights so far.

  Args:
    posterior: The posterior to train.
    theta: Parameters, `[N, D]`.
    x: Data, `[N, K]`.
    max_epochs: Largest number of epochs.
    patience: Epochs without a better validation loss after which it stops.

  Returns:
    `validation_nats`, the best validation loss, of standardized parameters;
    `epochs`; `seconds`; and `interrupted`, whether Ctrl-C ended the training.

  Raises:
    FloatingPointError: If no validation loss is finite.
    KeyboardInterrupt: On Ctrl-C before the end of the first epoch.
  """
  theta, x = posterior.theta.forward(theta), posterior.x.forward(x)
  tenth = len(theta) // 10
  model = density_estimator.DensityEstimator(
    posterior.distribution, num_levels=None, seed=posterior.seed
  )
  model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=5.0, use_ema=True))
  best = keras.callbacks.EarlyStopping(
    'val_loss', patience=patience, restore_best_weights=True
  )
  start = time.perf_counter()
  interrupted = False
  try:
    model.fit(
      theta[tenth:],
      x[tenth:],
      batch_size=_BATCH_SIZE,
      epochs=max_epochs,
      validation_data=(theta[:tenth], x[:tenth]),
      validation_batch_size=10_000,
      # The averages come first, so that they are validated and restored.
      callbacks=[callbacks.SwapEMAWeights(swap_on_epoch=True), best],
      verbose=2,
    )
  except KeyboardInterrupt:
    if best.best_weights is None:
      raise
    interrupted = True
    model.set_weights(best.best_weights)
  if not np.isfinite(best.best):
    raise FloatingPointError(f'The validation loss is {best.best}.')
  return {
    'validation_nats': float(best.best),
    'epochs': len(model.history.epoch),
    'seconds': time.perf_counter() - start,
    'interrupted': interrupted,
  }
