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
settings follow from the numbers of rows and columns; few rows are fitted with
four settings. Keeps the settings and the weights with the best validation
log-likelihood, and prints the test log-likelihood in nats, beside those of a
Gaussian and of a mixture of Gaussians, as many as suit the validation rows.

Writes to --model_dir:

- table_flow.json and the weights, which `tfp_realnvp.table_flows.load` reads.
  They are the best so far, so a run that is stopped leaves a flow;
- a table of metrics for each of the settings, held_out.csv with the
  log-likelihoods of the test rows, and results.json;
- for vectors of two elements mapping.png, which shows data, latents and a grid
  in both spaces (figure 1);
- with --score=other.csv, scores.csv: for each row of that table the number of
  its line, its log-likelihood in nats, and the percentage of the test rows that
  are not more likely. Anomalies have a low percentage;
- with --num_samples, samples.csv.

Without --dataset, it scores and samples with the flow in --model_dir:

    python examples/train_vectors.py --model_dir=runs/table \
      --score=other.csv --num_samples=1000
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

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
from tfp_realnvp import model_dirs
from tfp_realnvp import preprocessing
from tfp_realnvp import table_flows
from tfp_realnvp import table_settings
from tfp_realnvp import tables
from tfp_realnvp.bijectors import couplings
from tfp_realnvp.training import callbacks

# Tables with continuous columns that ship with scikit-learn.
_TABLES = {
  'breast_cancer': datasets.load_breast_cancer,
  'diabetes': datasets.load_diabetes,
  'iris': datasets.load_iris,
  'wine': datasets.load_wine,
}

_HELD_OUT = 'held_out.csv'
_SETTINGS = [f.name for f in dataclasses.fields(table_settings.Settings)]

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_enum(
    'dataset',
    None,
    ['moons', *_TABLES, 'csv'],
    'Data set to train on: two moons, a table of scikit-learn, or --csv.',
  )
  flags.DEFINE_string('csv', None, 'Path of a table of numbers.')
  flags.DEFINE_enum(
    'separator',
    None,
    [*tables.SEPARATORS],
    'What separates the fields of --csv and --score (default: detected).',
  )
  flags.DEFINE_list('drop_columns', [], 'Names of columns to leave out.')
  flags.DEFINE_integer(
    'num_samples', None, 'Number of rows to draw.', lower_bound=1
  )
  flags.DEFINE_boolean(
    'mixtures', True, 'Whether to fit Gaussian mixtures for comparison.'
  )
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
  model_dirs.define_flag('Directory to write the results to.')
  flags.DEFINE_enum(
    'settings',
    None,
    [*table_settings.SETTINGS],
    'Defaults of the flags below. Without it, they follow from the numbers of '
    'rows and columns; where several suit, the validation rows decide.',
  )
  flags.DEFINE_boolean(
    'batch_norm', None, 'Whether batch normalization follows each coupling.'
  )
  flags.DEFINE_enum(
    'couplings', None, [*couplings.BY_NAME], 'Kind of couplings.'
  )
  for name, help_text in {
    'num_components': 'Number of components of a mixture of the latents, for '
    'rows in clusters. 0 lets the validation rows choose it.',
    'num_couplings': 'Number of couplings.',
    'num_layers': 'Number of hidden layers of each network.',
    'hidden_size': 'Number of units of each hidden layer.',
    'batch_size': 'Number of rows per step.',
    'num_steps': 'Number of steps. The learning rate decays to 0.',
  }.items():
    least = 0 if name == 'num_components' else 1
    flags.DEFINE_integer(name, None, help_text, lower_bound=least)
  for name, help_text in {
    'degrees_of_freedom': "Degrees of freedom of Student's t-distribution of "
    'the latents. Infinity gives the normal distribution.',
    'noise': 'Standard deviation of the noise added to training rows, relative '
    'to that of the rows.',
    'weight_decay': 'Weight decay of AdamW.',
    'learning_rate': 'Initial learning rate of AdamW.',
  }.items():
    flags.DEFINE_float(name, None, help_text, lower_bound=0)
  model_dirs.define_seed('Seed of split, weights, noise and two moons.')


