"""Uses of flows in TFP, eagerly, in graphs and under XLA."""

import functools
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions

_SEED = [1, 2]

_MODES = {
  'eager': lambda f: f,
  'graph': tf.function,
  'xla': functools.partial(tf.function, jit_compile=True),
}
in_all_modes = pytest.mark.parametrize('mode', _MODES)
of_all_kinds = pytest.mark.parametrize(
  'kind, mode',
  [
    *(('affine', mode) for mode in _MODES),
    pytest.param('spline', 'graph', marks=pytest.mark.slow),
    pytest.param('spline', 'xla', marks=pytest.mark.slow),
    pytest.param('image', 'graph', marks=pytest.mark.slow),
  ],
)


def _distribution(kind='affine', seed=0):
  """Returns a flow over a normal distribution, in float64, not a new one."""
  if kind == 'image':
    shape = (4, 4, 1)
    kwargs = {
      'num_scales': 1,
      'networks': tfp_realnvp.ResidualNetworks(
        hidden_channels=2, num_blocks=1, batch_norm=None, padding='periodic'
      ),
      'couplings': tfp_realnvp.AffineCouplings(batch_norm=None),
      'logit_transform': None,
    }
  else:
    shape = (3,)
    kwargs = {
      'num_couplings': 2,
      'networks': tfp_realnvp.DenseNetworks(
        hidden_units=(8,), activation='tanh'
      ),
    }
    if kind == 'spline':
      kwargs['couplings'] = tfp_realnvp.SplineCouplings()
  flow = tfp_realnvp.RealNVPChain(shape, dtype=tf.float64, **kwargs)
  flow_testing.randomize(flow, seed=seed)
  base = tfd.Sample(tfd.Normal(tf.constant(0.0, tf.float64), 1.0), shape)
  return tfd.TransformedDistribution(base, flow)


def _target_log_prob(x):
  """Returns the density of a normal distribution of any events."""
  axes = list(range(1, x.shape.rank))
  return -0.5 * tf.reduce_sum((x - 0.5) ** 2, axes)


def _reverse_kl(distribution, sample_and_log_prob):
  if sample_and_log_prob:
    x, log_prob = distribution.experimental_sample_and_log_prob(5, seed=_SEED)
    return tf.reduce_mean(log_prob - _target_log_prob(x))
  return -tf.reduce_mean(_target_log_prob(distribution.sample(5, seed=_SEED)))


@of_all_kinds
@pytest.mark.parametrize('sample_and_log_prob', [False, True])
def test_gradient_through_samples(kind, mode, sample_and_log_prob):
  distribution = _distribution(kind)
  variables = distribution.trainable_variables

  @_MODES[mode]
  def loss_and_gradients():
    with tf.GradientTape() as tape:
      loss = _reverse_kl(distribution, sample_and_log_prob)
    return loss, tape.gradient(loss, variables)

  rng = np.random.default_rng(0)
  directions = [rng.normal(size=v.shape) for v in variables]
  _, gradients = loss_and_gradients()
  found = sum(np.sum(g * d) for g, d in zip(gradients, directions))
  values, losses = [v.numpy() for v in variables], []
  for step in (1e-6, -1e-6):
    for variable, value, direction in zip(variables, values, directions):
      variable.assign(value + step * direction)
    losses.append(loss_and_gradients()[0].numpy())
  np.testing.assert_allclose(found, (losses[0] - losses[1]) / 2e-6, rtol=1e-5)


@of_all_kinds
def test_second_derivatives(kind, mode):
  distribution = _distribution(kind)
  shape = distribution.event_shape
  x = tf.constant(np.random.default_rng(0).normal(size=[1, *shape]))

  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      log_prob = distribution.log_prob(x)
    return tape.gradient(log_prob, x)

  @_MODES[mode]
  def hessian_times(x, direction):
    with tf.GradientTape() as tape:
      tape.watch(x)
      along = tf.reduce_sum(gradient(x) * direction)
    return tape.gradient(along, x)

  direction = tf.constant(np.random.default_rng(1).normal(size=x.shape))
  steps = [gradient(x + step * direction) for step in (1e-6, -1e-6)]
  np.testing.assert_allclose(
    hessian_times(x, direction), (steps[0] - steps[1]) / 2e-6, atol=1e-5
  )


