r"""Infers the parameters of a simulator (neural posterior estimation).

    python examples/infer_parameters.py --task=two_moons \
      --observation=observation.csv --reference=reference.csv.bz2 \
      --model_dir=runs/two_moons
    python examples/infer_parameters.py --simulations=simulations.npz \
      --observation=observation.csv --model_dir=runs/posterior

Simulates with parameters theta of the prior, or reads simulations, and trains a
conditional flow q(theta | x). A file of simulations is

- .npz with arrays `theta` [N, D] and `x` [N, K]; or
- a table with a header. Columns whose names begin with theta are parameters,
  the others are data.

A tenth of the simulations is for validation, and training stops after 20 epochs
without a better validation loss. The weights are moving averages over about 100
steps, which generalize better. Writes to --model_dir:

- model.weights.h5;
- ranks.png: simulation-based calibration on validation simulations. If the
  posterior is right, nearly all bars are within the grey band;
- samples.csv and corner.png: samples of the posterior given --observation, a
  table of one row with the columns of x;
- results.json: validation loss in nats, which refers to standardized
  parameters; seconds of training; the share of samples outside the prior of
  --task; and the C2ST between the samples and --reference, a table with the
  columns of theta. It is 0.5 if they have the same distribution.
"""

import json
import pathlib
import time
from typing import Any

from absl import app
from absl import flags
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import diagnostics
from tfp_realnvp import figures
from tfp_realnvp import model_dirs
from tfp_realnvp import simulators
from tfp_realnvp import tables
from tfp_realnvp.training import callbacks

tfd = tfp.distributions

FLAGS = flags.FLAGS

_COUPLINGS = {
  'affine': tfp_realnvp.AffineCouplings(),
  'spline': tfp_realnvp.SplineCouplings(),
}
_BATCH_SIZE = 256
_NUM_RANKED = 300  # Simulations of which parameters are ranked,
_NUM_DRAWS = 99  # among so many draws of the posterior.
_MAX_DRAWN = 10  # Parameters in corner.png.


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_enum(
    'task', None, [*simulators.TASKS], 'Simulator that is built in.'
  )
  flags.DEFINE_string(
    'simulations', None, 'Path of simulations, .npz or a table.'
  )
  flags.DEFINE_string('observation', None, 'Path of a table of one row, x.')
  flags.DEFINE_string(
    'reference', None, 'Path of a table of samples of the true posterior.'
  )
  flags.DEFINE_string(
    'model_dir', None, 'Directory to write the results to.', required=True
  )
  flags.DEFINE_enum(
    'couplings', 'spline', [*_COUPLINGS], 'Kind of couplings of the flow.'
  )
  flags.DEFINE_list(
    'drop_columns', [], 'Names of columns of --simulations to leave out.'
  )
  flags.DEFINE_boolean(
    'drop_missing',
    False,
    'Whether to leave out simulations with missing or infinite values.',
  )
  for name, default, help_text in (
    ('num_simulations', 10_000, 'Number of simulations of --task.'),
    ('num_samples', 10_000, 'Number of samples given --observation.'),
    ('max_epochs', 1000, 'Largest number of epochs.'),
  ):
    lower_bound = 1 if name == 'max_epochs' else 10
    flags.DEFINE_integer(name, default, help_text, lower_bound)
  flags.DEFINE_integer('seed', 0, 'Seed of simulations, weights and samples.')


def load_simulations() -> tuple[pd.DataFrame, pd.DataFrame]:
  """Returns the parameters and the data of the simulations, with names.

  Raises:
    SystemExit: If the flags contradict each other, the file cannot be read or
      the simulations are too few or have constant columns.
  """
  if (FLAGS.task is None) == (FLAGS.simulations is None):
    raise SystemExit(
      'Either --task or --simulations must be given, got '
      f'--task={FLAGS.task} and --simulations={FLAGS.simulations}.'
    )
  if FLAGS.task is not None:
    return simulators.TASKS[FLAGS.task].draw(FLAGS.num_simulations, FLAGS.seed)
  theta, x = simulators.read_simulations(
    FLAGS.simulations, FLAGS.drop_columns, FLAGS.drop_missing
  )
  if len(theta) < 10:
    raise SystemExit(
      f'--simulations={FLAGS.simulations} must have at least 10 simulations, '
      f'got {len(theta)}.'
    )
  tables.check_columns(theta.to_numpy(), theta.columns)
  tables.check_columns(x.to_numpy(), x.columns, independent=False)
  # The file may be sorted, and its first rows become the validation set.
  order = np.random.default_rng(FLAGS.seed).permutation(len(theta))
  return theta.iloc[order], x.iloc[order]


def load_rows(flag: str, like: pd.DataFrame) -> np.ndarray | None:
  """Returns the table of a flag, or `None` if the flag is not given.

  Args:
    flag: 'observation' or 'reference'.
    like: Table with as many columns. If the names of the columns are the same,
      they may be in another order.

  Raises:
    SystemExit: If the number of columns differs, an observation has several
      rows, or a reference has few rows or a constant column.
  """
  path = FLAGS[flag].value
  if path is None:
    return None
  frame = tables.read_table(path, flag)
  if set(frame.columns) == set(like.columns):
    frame = frame[like.columns]
  if frame.shape[1] != like.shape[1] or (
    flag == 'observation' and len(frame) != 1
  ):
    raise SystemExit(
      f'--{flag}={path} must have {"one row and " * (flag == "observation")}'
      f'{like.shape[1]} columns ({", ".join(like.columns)}), got {len(frame)} '
      f'rows and {frame.shape[1]} columns.'
    )
  rows = frame.to_numpy()
  if flag == 'reference' and (len(rows) < 10 or not np.all(np.ptp(rows, 0))):
    raise SystemExit(
      f'--reference={path} must have at least 10 rows and no column that is '
      f'constant; got {len(rows)} rows.'
    )
  return rows


