"""Samples densities known up to a constant: by flows and by MCMC.

`fit` trains a flow, `importance_sample` says how good it is, and `run_chains`
runs Hamiltonian Monte Carlo in the coordinates of the target or of the flow.
"""

from collections.abc import Callable
import dataclasses
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'Chains',
  'check_losses',
  'effective_fraction',
  'fit',
  'importance_sample',
  'log_normalizer',
  'metropolis',
  'normalized_weights',
  'run_chains',
]

_CHUNK = 100  # Samples of a chain that are drawn in one call.


def fit(
  log_prob: Callable[[tf.Tensor], tf.Tensor],
  distribution: tfd.Distribution,
  num_steps: int,
  sample_size: int,
  learning_rate: float,
  seed: int = 0,
  jit_compile: bool = True,
) -> np.ndarray:
  """Fits a distribution to a target by the reverse Kullback-Leibler divergence.

  Minimizes `E[log q(x) - log p(x)]` over samples `x` of the distribution `q` by
  Adam, whose learning rate decays to 0 along a cosine. Reverse KL can lose
  modes of the target, and the loss does not show it.

  Args:
    log_prob: The target `log p`, up to a constant.
    distribution: The distribution to train.
    num_steps: Number of steps.
    sample_size: Number of samples per step.
    learning_rate: Initial learning rate.
    seed: Seed of the samples.
    jit_compile: Whether to compile the loop with XLA. This is slower for
      convolutions on a CPU.

  Returns:
    The loss of each step in nats, `[num_steps]`. It is at least `-log Z`.
  """
  variables = list(distribution.trainable_variables)
  optimizer = keras.optimizers.Adam(
    keras.optimizers.schedules.CosineDecay(learning_rate, num_steps),
    global_clipnorm=10.0,
  )
  optimizer.build(variables)
  losses = tfp.vi.fit_surrogate_posterior(
    log_prob,
    distribution,
    optimizer,
    num_steps,
    sample_size=sample_size,
    trainable_variables=variables,
    jit_compile=jit_compile,
    seed=[seed, 0],
  )
  return losses.numpy()


def check_losses(losses: np.ndarray) -> None:
  """Raises a `SystemExit` if the last loss is not finite.

  Args:
    losses: Loss of each step, `[num_steps]`.
  """
  if np.isfinite(losses[-1]):
    return
  step = np.flatnonzero(~np.isfinite(losses))[0]
  raise SystemExit(
    f'The loss is {losses[step]} at step {step}. The target must be finite for '
    'all numbers and have a finite integral; or lower --learning_rate.'
  )


