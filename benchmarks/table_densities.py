"""Compares densities of tables with those of Gaussians and of zuko's flows.

    python -m benchmarks.table_densities wine breast_cancer diabetes

The rows are split and whitened as by `examples/train_vectors.py`, whose flow is
trained with its own defaults. zuko's flows are trained on the same rows, 64 at
a time, by `benchmarks/zuko_flows.py`. The columns of each table are

- the mean log-likelihood of the held-out rows in nats, and its standard error;
- how far it is behind Real NVP, and the standard error of this difference;
- the seconds of the whole `fit`.

zuko's flows are left out if it is not installed.
"""

import contextlib
import importlib.util
import pathlib
import sys
import tempfile
import time

from absl import app
from absl import flags
import numpy as np

from benchmarks import harness

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags. Processes that import the program do not need them."""
  harness.define_output_flag()
  flags.DEFINE_list('drop_columns', [], 'Names of columns to leave out.')
  flags.DEFINE_multi_string(
    'train_flag', [], 'Flags of train_vectors.py, such as --num_steps=1000.'
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the split and of the weights.')


def _library(arguments):
  """Fits this library's flow, a Gaussian and a mixture of Gaussians.

  Args:
    arguments: Flags of `examples/train_vectors.py`.

  Returns:
    The training, validation and test rows, whitened; the log-determinant of the
    Jacobian from whitened rows to rows; and a dictionary from names to
    log-likelihoods of the test rows and seconds.
  """
  import keras

  from examples import train_vectors
  from tfp_realnvp import diagnostics
  from tfp_realnvp import preprocessing
  from tfp_realnvp import table_flows

  train_vectors.define_flags()
  train_vectors.FLAGS(['train_vectors', '--model_dir=none', *arguments])
  seed = train_vectors.FLAGS.seed
  keras.utils.set_random_seed(seed)
  table = train_vectors.load_table()
  parts = preprocessing.split(table.to_numpy(), seed)
  whiten = preprocessing.whitening(parts[0])
  settings = train_vectors.settings(parts[0].shape)
  start = time.perf_counter()
  with (
    contextlib.redirect_stdout(sys.stderr),
    tempfile.TemporaryDirectory() as directory,
  ):
    flow = table_flows.fit(
      pathlib.Path(directory),
      table.columns,
      (),
      whiten,
      *parts[:2],
      settings,
      seed,
    )
  seconds = time.perf_counter() - start
  log_prob = train_vectors.score(flow, parts[2])
  gaussian, mixture, count = diagnostics.gaussian_mixtures(whiten, *parts, seed)
  log_det = float(whiten.forward_log_det_jacobian(parts[0][:1], event_ndims=1))
  whitened = [whiten.inverse(rows).numpy() for rows in parts]
  models = {
    'Real NVP': (log_prob, seconds),
    'Gaussian': (gaussian, None),
    f'mixture of {count} Gaussians': (mixture, None),
  }
  return whitened, log_det, models


def _zuko(parts, log_det, seed, flow, num_transforms):
  """Fits a flow of zuko to whitened rows; returns the same of the flow."""
  import torch
  import zuko

  from benchmarks import zuko_flows

  torch.manual_seed(seed)
  rows = [torch.tensor(part).float() for part in parts]
  flow = getattr(zuko.flows, flow)(
    rows[0].shape[1], transforms=num_transforms, hidden_features=(64, 64)
  )
  results = zuko_flows.fit(flow, rows[:1], rows[1:2], batch_size=64)
  with torch.no_grad():
    log_prob = flow().log_prob(rows[2]).double().numpy()
  return log_prob - log_det, results['seconds']


_ZUKO = {
  'zuko RealNVP': {'flow': 'RealNVP', 'num_transforms': 8},
  'zuko MAF': {'flow': 'MAF', 'num_transforms': 5},
  'zuko NSF': {'flow': 'NSF', 'num_transforms': 5},
}


def main(argv):
  if len(argv) < 2:
    raise app.UsageError('Name one or more data sets of train_vectors.py.')
  for dataset in argv[1:]:
    arguments = [f'--dataset={dataset}', f'--seed={FLAGS.seed}']
    arguments.append(f'--drop_columns={",".join(FLAGS.drop_columns)}')
    arguments += FLAGS.train_flag
    parts, log_det, models = harness.alone(_library, arguments)
    if importlib.util.find_spec('zuko'):
      for name, kwargs in _ZUKO.items():
        models[name] = harness.alone(
          _zuko, parts, log_det, FLAGS.seed, **kwargs
        )
    ours, _ = models['Real NVP']
    error = lambda values: float(np.std(values) / np.sqrt(len(values)))
    rows = [
      [
        name,
        *(float(np.mean(log_prob)), error(log_prob)),
        *(float(np.mean(ours - log_prob)), error(ours - log_prob)),
        seconds,
      ]
      for name, (log_prob, seconds) in models.items()
    ]
    columns = ['model', 'log-likelihood', 'its error', 'behind Real NVP']
    columns += ['error of the difference', 'seconds']
    names = ('drop_columns', 'train_flag', 'seed')
    options = {name: FLAGS[name].value for name in names}
    harness.report(f'table_densities_{dataset}', columns, rows, options)


if __name__ == '__main__':
  define_flags()
  app.run(main)
