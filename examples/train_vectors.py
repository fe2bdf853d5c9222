r"""Estimates densities of vectors: two moons, tables, or your own CSV file.

    python examples/train_vectors.py --dataset=moons --model_dir=runs/moons
    python examples/train_vectors.py --dataset=breast_cancer \
      --model_dir=runs/breast_cancer
    python examples/train_vectors.py --dataset=csv --csv=table.csv \
      --model_dir=runs/table

The table may have a header or not; its separator is a comma, a semicolon, a tab
or whitespace. Missing values, text, and columns that are constant or functions
of others are errors that name the columns and the flag that leaves them out.

Holds out a fifth of the rows for testing and a fifth for validation. Keeps the
weights with the best validation log-likelihood and prints the test
log-likelihood in nats, beside those of a Gaussian and of a Gaussian mixture
whose number of components is chosen on the validation rows. Writes the weights
to --model_dir, and for vectors of two elements mapping.png, which shows data,
latents and a grid in both spaces (figure 1).

With --score=other.csv it also writes scores.csv: for each row of that table the
number of its line, its log-likelihood in nats, and the percentage of the test
rows that are not more likely. Anomalies have a low percentage.
"""

import pathlib

from absl import app
from absl import flags
from absl import logging
import keras
import numpy as np
import pandas as pd
from sklearn import datasets
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import diagnostics
from tfp_realnvp import figures
from tfp_realnvp import tables
from tfp_realnvp.paper import reports

tfb = tfp.bijectors
tfd = tfp.distributions

# Tables with continuous columns that ship with scikit-learn.
_TABLES = {
  'breast_cancer': datasets.load_breast_cancer,
  'diabetes': datasets.load_diabetes,
  'iris': datasets.load_iris,
  'wine': datasets.load_wine,
}

_COUPLINGS = {
  'affine': tfp_realnvp.AffineCouplings,
  'spline': tfp_realnvp.SplineCouplings,
}

FLAGS = flags.FLAGS

# Two moons have many rows and few columns. The tables have few rows and many
# columns, and need regularization more than a flexible flow.
_TOY = {
  'couplings': 'spline',
  'num_couplings': 8,
  'num_layers': 2,
  'hidden_size': 64,
  'batch_norm': False,
  'degrees_of_freedom': np.inf,
  'noise': 0.0,
  'weight_decay': 0.0,
  'learning_rate': 5e-3,
  'batch_size': 512,
  'num_steps': 5000,
}
_TABLE = {
  'couplings': 'affine',
  'num_couplings': 8,
  'num_layers': 1,
  'hidden_size': 32,
  'batch_norm': False,
  'degrees_of_freedom': 4.0,
  'noise': 0.4,
  'weight_decay': 0.5,
  'learning_rate': 5e-4,
  'batch_size': 64,
  'num_steps': 1500,
}
_NUM_VALIDATIONS = 20


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_enum(
    'dataset',
    None,
    ['moons', *_TABLES, 'csv'],
    'Data set to train on: two moons, a table of scikit-learn, or --csv.',
    required=True,
  )
  flags.DEFINE_string('csv', None, 'Path of a table of numbers.')
  flags.DEFINE_enum(
    'separator',
    None,
    [*tables.SEPARATORS],
    'What separates the fields of --csv and --score (default: detected).',
  )
  flags.DEFINE_list('drop_columns', [], 'Names of columns to leave out.')
  flags.DEFINE_boolean(
    'drop_missing',
    False,
    'Whether to leave out rows with missing or infinite values.',
  )
  flags.DEFINE_boolean(
    'dequantize',
    False,
    'Whether to add uniform noise on [0, 1) to columns of integers.',
  )
  flags.DEFINE_string(
    'score', None, 'Path of a table with the same columns to score.'
  )
  flags.DEFINE_string(
    'model_dir', None, 'Directory to write the results to.', required=True
  )
  flags.DEFINE_boolean(
    'batch_norm', None, 'Whether batch normalization follows each coupling.'
  )
  flags.DEFINE_enum(
    'couplings', None, [*_COUPLINGS], 'Kind of couplings of the flow.'
  )
  for name, help_text in {
    'num_couplings': 'Number of couplings.',
    'num_layers': 'Number of hidden layers of each network.',
    'hidden_size': 'Number of units of each hidden layer.',
    'batch_size': 'Number of rows per step.',
    'num_steps': 'Number of steps. The learning rate decays to 0.',
  }.items():
    flags.DEFINE_integer(name, None, help_text, lower_bound=1)
  for name, help_text in {
    'degrees_of_freedom': "Degrees of freedom of Student's t-distribution of "
    'the latents. Infinity gives the normal distribution.',
    'noise': 'Standard deviation of the noise added to training rows, relative '
    'to that of the rows.',
    'weight_decay': 'Weight decay of AdamW.',
    'learning_rate': 'Initial learning rate of AdamW.',
  }.items():
    flags.DEFINE_float(name, None, help_text, lower_bound=0)
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the split, the weights, the noise and the two moons.'
  )


