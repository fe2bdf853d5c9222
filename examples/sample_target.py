r"""Samples a density known up to a constant: by a flow, by HMC, and by both.

    python examples/sample_target.py --target=funnel --model_dir=runs/funnel
    python examples/sample_target.py --target=model:log_prob --size=3 \
      --model_dir=runs/model

Fits Real NVP to the target by the reverse Kullback-Leibler divergence, and runs
Hamiltonian Monte Carlo and NUTS in the coordinates of the target and in those
of the flow (neural transport). The targets are

- banana, funnel, and mixture, of separate normal distributions;
- eight_schools, a joint distribution of TensorFlow Probability with a positive
  parameter, which is sampled as its logarithm;
- module:name of your own. The name is that of a function from [N, D] numbers of
  any size to the logarithms of the density, [N], for which --size=D must be
  given; or that of a `JointDistributionPinned`.

Prints and writes to report.json in --model_dir

- the loss; the effective sample size of importance weights per sample; the
  estimate of log Z, the logarithm of the integral of the target;
- KL(q || p) and KL(p || q) in nats, of the flow q and the target p. The second
  is the mean over samples of NUTS. A flow that has lost modes or tails shows a
  large value there, not in the effective sample size;
- for each sampler R-hat, which is near 1 if the chains agree, the effective
  samples of the slowest parameter, per second and per gradient;
- means and standard deviations of the parameters.

Also writes samples.csv, with samples of the flow and their log-weights;
corner.png, with samples of the flow below the diagonal and of NUTS above; and
the weights of the flow, flow.index and flow.data-*.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

import functools
import os
import pathlib
import sys
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
from tfp_realnvp import figures
from tfp_realnvp import model_dirs
from tfp_realnvp import sampling
from tfp_realnvp import targets
from tfp_realnvp.bijectors import couplings

tfb = tfp.bijectors
tfd = tfp.distributions

FLAGS = flags.FLAGS

# Plain HMC is run at each of them, and the most efficient run counts.
_ACCEPTANCES = (0.6, 0.7, 0.8, 0.9)
_MAX_DRAWN = 10  # Parameters in corner.png.


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_string(
    'target',
    None,
    f'One of {", ".join(targets.TARGETS)}, or module:name.',
    required=True,
  )
  model_dirs.define_flag('Directory to write the results to.')
  flags.DEFINE_integer(
    'size', None, 'Number of parameters of a function of your own.', 2
  )
  flags.DEFINE_enum(
    'couplings',
    'affine',
    [*couplings.BY_NAME],
    'Kind of couplings of the flow.',
  )
  for name, default, help_text in (
    ('num_couplings', 8, 'Number of couplings.'),
    ('hidden_size', 64, 'Number of units of the two hidden layers.'),
    ('num_steps', 2000, 'Number of training steps.'),
    ('batch_size', 256, 'Number of samples of the flow per step.'),
    ('num_batches', 20, 'Number of batches of 1,000 samples of the flow.'),
    ('num_chains', 16, 'Number of chains of HMC and NUTS.'),
    ('num_leapfrog', 8, 'Number of leapfrog steps of HMC.'),
    ('num_hundreds', 10, 'Hundreds of samples of a chain, and of adaptation.'),
  ):
    flags.DEFINE_integer(name, default, help_text, 1)
  flags.DEFINE_float(
    'learning_rate',
    5e-3,
    'Initial learning rate of Adam, which decays to 0.',
    lower_bound=0,
  )
  model_dirs.define_seed('Seed of weights, samples and chains.')


def load_target() -> targets.Target:
  """Returns the target that the flags describe.

  Raises:
    SystemExit: If there is none.
  """
  if FLAGS.target in targets.TARGETS:
    if FLAGS.size is not None:
      raise SystemExit(
        f'--size={FLAGS.size} is for functions of your own, got '
        f'--target={FLAGS.target}.'
      )
    return targets.TARGETS[FLAGS.target]()
  sys.path.insert(0, os.getcwd())  # Modules of one's own are there.
  try:
    return targets.load_target(FLAGS.target, FLAGS.size)
  except ValueError as error:
    raise SystemExit(
      f'--target={FLAGS.target}, --size={FLAGS.size}: {error}'
    ) from error


def build_distribution(size: int) -> tfd.Distribution:
  """Builds Real NVP, and a shift and a scale of each number, to be trained."""
  flow = tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=FLAGS.num_couplings,
    networks=tfp_realnvp.DenseNetworks(
      hidden_units=(FLAGS.hidden_size,) * 2, seed=FLAGS.seed
    ),
    couplings=couplings.BY_NAME[FLAGS.couplings](),
  )
  shift = tf.Variable(tf.zeros([size]), name='shift')
  log_scale = tf.Variable(tf.zeros([size]), name='log_scale')
  return tfd.TransformedDistribution(
    tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=[size]),
    tfb.Chain([tfb.Shift(shift), tfb.Scale(log_scale=log_scale), flow]),
  )


def run_samplers(
  target: targets.Target, distribution: tfd.Distribution
) -> dict[str, sampling.Chains]:
  """Runs HMC and NUTS in both coordinates; returns the chains by name."""
  count = FLAGS.num_chains
  # The flow may have lost modes, so plain chains do not start from its samples.
  rng = np.random.default_rng(FLAGS.seed)
  anywhere = tf.constant(rng.normal(size=[count, target.size]), tf.float32)
  kwargs = {
    'num_results': 100 * FLAGS.num_hundreds,
    'num_adaptation': 100 * FLAGS.num_hundreds,
    'seed': FLAGS.seed,
  }
  hmc = {'num_leapfrog': FLAGS.num_leapfrog, **kwargs}
  nuts = {'num_leapfrog': None, **kwargs}
  run = functools.partial(sampling.run_chains, target.log_prob)
  runs = [run(anywhere, target_acceptance=a, **hmc) for a in _ACCEPTANCES]
  efficiency = lambda c: c.effective_samples().min() / c.num_gradients
  results = {
    'HMC': max(runs, key=efficiency),
    'NUTS': run(anywhere, **nuts),
  }
  drawn = distribution.sample(count, seed=[FLAGS.seed, 1])
  for name, options in (('HMC', hmc), ('NUTS', nuts)):
    results[f'{name} in flow coordinates'] = run(
      drawn, bijector=distribution.bijector, **options
    )
  return results


def describe_chains(chains: sampling.Chains) -> dict[str, float]:
  """Returns the row of a sampler in the report."""
  effective = float(chains.effective_samples().min())
  return {
    'step_size': chains.step_size,
    'acceptance': chains.acceptance,
    'R-hat': float(chains.potential_scale_reduction().max()),
    'effective': effective,
    'per_second': effective / chains.seconds,
    'per_gradient': effective / chains.num_gradients,
  }


def moments(
  x: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the means and standard deviations of weighted rows."""
  mean = np.average(x, axis=0, weights=weights)
  return mean, np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weights))