@of_all_kinds
def test_vectorized_map(kind, mode):
  distribution = _distribution(kind)
  x = distribution.sample(4, seed=_SEED) + 0.1

  @_MODES[mode]
  def each(x):
    return tf.vectorized_map(distribution.log_prob, x)

  np.testing.assert_allclose(each(x), distribution.log_prob(x), rtol=1e-6)


@in_all_modes
def test_joint_distribution(mode):
  flow = _distribution()
  joint = tfd.JointDistributionSequential(
    [flow, lambda x: tfd.Normal(tf.reduce_sum(x, -1), 1.0)]
  )
  x, y = _MODES[mode](functools.partial(joint.sample, 4, seed=_SEED))()
  x, y = tf.identity(x), tf.identity(y)
  assert np.std(x) > 0.1
  expected = flow.log_prob(x) + tfd.Normal(tf.reduce_sum(x, -1), 1.0).log_prob(
    y
  )
  np.testing.assert_allclose(_MODES[mode](joint.log_prob)([x, y]), expected)


@pytest.mark.slow
@in_all_modes
def test_mixture(mode):
  parts = [_distribution(seed=0), _distribution('spline', seed=1)]
  mixture = tfd.Mixture(
    tfd.Categorical(probs=tf.constant([0.3, 0.7], tf.float64)), parts
  )
  x = parts[0].sample(4, seed=_SEED) + 0.1
  expected = np.log(
    0.3 * np.exp(parts[0].log_prob(x)) + 0.7 * np.exp(parts[1].log_prob(x))
  )
  np.testing.assert_allclose(_MODES[mode](mixture.log_prob)(x), expected)
  # Those of the first part or of the second.
  samples = _MODES[mode](functools.partial(mixture.sample, 4, seed=_SEED))()
  assert np.all(np.isfinite(samples))
  assert np.std(samples) > 0.1


@pytest.mark.slow
@in_all_modes
@pytest.mark.parametrize('in_flow', [False, True])
def test_mcmc(mode, in_flow):
  distribution = _distribution()
  shape = distribution.event_shape
  log_prob = _target_log_prob if in_flow else distribution.log_prob
  kernel = tfp.mcmc.HamiltonianMonteCarlo(log_prob, 0.05, 3)
  if in_flow:
    kernel = tfp.mcmc.TransformedTransitionKernel(kernel, distribution.bijector)
  initial = tf.constant(np.random.default_rng(0).normal(size=[2, *shape]))

  @_MODES[mode]
  def run():
    return tfp.mcmc.sample_chain(
      3,
      initial,
      kernel=kernel,
      trace_fn=None,
      return_final_kernel_results=True,
      seed=_SEED,
    )

  states, _, results = run()
  assert np.all(np.std(states, axis=0) > 0)
  expected = log_prob(tf.identity(states[-1]))
  if in_flow:
    results = results.inner_results
    z, ildj = distribution.bijector.inverse_and_log_det(states[-1])
    np.testing.assert_allclose(distribution.bijector.forward(z), states[-1])
    expected -= ildj
  np.testing.assert_allclose(
    results.accepted_results.target_log_prob, expected, rtol=1e-6
  )


def _gradients_warn(flow, direction):
  """Returns whether a gradient of samples or of the density warns."""
  x = tf.constant(
    np.random.default_rng(0).uniform(1, 9, [2, 4, 4, 1]), tf.float32
  )
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')

    @tf.function
    def gradients():
      with tf.GradientTape() as tape:
        loss = tf.reduce_sum(getattr(flow, direction)(x))
      return tape.gradient(loss, flow.trainable_variables)

    gradients()
  return any('`batch_norm=None`' in str(w.message) for w in caught)


@pytest.mark.slow
def test_fit_by_samples_with_batch_norm_warns():
  build = functools.partial(
    tfp_realnvp.RealNVPChain, (4, 4, 1), 1, logit_transform=None
  )
  without = tfp_realnvp.AffineCouplings(batch_norm=None)
  networks = tfp_realnvp.ResidualNetworks(hidden_channels=2, num_blocks=1)
  flow = build(networks=networks, couplings=without)
  assert _gradients_warn(flow, 'forward')
  assert not _gradients_warn(flow, 'inverse')
  flow.inverse(tf.ones([2, 4, 4, 1]), training=True)
  assert not _gradients_warn(flow, 'forward')
  networks = tfp_realnvp.ResidualNetworks(
    hidden_channels=2, num_blocks=1, batch_norm=None
  )
  assert _gradients_warn(build(networks=networks), 'forward')
  flow = build(networks=networks, couplings=without)
  assert not _gradients_warn(flow, 'forward')