def set_defaults() -> None:
  """Sets the flags that were not given."""
  for name, value in (_TOY if FLAGS.dataset == 'moons' else _TABLE).items():
    if FLAGS[name].value is None:
      FLAGS[name].value = value


def load_table() -> pd.DataFrame:
  """Returns the data set that the flags describe: float `[N, D]`, with names.

  Raises:
    SystemExit: If the table cannot be read, or flags contradict each other.
  """
  if (FLAGS.dataset == 'csv') != (FLAGS.csv is not None):
    raise SystemExit(
      '--dataset=csv and the path --csv must be given together, got '
      f'--dataset={FLAGS.dataset} and --csv={FLAGS.csv}.'
    )
  if FLAGS.csv is not None:
    return tables.read_table(
      FLAGS.csv, 'csv', FLAGS.separator, FLAGS.drop_columns, FLAGS.drop_missing
    )
  if FLAGS.dataset == 'moons':
    rows, _ = datasets.make_moons(50_000, noise=0.07, random_state=FLAGS.seed)
    table = pd.DataFrame(rows, columns=['x1', 'x2'])
  else:
    table = _TABLES[FLAGS.dataset](as_frame=True).data
  return tables.drop(table, FLAGS.drop_columns, f'--dataset={FLAGS.dataset}')


def load_other(columns: list[str]) -> pd.DataFrame:
  """Returns the rows of --score, none without it, with the same columns."""
  if FLAGS.score is None:
    return pd.DataFrame(columns=columns, dtype=np.float64)
  return tables.read_table(
    FLAGS.score,
    'score',
    FLAGS.separator,
    FLAGS.drop_columns,
    FLAGS.drop_missing,
    columns,
  )


def build_distribution(whiten: tfb.Bijector) -> tfd.Distribution:
  """Builds Real NVP followed by the affine bijector `whiten`.

  The couplings then model whitened rows, which is easier to learn, and
  `log_prob` is still the density of the rows themselves.
  """
  (size,) = whiten.bijectors[0].shift.shape
  flow = tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=FLAGS.num_couplings,
    networks=tfp_realnvp.DenseNetworks(
      hidden_units=(FLAGS.hidden_size,) * FLAGS.num_layers, seed=FLAGS.seed
    ),
    couplings=_COUPLINGS[FLAGS.couplings](
      batch_norm=tfp_realnvp.BatchNormOptions() if FLAGS.batch_norm else None
    ),
    dtype=tf.float64,
  )
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  prior = tfd.Normal(zero, one)
  if np.isfinite(FLAGS.degrees_of_freedom):
    prior = tfd.StudentT(FLAGS.degrees_of_freedom * one, zero, one)
  return tfd.TransformedDistribution(
    tfd.Sample(prior, sample_shape=[size]), tfb.Chain([whiten, flow])
  )


