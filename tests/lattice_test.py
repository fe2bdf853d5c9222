import numpy as np
import tensorflow as tf

from tfp_realnvp import lattice


def test_action_by_hand():
  # Of one site, which is its own neighbor, only the potential remains.
  action = lattice.Phi4(mass_squared=-3.0, coupling=2.0)
  np.testing.assert_allclose(
    action.log_prob(tf.constant([[[0.5]]])), 3 * 0.25 - 2 * 0.0625
  )


def test_action_is_the_sum_over_sites():
  field = np.random.default_rng(0).normal(size=[3, 4, 6, 1])
  phi = field[1, ..., 0]
  action = 0.0
  for i in range(4):
    for j in range(6):
      for k, m in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
        action += phi[i, j] * (phi[i, j] - phi[k % 4, m % 6])
      action += -4 * phi[i, j] ** 2 + 8 * phi[i, j] ** 4
  np.testing.assert_allclose(lattice.Phi4().log_prob(field)[1], -action)


def test_action_has_the_symmetries_of_the_lattice():
  field = np.random.default_rng(0).normal(size=[2, 4, 4, 1])
  log_prob = lattice.Phi4().log_prob
  for other in (-field, np.roll(field, 1, axis=2), np.swapaxes(field, 1, 2)):
    np.testing.assert_allclose(log_prob(other), log_prob(field))


def test_magnetization_is_the_mean_of_the_field():
  field = np.arange(8.0).reshape(2, 2, 2, 1)
  np.testing.assert_allclose(lattice.magnetization(field), [1.5, 5.5])


def _autoregression(count, chains, coefficient):
  rng = np.random.default_rng(0)
  x = np.zeros([count, chains])
  x[0] = rng.normal(size=chains) / np.sqrt(1 - coefficient**2)
  for i in range(1, count):
    x[i] = coefficient * x[i - 1] + rng.normal(size=chains)
  return x


def test_autocorrelation_time_of_an_autoregression():
  # The correlations are 0.8^t, whose sum over t > 0 is 4.
  x = _autoregression(20_000, 4, 0.8)
  np.testing.assert_allclose(lattice.autocorrelation_time(x), 4.5, rtol=0.08)
  np.testing.assert_allclose(
    lattice.autocorrelation_time(x[:, 0]), 4.5, rtol=0.2
  )
  independent = _autoregression(20_000, 1, 0.0)
  np.testing.assert_allclose(
    lattice.autocorrelation_time(independent), 0.5, atol=0.05
  )


def test_errors_are_those_of_repeated_chains():
  x = _autoregression(2000, 300, 0.8)
  errors = [lattice.mean_and_error(x[:, i])[1] for i in range(300)]
  np.testing.assert_allclose(np.mean(errors), x.mean(0).std(), rtol=0.15)
  mean, error = lattice.mean_and_error(x)
  np.testing.assert_allclose(mean, x.mean())
  np.testing.assert_allclose(error, np.mean(errors) / np.sqrt(300), rtol=0.15)


def test_chain_that_never_moves():
  assert lattice.autocorrelation_time(np.ones(10)) == 0.5
