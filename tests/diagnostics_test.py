"""Tests the baselines."""

import numpy as np
import tensorflow_probability as tfp

from tfp_realnvp import diagnostics

tfb = tfp.bijectors
tfd = tfp.distributions


def test_gaussian_by_hand_and_mixture(monkeypatch):
  monkeypatch.setattr(diagnostics, 'NUM_COMPONENTS', (1, 2, 3, 4, 200))
  rng = np.random.default_rng(0)
  # Two clusters far from each other, with a standard deviation of 100.
  rows = 100 * rng.normal(size=[300, 2]) + 3000 * rng.integers(2, size=[300, 1])
  parts = rows[:180], rows[180:240], rows[240:]
  factor = np.linalg.cholesky(np.cov(parts[0].T, bias=True))
  whiten = tfb.Chain([tfb.Shift(parts[0].mean(0)), tfb.ScaleMatvecTriL(factor)])
  gaussian, best, count = diagnostics.gaussian_mixtures(whiten, *parts, seed=0)
  expected = tfd.MultivariateNormalTriL(parts[0].mean(0), factor).log_prob(
    parts[2]
  )
  np.testing.assert_allclose(gaussian, np.mean(expected), rtol=1e-4)
  assert count == 2
  # The entropy of one cluster, and of the choice between the two.
  one = -np.log(2 * np.pi) - 1 - 2 * np.log(100) - np.log(2)
  np.testing.assert_allclose(best, one, atol=0.3)
