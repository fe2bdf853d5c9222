r"""Samples phi^4 theory on a periodic lattice, by a flow and by HMC.

    python examples/sample_lattice.py --model_dir=runs/lattice

Fits Real NVP with checkerboard masks and periodic convolutions to the Boltzmann
distribution of a scalar field in two dimensions, by the reverse
Kullback-Leibler divergence. The independence Metropolis chain, whose proposals
are samples of the flow, then has the exact distribution [1].
--networks=convolutions gives the affine couplings of the tutorial [2] instead
of residual networks.

Prints and writes to report.json in --model_dir

- the loss, the effective sample size of importance weights per sample, and the
  same of the trained weights on a lattice of twice the side length;
- acceptance and autocorrelation time of the Metropolis chain;
- observables by the chain and by HMC, with standard errors: the mean
  magnetization |M| and the two-point susceptibility, V <M^2>.

Also writes fields.png, with fields of both and histograms of M, and the weights
of the flow, flow.index and flow.data-*.

#### References
[1]: Michael Albergo, Gurtej Kanwar, Phiala Shanahan. Flow-based generative
     models for Markov chain Monte Carlo in lattice field theory. _Physical
     Review D_, 100, 2019. https://arxiv.org/abs/1904.12072
[2]: Michael Albergo et al. Introduction to normalizing flows for lattice field
     theory. 2021. https://arxiv.org/abs/2101.08176
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

from collections.abc import Callable
import functools
import pathlib
import time
from typing import Any

from absl import app
from absl import flags
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import figures
from tfp_realnvp import lattice
from tfp_realnvp import model_dirs
from tfp_realnvp import sampling
from tfp_realnvp.networks import layers

tfd = tfp.distributions

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  model_dirs.define_flag('Directory to write the results to.')
  flags.DEFINE_enum(
    'networks',
    'residual',
    ['residual', 'convolutions'],
    'Networks of the couplings: residual ones, or three convolutions.',
  )
  for name, default, help_text in (
    ('side', 8, 'Side length of the lattice, even.'),
    ('num_couplings', 16, 'Number of couplings.'),
    ('hidden_channels', 8, 'Number of hidden channels of each network.'),
    ('num_steps', 3000, 'Number of training steps.'),
    ('batch_size', 64, 'Number of fields per step.'),
    ('num_batches', 20, 'Number of batches of 1,000 fields of the flow.'),
    ('num_chains', 16, 'Number of chains of HMC.'),
    ('num_leapfrog', 10, 'Number of leapfrog steps of HMC.'),
    ('num_hundreds', 20, 'Hundreds of samples of a chain, and of adaptation.'),
  ):
    flags.DEFINE_integer(name, default, help_text, 1)
  flags.DEFINE_float('mass_squared', -4.0, 'Coefficient of phi^2.')
  flags.DEFINE_float('coupling', 8.0, 'Coefficient of phi^4.', 0)
  flags.DEFINE_float(
    'learning_rate',
    2e-3,
    'Initial learning rate of Adam, which decays to 0.',
    lower_bound=0,
  )
  model_dirs.define_seed('Seed of weights, samples and chains.')


class Convolutions(tf.Module):
  """Three periodic convolutions, and a log-scale between -1 and 1 [2]."""

  def __init__(self, spec: tfp_realnvp.NetworkSpec, hidden: int, seed: int):
    super().__init__(name=spec.name)
    channels = [spec.in_channels, hidden, hidden, 2 * spec.out_channels]
    rng = np.random.default_rng([seed, spec.index])
    with self.name_scope:
      self._kernels = []
      for i, (before, after) in enumerate(zip(channels, channels[1:])):
        kernel = rng.normal(size=[3, 3, before, after]) / np.sqrt(9 * before)
        self._kernels.append(
          tf.Variable(kernel, name=f'kernel_{i}', dtype=tf.float32)
        )
      self._biases = [
        tf.Variable(tf.zeros([after]), name=f'bias_{i}')
        for i, after in enumerate(channels[1:])
      ]

  def __call__(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns shift and log-scale."""
    for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases)):
      x = tf.nn.leaky_relu(x, 0.01) if i else x
      x = layers.convolve(x, kernel, padding='periodic') + bias
    raw, shift = tf.split(x, 2, axis=-1)
    return shift, tf.tanh(raw)


def build_flow() -> tfp_realnvp.RealNVPChain:
  """Builds the flow of fields `[L, L, 1]`, of any even side length."""
  if FLAGS.networks == 'residual':
    build = tfp_realnvp.ResidualNetworks(
      hidden_channels=FLAGS.hidden_channels,
      num_blocks=1,
      batch_norm=None,
      padding='periodic',
      seed=FLAGS.seed,
    )
  else:
    build = functools.partial(
      Convolutions, hidden=FLAGS.hidden_channels, seed=FLAGS.seed
    )
  couplings = []
  for index in range(FLAGS.num_couplings):
    mask = functools.partial(tfp_realnvp.checkerboard_mask, parity=index % 2)
    spec = tfp_realnvp.NetworkSpec(
      in_channels=1, out_channels=1, mask=mask, index=index
    )
    couplings.append(tfp_realnvp.AffineCoupling(build(spec), mask))
  return tfp_realnvp.RealNVPChain.from_bijectors(couplings, (None, None, 1))