def build_flow(
  size: int, condition_size: int, couplings: str, seed: int
) -> tfp_realnvp.RealNVPChain:
  """Builds the flow of standardized parameters given standardized data."""
  return tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=8,
    condition_size=condition_size,
    networks=tfp_realnvp.DenseNetworks(seed=seed),
    couplings=_COUPLINGS[couplings],
  )


class Posterior:
  """A conditional flow, with the standardization of parameters and data."""

  def __init__(
    self, theta: np.ndarray, x: np.ndarray, couplings: str, seed: int
  ):
    """Initializes Posterior.

    Args:
      theta: Parameters, `[N, D]`, whose means and standard deviations are used.
      x: Data, `[N, K]`.
      couplings: Value of --couplings.
      seed: Seed of the weights and of the samples.
    """
    size = theta.shape[1]
    self._theta_mean, self._theta_scale = theta.mean(0), theta.std(0)
    self._x_mean, self._x_scale = x.mean(0), x.std(0)
    self.seed = seed
    self.distribution = tfd.TransformedDistribution(
      tfd.MultivariateNormalDiag(tf.zeros([size])),
      build_flow(size, x.shape[1], couplings, seed),
    )

  def standardize(
    self, theta: np.ndarray, x: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns standardized parameters and data, float32."""
    return (
      np.float32((theta - self._theta_mean) / self._theta_scale),
      np.float32((x - self._x_mean) / self._x_scale),
    )

  def sample(self, count: int, x: np.ndarray) -> np.ndarray:
    """Draws parameters: `[count, N, D]` for data `[N, K]`."""
    _, condition = self.standardize(self._theta_mean, x)
    draw = tf.function(self.distribution.sample)
    samples = draw(
      [count, len(x)],
      seed=[self.seed, count],
      bijector_kwargs={'condition': condition},
    )
    return samples.numpy() * self._theta_scale + self._theta_mean


def fit(
  posterior: Posterior,
  theta: np.ndarray,
  x: np.ndarray,
  max_epochs: int = 1000,
  patience: int = 20,
) -> tuple[tfp_realnvp.DensityEstimator, dict[str, Any]]:
  """Trains the posterior; the first tenth of the simulations validates it.

  Args:
    posterior: The flow to train.
    theta: Parameters, `[N, D]`.
    x: Data, `[N, K]`.
    max_epochs: Largest number of epochs.
    patience: Epochs without a better validation loss after which it stops.

  Returns:
    The model with the best weights, and results to write.
  """
  theta, x = posterior.standardize(theta, x)
  tenth = len(theta) // 10
  model = tfp_realnvp.DensityEstimator(
    posterior.distribution, num_levels=None, seed=posterior.seed
  )
  model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=5.0, use_ema=True))
  start = time.perf_counter()
  history = model.fit(
    theta[tenth:],
    x[tenth:],
    batch_size=_BATCH_SIZE,
    epochs=max_epochs,
    validation_data=(theta[:tenth], x[:tenth]),
    validation_batch_size=10_000,
    callbacks=[
      # First, so that the averages are validated and restored.
      callbacks.SwapEMAWeights(swap_on_epoch=True),
      keras.callbacks.EarlyStopping(
        'val_loss', patience=patience, restore_best_weights=True
      ),
    ],
    verbose=2,
  )
  return model, {
    'validation_nats': min(history.history['val_loss']),
    'epochs': len(history.epoch),
    'seconds': time.perf_counter() - start,
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  if FLAGS.reference is not None and FLAGS.observation is None:
    raise SystemExit(
      f'--reference={FLAGS.reference} needs --observation, which is not given.'
    )
  keras.utils.set_random_seed(FLAGS.seed)
  parameters, data = load_simulations()
  observation = load_rows('observation', data)
  reference = load_rows('reference', parameters)
  theta, x, names = parameters.to_numpy(), data.to_numpy(), parameters.columns
  model_dir = pathlib.Path(FLAGS.model_dir)
  model_dirs.make_model_dir(model_dir)
  posterior = Posterior(theta, x, FLAGS.couplings, FLAGS.seed)
  model, results = fit(posterior, theta, x, FLAGS.max_epochs)
  model.save_weights(model_dir / 'model.weights.h5')
  count = min(_NUM_RANKED, len(theta) // 10)
  ranks = diagnostics.ranks(
    posterior.sample(_NUM_DRAWS, x[:count]), theta[:count]
  )
  figures.rank_histograms(ranks, _NUM_DRAWS, names).savefig(
    model_dir / 'ranks.png', dpi=150
  )
  if observation is not None:
    samples = posterior.sample(FLAGS.num_samples, observation)[:, 0]
    pd.DataFrame(samples, columns=names).to_csv(
      model_dir / 'samples.csv', index=False
    )
    drawn = slice(_MAX_DRAWN)
    figures.corner(
      samples[:, drawn],
      names[drawn],
      None if reference is None else reference[:, drawn],
    ).savefig(model_dir / 'corner.png', dpi=150)
    if FLAGS.task is not None:
      inside = simulators.TASKS[FLAGS.task].contains(samples)
      results['share_outside_prior'] = float(np.mean(~inside))
  if reference is not None:
    results['c2st'] = diagnostics.c2st(samples, reference)
  text = json.dumps(results, indent=2)
  (model_dir / 'results.json').write_text(text + '\n')
  print(text)


if __name__ == '__main__':
  define_flags()
  app.run(main)