def mode_shares(x: np.ndarray, modes: np.ndarray) -> list[float]:
  """Returns which share of rows is nearest to each mode."""
  distances = np.linalg.norm(x[:, np.newaxis] - modes, axis=-1)
  counts = np.bincount(distances.argmin(1), minlength=len(modes))
  return (counts / len(x)).tolist()


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  target = load_target()
  model_dir = pathlib.Path(FLAGS.model_dir)
  model_dirs.make_model_dir(model_dir)
  keras.utils.set_random_seed(FLAGS.seed)
  distribution = build_distribution(target.size)
  start = time.perf_counter()
  losses = sampling.fit(
    target.log_prob,
    distribution,
    FLAGS.num_steps,
    FLAGS.batch_size,
    FLAGS.learning_rate,
    FLAGS.seed,
  )
  seconds = time.perf_counter() - start
  sampling.check_losses(losses)
  with model_dirs.exit_unless_writable(model_dir, tf.errors.OpError):
    checkpoint = tf.train.Checkpoint(distribution=distribution)
    checkpoint.write(str(model_dir / 'flow'))
  x, log_weights = sampling.importance_sample(
    target.log_prob, distribution, 1000 * FLAGS.num_batches, seed=FLAGS.seed
  )
  chains = run_samplers(target, distribution)
  report = describe(target, distribution, losses, x, log_weights, chains)
  report['training_seconds'] = seconds
  with model_dirs.exit_unless_writable(model_dir):
    model_dirs.replace_json(model_dir / 'report.json', report)
    write_samples(target, model_dir, x, log_weights, chains)
  print_report(report)