def settings(shape: tuple[int, int]) -> dict[str, table_settings.Settings]:
  """Returns the settings to try on rows of a shape, with the given flags."""
  given = {n: FLAGS[n].value for n in _SETTINGS if FLAGS[n].value is not None}
  names = [FLAGS.settings]
  if FLAGS.settings is None:
    names = table_settings.candidates(*shape)
  return {
    name: dataclasses.replace(table_settings.SETTINGS[name], **given)
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


def score(flow: table_flows.TableFlow, rows: np.ndarray) -> np.ndarray:
  """Returns the log-likelihoods of rows in nats: `[N]` for rows `[N, D]`."""
  model = tfp_realnvp.DensityEstimator(flow.distribution, num_levels=None)
  return model.predict(rows, batch_size=1024, verbose=0)


def scores(
  flow: table_flows.TableFlow, held_out: np.ndarray, other: pd.DataFrame
) -> pd.DataFrame:
  """Returns log-likelihoods, and their percentiles among those held out."""
  log_prob = score(
    flow, preprocessing.dequantize(other, flow.dequantized, FLAGS.seed)
  )
  below = np.searchsorted(np.sort(held_out), log_prob, side='right')
  return pd.DataFrame(
    {'log_likelihood': log_prob, 'percentile': 100 * below / len(held_out)},
    index=other.index,
  )


def load(model_dir: pathlib.Path) -> tuple[table_flows.TableFlow, np.ndarray]:
  """Loads a flow and the log-likelihoods of the rows that were held out.

  Raises:
    SystemExit: If there is no flow, or flags of the training are given.
  """
  for name in ('csv', 'settings', 'dequantize', *_SETTINGS):
    if FLAGS[name].present:
      raise SystemExit(
        f'--{name}={FLAGS[name].value} needs --dataset, which is not given.'
      )
  if not (model_dir / table_flows.DESCRIPTION).exists():
    raise SystemExit(
      f'--model_dir={model_dir} has no flow. Give --dataset to train one.'
    )
  with model_dirs.exit_if_damaged(model_dir / table_flows.DESCRIPTION):
    flow = table_flows.load(model_dir)
  if FLAGS.score is None:
    return flow, np.array([])
  if not (model_dir / _HELD_OUT).exists():
    raise SystemExit(
      f'--model_dir={model_dir} has no {_HELD_OUT}, because its run was '
      'killed. So there are no percentiles for --score.'
    )
  with model_dirs.exit_if_damaged(model_dir / _HELD_OUT):
    return flow, np.loadtxt(model_dir / _HELD_OUT, ndmin=1)


def train(
  model_dir: pathlib.Path, table: pd.DataFrame
) -> tuple[table_flows.TableFlow, np.ndarray]:
  """Trains on a table, writes the results, and returns what `load` does."""
  rows = table.to_numpy()
  dequantized = table.columns[tables.integer_columns(rows) & FLAGS.dequantize]
  tables.warn_of_spikes(table, dequantized)
  tables.check_columns(preprocessing.split(rows, FLAGS.seed)[0], table.columns)
  parts = preprocessing.split(
    preprocessing.dequantize(table, dequantized, FLAGS.seed), FLAGS.seed
  )
  if (FLAGS.num_components or 0) > len(parts[0]):
    raise SystemExit(
      f'--num_components={FLAGS.num_components} must be at most the number of '
      f'training rows, {len(parts[0])}.'
    )
  whiten = preprocessing.whitening(parts[0])
  model_dirs.make_model_dir(model_dir)
  status = 0
  try:
    with callbacks.keyboard_interrupts():
      flow = table_flows.fit(
        model_dir,
        table.columns,
        dequantized,
        whiten,
        *parts[:2],
        settings(parts[0].shape),
        FLAGS.seed,
      )
  except FloatingPointError as error:
    raise SystemExit(str(error)) from error
  except KeyboardInterrupt:
    if not (model_dir / table_flows.DESCRIPTION).exists():
      raise SystemExit(130) from None
    logging.warning('Stopped. This is the best flow so far:')
    flow, status = table_flows.load(model_dir), 130
  held_out = score(flow, parts[2])
  np.savetxt(model_dir / _HELD_OUT, held_out)
  results = {
    'rows': len(held_out),
    'log_likelihood': held_out.mean(),
    'standard_error': held_out.std() / len(held_out) ** 0.5,
  }
  print(
    f'Mean log-likelihood of {len(held_out)} held-out rows of '
    f'{rows.shape[1]} columns, in nats: Real NVP '
    f'{results["log_likelihood"]:.3f} (standard error '
    f'{results["standard_error"]:.3f}).'
  )
  model_dirs.replace_json(model_dir / 'results.json', results)
  if rows.shape[1] == 2:
    picture = figures.mapping(flow.distribution, parts[2][:2000])
    picture.savefig(model_dir / 'mapping.png')
  if status:
    raise SystemExit(status)
  if FLAGS.mixtures:
    print('Fitting Gaussian mixtures, unless --nomixtures is given.')
    gaussian, best, count = diagnostics.gaussian_mixtures(
      whiten, *parts, FLAGS.seed
    )
    results |= {'gaussian': gaussian.mean(), 'mixture': best.mean()}
    results['components'] = count
    model_dirs.replace_json(model_dir / 'results.json', results)
    print(
      f'Gaussian {gaussian.mean():.3f}, mixture of {count} Gaussians '
      f'{best.mean():.3f}.'
    )
  return flow, held_out


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  keras.utils.set_random_seed(FLAGS.seed)
  model_dir = pathlib.Path(FLAGS.model_dir)
  if FLAGS.dataset is None:
    flow, held_out = load(model_dir)
    other = load_other(list(flow.columns))
  else:
    if (model_dir / table_flows.DESCRIPTION).exists():
      raise SystemExit(
        f'--model_dir={model_dir} has a flow already. Use another --model_dir, '
        'or leave out --dataset to use that flow.'
      )
    table = load_table()
    names = ', '.join(map(repr, table.columns))
    print(f'{len(table)} rows of {table.shape[1]} columns: {names}.')
    if table.shape[1] < 2:
      raise SystemExit(f'There must be at least two columns, got {names}.')
    other = load_other(list(table.columns))  # Its errors come before training.
    with model_dirs.exit_unless_writable(model_dir):
      flow, held_out = train(model_dir, table)
  with model_dirs.exit_unless_writable(model_dir):
    if FLAGS.score is not None:
      scores(flow, held_out, other).to_csv(model_dir / 'scores.csv')
    if FLAGS.num_samples is not None:
      rows = flow.sample(FLAGS.num_samples, FLAGS.seed)
      rows.to_csv(model_dir / 'samples.csv', index=False)


if __name__ == '__main__':
  define_flags()
  app.run(main)
