import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import sampling

tfb = tfp.bijectors
tfd = tfp.distributions


def _normal_log_prob(x):
  """Returns the density of N(3, 2^2) in two dimensions, times e."""
  return tf.reduce_sum(tfd.Normal(3.0, 2.0).log_prob(x), -1) + 1


def _affine():
  """Returns a distribution that can be fitted to any N(a, b^2)."""
  scale = tfb.Scale(log_scale=tf.Variable([0.0, 0.0]))
  return tfd.TransformedDistribution(
    tfd.Sample(tfd.Normal(0.0, 1.0), [2]),
    tfb.Chain([tfb.Shift(tf.Variable([0.0, 0.0])), scale]),
  )


def test_fit_finds_the_target():
  distribution = _affine()
  losses = sampling.fit(_normal_log_prob, distribution, 400, 64, 0.1)
  assert losses.shape == (400,)
  np.testing.assert_allclose(losses[-100:].mean(), -1, atol=1e-3)
  shift, scale = distribution.trainable_variables
  np.testing.assert_allclose(
    sorted([shift, scale], key=np.sum)[1], [3, 3], atol=0.03
  )
  x, log_weights = sampling.importance_sample(
    _normal_log_prob, distribution, 2000
  )
  np.testing.assert_allclose(x.mean(0), [3, 3], atol=0.2)
  np.testing.assert_allclose(log_weights, np.ones(2000), atol=0.15)


def test_importance_weights_are_those_of_the_samples():
  distribution = _affine()
  x, log_weights = sampling.importance_sample(
    _normal_log_prob, distribution, 300, batch_size=100, seed=1
  )
  assert len(np.unique(x[:, 0])) == 300
  np.testing.assert_allclose(
    log_weights, _normal_log_prob(x) - distribution.log_prob(x), rtol=1e-5
  )


def test_statistics_of_weights_by_hand():
  # The second set would overflow if it were not shifted.
  for shift in (0.0, 1e4):
    log_weights = np.log([1.0, 2.0, 3.0, 2.0]) + shift
    np.testing.assert_allclose(
      sampling.normalized_weights(log_weights), [1 / 8, 2 / 8, 3 / 8, 2 / 8]
    )
    np.testing.assert_allclose(
      sampling.effective_fraction(log_weights), 64 / 4 / 18
    )
    estimate, error = sampling.log_normalizer(log_weights)
    np.testing.assert_allclose(estimate, np.log(2) + shift)
    np.testing.assert_allclose(error, np.sqrt(0.5) / 2 / 2)


def test_metropolis_visits_samples_by_their_weight():
  rng = np.random.default_rng(0)
  log_p = np.log([0.1, 0.2, 0.7])
  proposals = rng.integers(3, size=20_000)
  indices, acceptance = sampling.metropolis(log_p[proposals])
  visits = np.bincount(proposals[indices]) / 20_000
  np.testing.assert_allclose(visits, [0.1, 0.2, 0.7], atol=0.02)
  # The mean of min(1, p_j / p_i) over the target and uniform proposals.
  expected = np.minimum(1, np.exp(log_p) / np.exp(log_p)[:, None])
  expected = (np.exp(log_p)[:, None] * expected).sum() / 3
  np.testing.assert_allclose(acceptance, expected, atol=0.02)


def test_metropolis_by_hand():
  indices, acceptance = sampling.metropolis(np.array([0.0, 5, -1e9, 7, 7]))
  np.testing.assert_array_equal(indices, [0, 1, 1, 3, 4])
  assert acceptance == 0.75


@pytest.mark.slow
@pytest.mark.parametrize('num_leapfrog', [3, None])
@pytest.mark.parametrize('in_flow', [False, True])
def test_chains_have_the_distribution_of_the_target(num_leapfrog, in_flow):
  bijector = tfb.Chain([tfb.Shift([1.0, 0.0]), tfb.Scale([1.5, 2.5])])
  initial = np.random.default_rng(0).normal(size=[8, 2]).astype(np.float32)
  chains = sampling.run_chains(
    _normal_log_prob,
    initial,
    num_results=500,
    num_adaptation=300,
    num_leapfrog=num_leapfrog,
    bijector=bijector if in_flow else None,
  )
  assert chains.samples.shape == (500, 8, 2)
  np.testing.assert_allclose(chains.samples.mean((0, 1)), [3, 3], atol=0.25)
  np.testing.assert_allclose(chains.samples.std((0, 1)), [2, 2], atol=0.25)
  assert 0.7 < chains.acceptance < 0.98  # Adapted to 0.8.
  assert np.all(chains.effective_samples() > 400)
  np.testing.assert_allclose(
    chains.potential_scale_reduction(), [1, 1], atol=0.03
  )
  if num_leapfrog is not None:
    assert chains.num_gradients == 500 * 8 * num_leapfrog
  else:
    assert 500 * 8 < chains.num_gradients < 500 * 8 * 15
  assert chains.seconds > 0


def test_chains_that_disagree_are_told():
  samples = np.random.default_rng(0).normal(size=[100, 2, 1])
  samples += [[[0.0], [10.0]]]
  chains = sampling.Chains(samples.astype(np.float32), 1.0, 1, 1.0, 1.0)
  assert chains.potential_scale_reduction() > 3
  assert chains.effective_samples() < 10