def describe(
  target: targets.Target,
  distribution: tfd.Distribution,
  losses: np.ndarray,
  x: np.ndarray,
  log_weights: np.ndarray,
  chains: dict[str, sampling.Chains],
) -> dict[str, Any]:
  """Returns the report.

  Args:
    target: The target.
    distribution: The flow that was fitted to it.
    losses: Loss of each step.
    x: Samples of the flow, `[N, D]`.
    log_weights: Their log-weights, `[N]`.
    chains: Chains by the name of the sampler.
  """
  rows = {
    name: c.samples.reshape(-1, target.size) for name, c in chains.items()
  }
  nuts = rows['NUTS']
  log_q = tf.function(distribution.log_prob)(nuts).numpy()
  log_z, error = sampling.log_normalizer(log_weights)
  weights = sampling.normalized_weights(log_weights)
  parameters = lambda x: target.parameters(tf.constant(x)).numpy()
  estimates = {'flow, weighted': moments(parameters(x), weights)}
  estimates |= {name: moments(parameters(x)) for name, x in rows.items()}
  report = {
    'loss': float(np.mean(losses[-100:])),
    'effective_fraction': sampling.effective_fraction(log_weights),
    'log_z': log_z,
    'log_z_error': error,
    'true_log_z': target.log_normalizer,
    'kl_q_p': log_z - float(np.mean(log_weights)),
    'kl_p_q': float(np.mean(target.log_prob(nuts) - log_q)) - log_z,
    'samplers': {name: describe_chains(c) for name, c in chains.items()},
    'parameters': {
      name: {
        by: {'mean': float(mean[i]), 'stddev': float(stddev[i])}
        for by, (mean, stddev) in estimates.items()
      }
      for i, name in enumerate(target.names)
    },
  }
  if target.modes is not None:
    sets = {'flow': x, **rows}
    report['mode_shares'] = {
      name: mode_shares(x, target.modes) for name, x in sets.items()
    }
  return report


def write_samples(
  target: targets.Target,
  model_dir: pathlib.Path,
  x: np.ndarray,
  log_weights: np.ndarray,
  chains: dict[str, sampling.Chains],
) -> None:
  """Writes samples.csv and corner.png; for the arguments see `describe`."""
  parameters = lambda x: target.parameters(tf.constant(x)).numpy()
  drawn = parameters(x)
  table = pd.DataFrame(drawn, columns=target.names)
  table['log_weight'] = log_weights
  table.to_csv(model_dir / 'samples.csv', index=False)
  nuts = parameters(chains['NUTS'].samples.reshape(-1, target.size))
  figures.corner(
    drawn[:, :_MAX_DRAWN],
    target.names[:_MAX_DRAWN],
    nuts[:, :_MAX_DRAWN],
    labels=('flow', 'NUTS'),
  ).savefig(model_dir / 'corner.png', dpi=100)


def print_report(report: dict[str, Any]) -> None:
  """Prints the report."""
  table = lambda rows: pd.DataFrame(rows).T.to_string(float_format='%.4g')
  truth = report['true_log_z']
  print(
    f'Trained in {report["training_seconds"]:.0f} s; loss '
    f'{report["loss"]:.4f} nats.\n'
    f'Effective sample size per sample {report["effective_fraction"]:.4f}; '
    f'log Z {report["log_z"]:.4f} (standard error '
    f'{report["log_z_error"]:.4f}'
    + ('' if truth is None else f', the true value is {truth:.4f}')
    + f').\nKL(q || p) {report["kl_q_p"]:.4f} nats, KL(p || q) '
    f'{report["kl_p_q"]:.4f} nats by the samples of NUTS.\n\n'
    + table(report['samplers'])
    + '\n\nMeans and standard deviations:\n'
    + table(
      {
        name: {
          by: f'{v["mean"]:.4g} ({v["stddev"]:.4g})' for by, v in row.items()
        }
        for name, row in report['parameters'].items()
      }
    )
  )
  if 'mode_shares' in report:
    shares = pd.DataFrame(report['mode_shares']).T
    print('\nShares of samples by the nearest mode:\n', shares.round(3))


if __name__ == '__main__':
  define_flags()
  app.run(main)
