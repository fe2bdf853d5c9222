r"""Estimates densities of vectors: two moons, tables, or your own CSV file.

    python examples/train_vectors.py --dataset=moons --model_dir=runs/moons
    python examples/train_vectors.py --dataset=breast_cancer \
      --model_dir=runs/breast_cancer
    python examples/train_vectors.py --dataset=csv --csv=table.csv \
      --model_dir=runs/table

The table may have a header or not; its separator is a comma, a semicolon, a tab
or whitespace. Missing values, text, and columns that are constant or functions
of others are errors that name the columns and the flag that leaves them out.

Holds out a fifth of the rows for testing and a fifth for validation. The
settings follow from the number of rows; few rows are fitted with two settings.
Keeps the settings and the weights with the best validation log-likelihood and
prints the test log-likelihood in nats, beside those of a Gaussian and of a
Gaussian mixture whose number of components is chosen on the validation rows.
Writes the weights to --model_dir, and for vectors of two elements mapping.png,
which shows data, latents and a grid in both spaces (figure 1).

With --score=other.csv it also writes scores.csv: for each row of that table the
number of its line, its log-likelihood in nats, and the percentage of the test
rows that are not more likely. Anomalies have a low percentage.
"""

import dataclasses
import pathlib

from absl import app
from absl import flags
from absl import logging
import keras
import numpy as np
import pandas as pd
from sklearn import datasets

import tfp_realnvp
from tfp_realnvp import diagnostics
from tfp_realnvp import figures
from tfp_realnvp import table_flows
from tfp_realnvp import tables
from tfp_realnvp.paper import reports

# Tables with continuous columns that ship with scikit-learn.
_TABLES = {
  'breast_cancer': datasets.load_breast_cancer,
  'diabetes': datasets.load_diabetes,
  'iris': datasets.load_iris,
  'wine': datasets.load_wine,
}

FLAGS = flags.FLAGS


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
  flags.DEFINE_enum(
    'settings',
    None,
    [*table_flows.SETTINGS],
    'Defaults of the flags below. Without it, they follow from the number of '
    'rows; where several suit, the validation rows decide.',
  )
  flags.DEFINE_boolean(
    'batch_norm', None, 'Whether batch normalization follows each coupling.'
  )
  flags.DEFINE_enum(
    'couplings',
    None,
    [*table_flows.COUPLINGS],
    'Kind of couplings of the flow.',
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


def settings(num_rows: int) -> dict[str, table_flows.Settings]:
  """Returns the settings to try, with the flags that were given."""
  names = [field.name for field in dataclasses.fields(table_flows.Settings)]
  given = {name: FLAGS[name].value for name in names}
  given = {name: value for name, value in given.items() if value is not None}
  names = (
    [FLAGS.settings] if FLAGS.settings else table_flows.candidates(num_rows)
  )
  return {
    name: dataclasses.replace(table_flows.SETTINGS[name], **given)
    for name in names
  }


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
  model = table_flows.fit_best(
    whiten, train, validation, settings(len(train)), FLAGS.seed
  )
  model.save_weights(model_dir / 'model.weights.h5')
  if table.shape[1] == 2:
    picture = figures.mapping(model.distribution, test[:2000])
    picture.savefig(model_dir / 'mapping.png')
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
