"""Compares posteriors of simulators with reference samples and with zuko's.

    python -m benchmarks.posteriors two_moons --reference=sbibm/two_moons

The protocol, of simulations with a uniform prior: parameters and data are
standardized, a tenth of the simulations is for validation, training takes
batches of 256, Adam at 1e-3 and gradients clipped at norm 5, and stops after 20
epochs without a better validation loss. All flows are validated with moving
averages of their weights. Ours are those of `posterior_flows`; zuko's have
networks as large.

Below --reference, N/observation.csv and N/reference_posterior_samples.csv.bz2
are an observation and samples of its posterior, as the benchmark of
simulation-based inference has them [1]. The columns of the table are

- the validation loss in nats, of standardized parameters;
- the number of epochs and the seconds of the whole `fit`;
- C2ST: the mean over the observations, the lowest and the highest. 0.5 is
  perfect.

Models whose package is not installed are left out.

#### References
[1]: Jan-Matthis Lueckmann, Jan Boelts, David Greenberg, Pedro Goncalves, Jakob
     Macke. Benchmarking simulation-based inference. _AISTATS_, 2021.
     https://arxiv.org/abs/2101.04653
"""

import contextlib
import importlib.util
import pathlib
import sys

from absl import app
from absl import flags
import numpy as np
import pandas as pd

from benchmarks import harness

FLAGS = flags.FLAGS

_NUM_SAMPLES = 10_000


def define_flags():
  """Defines the flags. Processes that import the program do not need them."""
  harness.define_output_flag()
  flags.DEFINE_string(
    'reference', None, 'Directory of observations; without it, no C2ST.'
  )
  flags.DEFINE_list('models', list(_MODELS), 'Models to compare.')
  flags.DEFINE_integer('num_simulations', 10_000, 'Number of simulations.')
  flags.DEFINE_integer(
    'epochs', None, 'Train for so many epochs instead of stopping early.'
  )
  flags.DEFINE_integer('seed', 0, 'Seed of weights and samples.')


def _library(theta, x, observations, epochs, seed, couplings):
  """Fits a posterior of this library to standardized rows; draws samples."""
  import keras

  from tfp_realnvp import posterior_flows

  keras.utils.set_random_seed(seed)
  posterior = posterior_flows.Posterior(
    posterior_flows.Standardization.of(pd.DataFrame(theta)),
    posterior_flows.Standardization.of(pd.DataFrame(x)),
    couplings,
    seed,
  )
  limits = {'max_epochs': epochs, 'patience': epochs} if epochs else {}
  with contextlib.redirect_stdout(sys.stderr):
    results = posterior_flows.fit(posterior, theta, x, **limits)
  samples = [
    posterior.sample(_NUM_SAMPLES, row[np.newaxis])[:, 0]
    for row in observations
  ]
  return results, samples


def _zuko(theta, x, observations, epochs, seed, flow, num_transforms):
  """The same with a flow of zuko."""
  import torch
  import zuko

  from benchmarks import zuko_flows

  torch.manual_seed(seed)
  rows = [torch.tensor(table) for table in (theta, x)]
  flow = getattr(zuko.flows, flow)(
    theta.shape[1],
    x.shape[1],
    transforms=num_transforms,
    hidden_features=(64, 64),
  )
  tenth = len(theta) // 10
  train, validation = [r[tenth:] for r in rows], [r[:tenth] for r in rows]
  results = zuko_flows.fit(flow, train, validation, epochs=epochs)
  samples = []
  with torch.no_grad():
    for row in observations:
      draws = flow(torch.tensor(row)).sample((_NUM_SAMPLES,))
      samples.append(draws.numpy())
  return results, samples


_MODELS = {
  'affine': (_library, {'couplings': 'affine'}),
  'spline': (_library, {'couplings': 'spline'}),
  'zuko RealNVP': (_zuko, {'flow': 'RealNVP', 'num_transforms': 8}),
  'zuko NSF': (_zuko, {'flow': 'NSF', 'num_transforms': 5}),
}


def _load(reference):
  """Returns observations, `[N, K]`, and a list of samples, `[M, D]`."""
  directories = sorted(pathlib.Path(reference).iterdir()) if reference else []
  read = lambda name: [pd.read_csv(d / name).to_numpy() for d in directories]
  observations = [row[0] for row in read('observation.csv')]
  return observations, read('reference_posterior_samples.csv.bz2')


def main(argv):
  from tfp_realnvp import diagnostics
  from tfp_realnvp import posterior_flows
  from tfp_realnvp import simulators

  if argv[1:] not in [[task] for task in simulators.TASKS]:
    raise app.UsageError(
      f'Name one of {", ".join(simulators.TASKS)}; got {argv[1:]}.'
    )
  if not set(FLAGS.models) <= set(_MODELS):
    raise app.UsageError(
      f'--models must be some of {", ".join(_MODELS)}; got {FLAGS.models}.'
    )
  (task,) = argv[1:]
  theta, x = simulators.TASKS[task].draw(FLAGS.num_simulations, seed=0)
  # In this process, because PyTorch crashes where TensorFlow is loaded.
  standardize = [posterior_flows.Standardization.of(t) for t in (theta, x)]
  theta, x = (s.forward(t.to_numpy()) for s, t in zip(standardize, (theta, x)))
  observations, references = _load(FLAGS.reference)
  observations = [standardize[1].forward(row) for row in observations]
  rows = []
  for name in FLAGS.models:
    function, kwargs = _MODELS[name]
    if function is _zuko and not importlib.util.find_spec('zuko'):
      continue
    results, samples = harness.alone(
      function,
      theta,
      x,
      observations,
      FLAGS.epochs,
      FLAGS.seed,
      **kwargs,
    )
    samples = [standardize[0].inverse(draws) for draws in samples]
    with harness.processes() as pool:
      accuracies = list(pool.map(diagnostics.c2st, samples, references))
    fit = [results[key] for key in ('validation_nats', 'epochs', 'seconds')]
    scores = 3 * [None]
    if accuracies:
      scores = [np.mean(accuracies), min(accuracies), max(accuracies)]
    rows.append([name, *fit, *scores])
    print(rows[-1], flush=True)
  columns = ['model', 'validation nats', 'epochs', 'seconds']
  columns += ['C2ST', 'lowest', 'highest']
  options = {
    name: FLAGS[name].value for name in ('num_simulations', 'epochs', 'seed')
  }
  harness.report(f'posteriors_{task}', columns, rows, options)


if __name__ == '__main__':
  define_flags()
  app.run(main)