def fit(
  distribution: tfd.Distribution,
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
) -> tfp_realnvp.DensityEstimator:
  """Trains the distribution and keeps the weights of the best validation."""
  model = tfp_realnvp.DensityEstimator(
    distribution, num_levels=None, seed=FLAGS.seed
  )
  model.compile(
    keras.optimizers.AdamW(
      keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, FLAGS.num_steps
      ),
      weight_decay=FLAGS.weight_decay,
      global_clipnorm=100.0,
    )
  )

  def blur(step: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_normal(
      tf.shape(rows), [FLAGS.seed, step], dtype=rows.dtype
    )
    noise = whiten.forward(FLAGS.noise * noise) - whiten.forward(0 * noise)
    return rows + noise

  rows = tf.data.Dataset.from_tensor_slices(train)
  rows = rows.shuffle(len(train), FLAGS.seed).repeat().batch(FLAGS.batch_size)
  model.fit(
    rows.enumerate().map(blur),
    steps_per_epoch=-(-FLAGS.num_steps // _NUM_VALIDATIONS),
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


def score(
  model: tfp_realnvp.DensityEstimator, held_out: np.ndarray, other: pd.DataFrame
) -> pd.DataFrame:
  """Returns log-likelihoods, and their percentiles among those held out."""
  log_prob = model.predict(other.to_numpy(), batch_size=1024, verbose=0)
  below = np.searchsorted(np.sort(held_out), log_prob, side='right')
  return pd.DataFrame(
    {'log_likelihood': log_prob, 'percentile': 100 * below / len(held_out)},
    index=other.index,
  )


def _warn_of_spikes(columns: pd.Index, what: str, remedy: str) -> None:
  """Warns if there are columns on which densities can grow without bound."""
  if len(columns):
    logging.warning(
      'Columns %s have %s. Densities can grow without bound there, so '
      'log-likelihoods say little. %s these columns out with --drop_columns.',
      ', '.join(map(repr, columns)),
      what,
      remedy,
    )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  set_defaults()
  keras.utils.set_random_seed(FLAGS.seed)
  table = load_table()
  names = ', '.join(map(repr, table.columns))
  print(f'{len(table)} rows of {table.shape[1]} columns: {names}.')
  if table.shape[1] < 2:
    raise SystemExit(f'There must be at least two columns, got {names}.')
  other = load_other(list(table.columns))
  parts = tables.split(table.to_numpy(), FLAGS.seed)
  tables.check_columns(parts[0], table.columns)
  is_integer = tables.integer_columns(table.to_numpy())
  if FLAGS.dequantize:
    rng = np.random.default_rng(FLAGS.seed)
    parts = [x + is_integer * rng.uniform(size=x.shape) for x in parts]
    other = other + is_integer * rng.uniform(size=other.shape)
  else:
    _warn_of_spikes(
      table.columns[is_integer],
      'integers only',
      'Use --dequantize to add uniform noise on [0, 1), or leave',
    )
  is_repeating = tables.repeating_columns(table.to_numpy()) & ~is_integer
  _warn_of_spikes(table.columns[is_repeating], 'few different values', 'Leave')
  train, validation, test = parts
  whiten = tables.whitening(train)
  model_dir = pathlib.Path(FLAGS.model_dir)
  reports.make_model_dir(model_dir)
  distribution = build_distribution(whiten)
  model = fit(distribution, whiten, train, validation)
  model.save_weights(model_dir / 'model.weights.h5')
  if table.shape[1] == 2:
    figures.mapping(distribution, test[:2000]).savefig(
      model_dir / 'mapping.png'
    )
  log_prob = model.predict(test, batch_size=1024, verbose=0)
  if FLAGS.score is not None:
    score(model, log_prob, other).to_csv(model_dir / 'scores.csv')
  gaussian, best, count = diagnostics.gaussian_mixtures(
    whiten, train, validation, test, FLAGS.seed
  )
  print(
    f'Mean log-likelihood of {len(test)} held-out rows of {table.shape[1]} '
    f'columns, in nats: Real NVP {log_prob.mean():.3f} '
    f'(standard error {log_prob.std() / len(test) ** 0.5:.3f}), '
    f'Gaussian {gaussian.mean():.3f}, '
    f'mixture of {count} Gaussians {best.mean():.3f}.'
  )


if __name__ == '__main__':
  define_flags()
  app.run(main)