def distribution_of(
  flow: tfp_realnvp.RealNVPChain, side: int
) -> tfd.Distribution:
  """Returns the distribution of fields `[side, side, 1]`."""
  return tfd.TransformedDistribution(
    tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=[side, side, 1]), flow
  )


def observables(chain: np.ndarray) -> dict[str, dict[str, float]]:
  """Returns the means and standard errors of observables.

  Args:
    chain: Fields `[N, L, L, 1]`, or `[N, M, L, L, 1]` of `M` chains.
  """
  magnetization = lattice.magnetization(chain)
  volume = chain.shape[-3] * chain.shape[-2]
  values = {
    'magnetization': np.abs(magnetization),
    'susceptibility': volume * magnetization**2,
  }
  return {
    name: dict(zip(('mean', 'error'), lattice.mean_and_error(value)))
    for name, value in values.items()
  }


def run_hmc(
  log_prob: Callable[[tf.Tensor], tf.Tensor], side: int
) -> sampling.Chains:
  """Runs HMC, whose chains start from random fields."""
  rng = np.random.default_rng(FLAGS.seed)
  initial = 0.5 * rng.normal(size=[FLAGS.num_chains, side, side, 1])
  return sampling.run_chains(
    log_prob,
    initial.astype(np.float32),
    num_results=100 * FLAGS.num_hundreds,
    num_adaptation=100 * FLAGS.num_hundreds,
    num_leapfrog=FLAGS.num_leapfrog,
    seed=FLAGS.seed,
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  if FLAGS.side % 2:
    raise SystemExit(f'--side must be even, got {FLAGS.side}.')
  model_dir = pathlib.Path(FLAGS.model_dir)
  model_dirs.make_model_dir(model_dir)
  keras.utils.set_random_seed(FLAGS.seed)
  log_prob = lattice.Phi4(FLAGS.mass_squared, FLAGS.coupling).log_prob
  flow = build_flow()
  distribution = distribution_of(flow, FLAGS.side)
  start = time.perf_counter()
  losses = sampling.fit(
    log_prob,
    distribution,
    FLAGS.num_steps,
    FLAGS.batch_size,
    FLAGS.learning_rate,
    FLAGS.seed,
    jit_compile=False,
  )
  seconds = time.perf_counter() - start
  sampling.check_losses(losses)
  with model_dirs.exit_unless_writable(model_dir, tf.errors.OpError):
    tf.train.Checkpoint(flow=flow).write(str(model_dir / 'flow'))
  draw = functools.partial(
    sampling.importance_sample,
    log_prob,
    num_samples=1000 * FLAGS.num_batches,
    seed=FLAGS.seed,
  )
  fields, log_weights = draw(distribution)
  _, log_weights_of_twice = draw(distribution_of(flow, 2 * FLAGS.side))
  indices, acceptance = sampling.metropolis(log_weights, FLAGS.seed)
  chain = fields[indices]
  hmc = run_hmc(log_prob, FLAGS.side)
  report: dict[str, Any] = {
    'loss': float(np.mean(losses[-100:])),
    'training_seconds': seconds,
    'effective_fraction': sampling.effective_fraction(log_weights),
    'effective_fraction_of_twice_the_side': sampling.effective_fraction(
      log_weights_of_twice
    ),
    'acceptance': acceptance,
    'autocorrelation_time': lattice.autocorrelation_time(
      lattice.magnetization(chain)
    ),
    'hmc_autocorrelation_time': lattice.autocorrelation_time(
      lattice.magnetization(hmc.samples)
    ),
    'hmc_R-hat': float(hmc.potential_scale_reduction().max()),
    'flow': observables(chain),
    'hmc': observables(hmc.samples),
  }
  with model_dirs.exit_unless_writable(model_dir):
    model_dirs.replace_json(model_dir / 'report.json', report)
    figures.lattice_fields(chain, hmc.samples, labels=('flow', 'HMC')).savefig(
      model_dir / 'fields.png', dpi=100
    )
  print_report(report)


def print_report(report: dict[str, Any]) -> None:
  """Prints the report."""
  print(
    f'Trained in {report["training_seconds"]:.0f} s; loss '
    f'{report["loss"]:.3f} nats.\n'
    f'Effective sample size per sample {report["effective_fraction"]:.3f}; on '
    'a lattice of twice the side length '
    f'{report["effective_fraction_of_twice_the_side"]:.2g}.\n'
    f'Metropolis chain: acceptance {report["acceptance"]:.3f}, '
    f'autocorrelation time {report["autocorrelation_time"]:.2f} of M (HMC: '
    f'{report["hmc_autocorrelation_time"]:.2f}, R-hat '
    f'{report["hmc_R-hat"]:.3f}).'
  )
  for name, found in report['flow'].items():
    expected = report['hmc'][name]
    distance = abs(found['mean'] - expected['mean'])
    print(
      f'{name}: flow {found["mean"]:.4f} (standard error '
      f'{found["error"]:.4f}), HMC {expected["mean"]:.4f} '
      f'({expected["error"]:.4f}); they differ by '
      f'{distance / np.hypot(found["error"], expected["error"]):.1f} standard '
      'errors.'
    )


if __name__ == '__main__':
  define_flags()
  app.run(main)