def importance_sample(
  log_prob: Callable[[tf.Tensor], tf.Tensor],
  distribution: tfd.Distribution,
  num_samples: int,
  batch_size: int = 1000,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws samples and the logarithms of their importance weights.

  Args:
    log_prob: The target `log p`, up to a constant.
    distribution: The distribution `q` to draw from.
    num_samples: Multiple of `batch_size`.
    batch_size: Number of samples to draw at once.
    seed: Seed of the samples.

  Returns:
    samples: `[num_samples, ...]`.
    log_weights: `log p(x) - log q(x)`, `[num_samples]`, in nats.
  """

  @tf.function(jit_compile=True)
  def draw(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    x, log_q = distribution.experimental_sample_and_log_prob(
      batch_size, seed=seed
    )
    return x, log_prob(x) - log_q

  draws = [
    draw(tf.constant([seed, i])) for i in range(num_samples // batch_size)
  ]
  return tuple(np.concatenate(parts) for parts in zip(*draws))


def normalized_weights(log_weights: np.ndarray) -> np.ndarray:
  """Returns weights whose sum is 1.

  Args:
    log_weights: `[N]`.
  """
  log_weights = np.asarray(log_weights, np.float64)
  return np.exp(log_weights - np.logaddexp.reduce(log_weights))


def effective_fraction(log_weights: np.ndarray) -> float:
  """Returns the effective sample size per sample, `(sum w)^2 / (N sum w^2)`.

  It is 1 if the distribution is the target, and `1 / N` if one sample has all
  the weight. Modes that were never sampled do not lower it.

  Args:
    log_weights: `[N]`.
  """
  weights = normalized_weights(log_weights)
  return float(1 / np.sum(weights**2) / len(weights))


def log_normalizer(log_weights: np.ndarray) -> tuple[float, float]:
  """Estimates `log Z`, the logarithm of the integral of the target.

  Args:
    log_weights: `[N]`.

  Returns:
    The estimate `log mean(w)` and its standard error,
    `std(w) / (mean(w) sqrt(N))`.
  """
  log_sum = np.logaddexp.reduce(np.asarray(log_weights, np.float64))
  count = len(log_weights)
  error = np.std(count * normalized_weights(log_weights)) / np.sqrt(count)
  return float(log_sum - np.log(count)), float(error)


def metropolis(
  log_weights: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, float]:
  """Runs the independence Metropolis chain over weighted samples.

  Each sample is a proposal, accepted with probability `min(1, w / w_current)`.
  The chain begins with the first sample.

  Args:
    log_weights: `[N]`.
    seed: Seed of the acceptances.

  Returns:
    indices: Which sample the chain is at after each proposal, `[N]`.
    acceptance: The fraction of proposals that were accepted.
  """
  accept = np.log(np.random.default_rng(seed).uniform(size=len(log_weights)))
  indices, current = np.zeros(len(log_weights), np.int64), 0
  for i, log_weight in enumerate(log_weights):
    if accept[i] < log_weight - log_weights[current]:
      current = i
    indices[i] = current
  return indices, float(np.mean(indices[1:] != indices[:-1]))


@dataclasses.dataclass(frozen=True)
class Chains:
  """What `run_chains` returns.

  Attributes:
    samples: `[num_results, num_chains, ...]`.
    acceptance: Mean probability of acceptance.
    num_gradients: Number of gradients of the target for these samples, of all
      chains together. Adaptation is not counted.
    seconds: Time for samples and adaptation, without compilation.
    step_size: The step size that was found.
  """

  samples: np.ndarray
  acceptance: float
  num_gradients: int
  seconds: float
  step_size: float

  def effective_samples(self) -> np.ndarray:
    """Returns the effective sample size of each number, over all chains."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel('ERROR')  # TFP casts a Fourier transform to real numbers.
    try:
      return tfp.mcmc.effective_sample_size(
        self.samples, cross_chain_dims=1, filter_beyond_positive_pairs=True
      ).numpy()
    finally:
      logger.setLevel(level)

  def potential_scale_reduction(self) -> np.ndarray:
    """Returns R-hat of each number: 1 if the chains agree."""
    return tfp.mcmc.potential_scale_reduction(
      self.samples, split_chains=True
    ).numpy()


def run_chains(
  log_prob: Callable[[tf.Tensor], tf.Tensor],
  initial: Any,
  num_results: int = 1000,
  num_adaptation: int = 1000,
  num_leapfrog: int | None = 8,
  bijector: tfb.Bijector | None = None,
  target_acceptance: float = 0.8,
  seed: int = 0,
) -> Chains:
  """Runs chains of Hamiltonian Monte Carlo or of NUTS.

  The step size adapts to the acceptance [1]; after adaptation it stays.

  Args:
    log_prob: The target `log p`, up to a constant.
    initial: Where the chains start, `[num_chains, ...]`, in the coordinates of
      the target.
    num_results: Number of samples of each chain, a multiple of 100.
    num_adaptation: Number of samples before them, a multiple of 100.
    num_leapfrog: Number of leapfrog steps of HMC, or `None` for the No-U-Turn
      Sampler.
    bijector: Runs the chains in its coordinates: `log_prob` is of
      `bijector.forward(z)`, and the chains move `z` [2].
    target_acceptance: The acceptance that the step size is adapted to.
    seed: Seed of the chains.

  Returns:
    `Chains`, in the coordinates of the target.

  #### References
  [1]: Matthew Hoffman, Andrew Gelman. The No-U-Turn Sampler. _JMLR_, 2014.
       https://arxiv.org/abs/1111.4246
  [2]: Matthew Hoffman et al. NeuTra-lizing bad geometry in Hamiltonian Monte
       Carlo using neural transport. 2019. https://arxiv.org/abs/1903.03704
  """
  initial = tf.convert_to_tensor(initial)
  step_size = tf.constant(0.1, initial.dtype)
  if num_leapfrog is None:
    kernel = tfp.mcmc.NoUTurnSampler(log_prob, step_size)
  else:
    kernel = tfp.mcmc.HamiltonianMonteCarlo(log_prob, step_size, num_leapfrog)
  if bijector is not None:
    kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
  kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
    kernel, num_adaptation, target_accept_prob=target_acceptance
  )

  def trace(_: Any, results: Any) -> tuple[tf.Tensor, ...]:
    step_size, results = results.new_step_size, results.inner_results
    if bijector is not None:
      results = results.inner_results
    gradients = tf.fill(tf.shape(initial)[:1], num_leapfrog or 0)
    if num_leapfrog is None:
      gradients = results.leapfrogs_taken
    acceptance = tf.exp(tf.minimum(results.log_accept_ratio, 0))
    return tf.reduce_mean(acceptance), tf.reduce_sum(gradients), step_size

  @tf.function(jit_compile=True)
  def advance(state: tf.Tensor, results: Any, seed: tf.Tensor) -> Any:
    return tfp.mcmc.sample_chain(
      _CHUNK,
      state,
      results,
      kernel,
      trace_fn=trace,
      return_final_kernel_results=True,
      seed=seed,
    )

  state, results = initial, kernel.bootstrap_results(initial)
  parts, seconds = [], []
  for i in range((num_adaptation + num_results) // _CHUNK):
    start = time.perf_counter()
    chunk = advance(state, results, tf.constant([seed, i]))
    state, results = chunk.all_states[-1], chunk.final_kernel_results
    parts.append([x.numpy() for x in (chunk.all_states, *chunk.trace)])
    seconds.append(time.perf_counter() - start)
  kept = parts[num_adaptation // _CHUNK :]
  samples, acceptance, gradients, step_sizes = map(np.concatenate, zip(*kept))
  return Chains(
    samples,
    float(np.mean(acceptance)),
    int(np.sum(gradients)),
    float(np.mean(seconds[1:]) * len(seconds)),  # The first one compiles.
    float(step_sizes[-1]),
  )
