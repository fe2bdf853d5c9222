"""Flows of tables: their settings, and how they are trained.

The couplings model whitened rows, which are easier to learn. `log_prob` of the
distributions is the density of the rows themselves.
"""

from collections.abc import Mapping
import dataclasses
import types

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import couplings
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.networks import dense
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import density_estimator

__all__ = [
  'COUPLINGS',
  'SETTINGS',
  'Settings',
  'build_distribution',
  'candidates',
  'fit',
  'fit_best',
]

tfb = tfp.bijectors
tfd = tfp.distributions

COUPLINGS = types.MappingProxyType(
  {
    'affine': couplings.AffineCouplings,
    'spline': couplings.SplineCouplings,
  }
)
_NUM_VALIDATIONS = 20
_MANY_ROWS = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a flow and of its training.

  Attributes:
    couplings: Kind of couplings, a key of `COUPLINGS`.
    num_couplings: Number of couplings.
    num_layers: Number of hidden layers of each network.
    hidden_size: Number of units of each hidden layer.
    batch_norm: Whether batch normalization follows each coupling.
    degrees_of_freedom: Degrees of freedom of Student's t-distribution of the
      latents. Infinity gives the normal distribution.
    noise: Standard deviation of the noise added to training rows, relative to
      that of the rows.
    weight_decay: Weight decay of AdamW.
    learning_rate: Initial learning rate of AdamW. It decays to 0 (cosine).
    batch_size: Number of rows per step.
    num_steps: Number of steps.
  """

  couplings: str = 'spline'
  num_couplings: int = 8
  num_layers: int = 1
  hidden_size: int = 32
  batch_norm: bool = False
  degrees_of_freedom: float = np.inf
  noise: float = 0.0
  weight_decay: float = 0.5
  learning_rate: float = 5e-4
  batch_size: int = 64
  num_steps: int = 1500

  def __post_init__(self) -> None:
    if self.couplings not in COUPLINGS:
      raise ValueError(
        f'couplings must be one of {[*COUPLINGS]}, got {self.couplings!r}.'
      )


# Tables of few rows need regularization more than a flexible flow, unless
# columns repeat their values.
SETTINGS: Mapping[str, Settings] = types.MappingProxyType(
  {
    'regularized': Settings(
      couplings='affine', degrees_of_freedom=4.0, noise=0.4
    ),
    'flexible': Settings(),
    'large': Settings(
      num_layers=2,
      hidden_size=64,
      weight_decay=0.0,
      learning_rate=5e-3,
      batch_size=512,
      num_steps=5000,
    ),
  }
)


def candidates(num_rows: int) -> tuple[str, ...]:
  """Returns the names of the settings that suit a number of training rows."""
  if num_rows < _MANY_ROWS:
    return ('regularized', 'flexible')
  return ('large',)


def build_distribution(
  whiten: tfb.Bijector, settings: Settings, seed: int | None = None
) -> tfd.TransformedDistribution:
  """Builds Real NVP followed by an affine bijector.

  Args:
    whiten: Bijector from whitened rows to rows, see `tables.whitening`.
    settings: Settings of the flow.
    seed: `int`, seed of the weights.
  """
  (size,) = whiten.bijectors[0].shift.shape
  flow = real_nvp_chain.RealNVPChain(
    (size,),
    num_couplings=settings.num_couplings,
    networks=dense.DenseNetworks(
      hidden_units=(settings.hidden_size,) * settings.num_layers, seed=seed
    ),
    couplings=COUPLINGS[settings.couplings](
      batch_norm=moving_statistics.BatchNormOptions()
      if settings.batch_norm
      else None
    ),
    dtype=tf.float64,
  )
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  prior = tfd.Normal(zero, one)
  if np.isfinite(settings.degrees_of_freedom):
    prior = tfd.StudentT(settings.degrees_of_freedom * one, zero, one)
  return tfd.TransformedDistribution(
    tfd.Sample(prior, sample_shape=[size]), tfb.Chain([whiten, flow])
  )


def fit(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  settings: Settings,
  seed: int = 0,
) -> density_estimator.DensityEstimator:
  """Trains a flow, and keeps the weights with the best validation loss.

  Args:
    whiten: Bijector from whitened rows to rows.
    train: Training rows, `[N, D]`.
    validation: Validation rows, `[M, D]`.
    settings: Settings of the flow and of its training.
    seed: `int`, seed of the weights, the order of the rows and the noise.
  """
  distribution = build_distribution(whiten, settings, seed)
  model = density_estimator.DensityEstimator(
    distribution, num_levels=None, seed=seed
  )
  model.compile(
    keras.optimizers.AdamW(
      keras.optimizers.schedules.CosineDecay(
        settings.learning_rate, settings.num_steps
      ),
      weight_decay=settings.weight_decay,
      global_clipnorm=100.0,
    )
  )

  def blur(step: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_normal(
      tf.shape(rows), [seed, step], dtype=rows.dtype
    )
    noise = whiten.forward(settings.noise * noise) - whiten.forward(0 * noise)
    return rows + noise

  rows = tf.data.Dataset.from_tensor_slices(train)
  rows = rows.shuffle(len(train), seed).repeat().batch(settings.batch_size)
  model.fit(
    rows.enumerate().map(blur),
    steps_per_epoch=-(-settings.num_steps // _NUM_VALIDATIONS),
    epochs=_NUM_VALIDATIONS,
    shuffle=False,
    validation_data=tf.data.Dataset.from_tensors(validation),
    callbacks=[
      keras.callbacks.EarlyStopping(
        'val_loss', patience=_NUM_VALIDATIONS, restore_best_weights=True
      )
    ],
    verbose=2,
  )
  return model


def fit_best(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  settings: Mapping[str, Settings],
  seed: int = 0,
) -> density_estimator.DensityEstimator:
  """Trains a flow with each of `settings` and returns the best.

  Prints the mean log-likelihood of the validation rows of each, in nats. The
  other arguments are those of `fit`.
  """
  best, best_value = None, -np.inf
  for name, candidate in settings.items():
    model = fit(whiten, train, validation, candidate, seed)
    value = model.predict(validation, batch_size=1024, verbose=0).mean()
    print(f'Settings {name!r}: {value:.3f} nats of the validation rows.')
    if best is None or value > best_value:
      best, best_value = model, value
  return best
