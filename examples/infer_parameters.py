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
without a better validation loss, or on Ctrl-C. Writes to --model_dir:

- posterior.json and the weights, which `posterior_flows.load` reads;
- ranks.png: simulation-based calibration on validation simulations. If the
  posterior is right, nearly all bars are within the grey band;
- samples.csv and corner.png: samples of the posterior given --observation, a
  table of one row with the columns of x;
- results.json: validation loss in nats, which refers to standardized
  parameters; seconds of training; the share of samples outside the prior of
  --task; and the C2ST between the samples and --reference, a table with the
  columns of theta. It is 0.5 if they have the same distribution.

Without --task and --simulations it samples with the posterior in --model_dir,
and the C2ST is in observation.json:

    python examples/infer_parameters.py --model_dir=runs/posterior \
      --observation=other.csv
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

import json
import pathlib
from typing import Any

from absl import app
from absl import flags
import keras
import numpy as np
import pandas as pd

from tfp_realnvp import diagnostics
from tfp_realnvp import figures
from tfp_realnvp import model_dirs
from tfp_realnvp import posterior_flows
from tfp_realnvp import simulators
from tfp_realnvp import tables
from tfp_realnvp.bijectors import couplings
from tfp_realnvp.training import callbacks

FLAGS = flags.FLAGS

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
  model_dirs.define_flag('Directory to write the results to.')
  flags.DEFINE_enum(
    'couplings',
    'spline',
    [*couplings.BY_NAME],
    'Kind of couplings of the flow.',
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
  model_dirs.define_seed('Seed of simulations, weights and samples.')


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


def load_rows(flag: str, columns: list[str]) -> np.ndarray | None:
  """Returns the table of a flag, or `None` if the flag is not given.

  Args:
    flag: 'observation' or 'reference'.
    columns: Names of its columns. Other names are allowed, and so is another
      order of the same names.

  Raises:
    SystemExit: If the number of columns differs, an observation has several
      rows, or a reference has few rows or a constant column.
  """
  path = FLAGS[flag].value
  if path is None:
    return None
  frame = tables.read_table(path, flag)
  if set(frame.columns) == set(columns):
    frame = frame[columns]
  if frame.shape[1] != len(columns) or (
    flag == 'observation' and len(frame) != 1
  ):
    raise SystemExit(
      f'--{flag}={path} must have {"one row and " * (flag == "observation")}'
      f'{len(columns)} columns ({", ".join(columns)}), got {len(frame)} '
      f'rows and {frame.shape[1]} columns.'
    )
  rows = frame.to_numpy()
  if flag == 'reference' and (len(rows) < 10 or not np.all(np.ptp(rows, 0))):
    raise SystemExit(
      f'--reference={path} must have at least 10 rows and no column that is '
      f'constant; got {len(rows)} rows.'
    )
  return rows


def load(model_dir: pathlib.Path) -> posterior_flows.Posterior:
  """Loads the posterior of an earlier run.

  Raises:
    SystemExit: If there is none, or flags of the training are given.
  """
  for name in (
    *('num_simulations', 'max_epochs', 'couplings'),
    *('drop_columns', 'drop_missing'),
  ):
    if FLAGS[name].present:
      raise SystemExit(
        f'--{name}={FLAGS[name].value} needs --task or --simulations, which '
        'are not given.'
      )
  if not (model_dir / posterior_flows.DESCRIPTION).exists():
    raise SystemExit(
      f'--model_dir={model_dir} has no posterior. Give --task or --simulations '
      'to train one.'
    )
  if FLAGS.observation is None:
    raise SystemExit(
      f'--observation is needed to sample the posterior in {model_dir}.'
    )
  with model_dirs.exit_if_damaged(model_dir / posterior_flows.DESCRIPTION):
    return posterior_flows.load(model_dir)


def train(
  model_dir: pathlib.Path, theta: pd.DataFrame, x: pd.DataFrame
) -> tuple[posterior_flows.Posterior, dict[str, Any]]:
  """Trains a posterior, writes it and ranks.png, and returns the results."""
  posterior = posterior_flows.Posterior(
    posterior_flows.Standardization.of(theta),
    posterior_flows.Standardization.of(x),
    FLAGS.couplings,
    FLAGS.seed,
  )
  theta, x = theta.to_numpy(), x.to_numpy()
  try:
    with callbacks.keyboard_interrupts():
      results = posterior_flows.fit(posterior, theta, x, FLAGS.max_epochs)
  except FloatingPointError as error:
    raise SystemExit(
      f'{error} Use other --couplings, or leave out columns or rows of '
      '--simulations with extreme values.'
    ) from error
  except KeyboardInterrupt:
    raise SystemExit(130) from None
  posterior.save(model_dir)
  count = min(_NUM_RANKED, len(theta) // 10)
  ranks = diagnostics.ranks(
    posterior.sample(_NUM_DRAWS, x[:count]), theta[:count]
  )
  figures.rank_histograms(ranks, _NUM_DRAWS, posterior.theta.columns).savefig(
    model_dir / 'ranks.png', dpi=150
  )
  return posterior, results


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  if FLAGS.reference is not None and FLAGS.observation is None:
    raise SystemExit(
      f'--reference={FLAGS.reference} needs --observation, which is not given.'
    )
  keras.utils.set_random_seed(FLAGS.seed)
  model_dir = pathlib.Path(FLAGS.model_dir)
  is_loaded = FLAGS.task is None and FLAGS.simulations is None
  if is_loaded:
    posterior = load(model_dir)
    names = posterior.theta.columns, posterior.x.columns
  elif (model_dir / posterior_flows.DESCRIPTION).exists():
    raise SystemExit(
      f'--model_dir={model_dir} has a posterior already. Use another '
      '--model_dir, or leave out --task and --simulations to use that one.'
    )
  else:
    simulations = load_simulations()
    names = [[*table.columns] for table in simulations]
  reference = load_rows('reference', names[0])
  observation = load_rows('observation', names[1])
  results = {}
  if not is_loaded:
    model_dirs.make_model_dir(model_dir)
    with model_dirs.exit_unless_writable(model_dir):
      posterior, results = train(model_dir, *simulations)
  if observation is not None:
    samples = posterior.sample(FLAGS.num_samples, observation)[:, 0]
    drawn = slice(_MAX_DRAWN)
    picture = figures.corner(
      samples[:, drawn],
      names[0][drawn],
      None if reference is None else reference[:, drawn],
    )
    with model_dirs.exit_unless_writable(model_dir):
      table = pd.DataFrame(samples, columns=names[0])
      table.to_csv(model_dir / 'samples.csv', index=False)
      picture.savefig(model_dir / 'corner.png', dpi=150)
    if FLAGS.task is not None:
      inside = simulators.TASKS[FLAGS.task].contains(samples)
      results['share_outside_prior'] = float(np.mean(~inside))
  if reference is not None:
    results['c2st'] = diagnostics.c2st(samples, reference)
  name = 'observation.json' if is_loaded else 'results.json'
  with model_dirs.exit_unless_writable(model_dir):
    model_dirs.replace_json(model_dir / name, results)
  print(json.dumps(results, indent=2))
  if results.get('interrupted'):
    raise SystemExit(130)


if __name__ == '__main__':
  define_flags()
  app.run(main)
