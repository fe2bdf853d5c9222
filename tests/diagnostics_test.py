"""Tests the baselines, C2ST and the ranks of calibration."""

import numpy as np
import pytest
from scipy import special
from scipy import stats
import tensorflow_probability as tfp

from tfp_realnvp import diagnostics
from tfp_realnvp import mixtures

tfb = tfp.bijectors
tfd = tfp.distributions


def test_gaussian_by_hand_and_mixture(monkeypatch):
  monkeypatch.setattr(mixtures, 'NUM_COMPONENTS', (1, 2, 3, 4, 200))
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
  np.testing.assert_allclose(gaussian, expected, rtol=1e-4)
  assert count == 2
  # The entropy of one cluster, and of the choice between the two.
  one = -np.log(2 * np.pi) - 1 - 2 * np.log(100) - np.log(2)
  np.testing.assert_allclose(best.mean(), one, atol=0.3)


@pytest.mark.slow
def test_c2st_of_equal_and_of_shifted_samples():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=[1000, 1]) * 100 + 5
  same = rng.normal(size=[1200, 1]) * 100 + 5
  assert abs(diagnostics.c2st(same, reference) - 0.5) < 0.05
  # The best classifier is right with probability Phi(shift / 2).
  for shift in (1.0, 3.0):
    expected = special.ndtr(shift / 2)
    found = diagnostics.c2st(same + 100 * shift, reference)
    assert abs(found - expected) < 0.04


def test_ranks_by_hand():
  draws = np.array([[[1.0, 5.0]], [[2.0, 6.0]], [[3.0, 7.0]]])
  ranks = diagnostics.ranks(draws, np.array([[2.5, 4.0]]))
  np.testing.assert_array_equal(ranks, [[2, 0]])
  ranks = np.array([[0, 3], [1, 3], [2, 2]])
  np.testing.assert_array_equal(
    diagnostics.count_ranks(ranks, num_draws=3, num_bins=2), [[2, 0], [1, 3]]
  )
  with pytest.raises(
    ValueError, match='must divide `num_draws` . 1 = 4, got 3'
  ):
    diagnostics.count_ranks(ranks, num_draws=3, num_bins=3)


@pytest.mark.parametrize(
  'scale, shift, is_calibrated',
  [(1.0, 0.0, True), (0.5, 0.0, False), (2.0, 0.0, False), (1.0, 0.7, False)],
)
def test_ranks_show_whether_posteriors_are_calibrated(
  scale, shift, is_calibrated
):
  rng = np.random.default_rng(0)
  # theta ~ N(0, 1) and x ~ N(theta, 1), so theta | x ~ N(x / 2, 1 / 2).
  theta = rng.normal(size=[2000, 1])
  x = theta + rng.normal(size=[2000, 1])
  noise = np.sqrt(0.5) * rng.normal(size=[99, 2000, 1])
  ranks = diagnostics.ranks(x / 2 + shift + scale * noise, theta)
  counts = diagnostics.count_ranks(ranks, num_draws=99, num_bins=20)[:, 0]
  low, high = diagnostics.ranks_band(2000, num_bins=20)
  outside = np.sum((counts < low) | (counts > high))
  assert outside <= 1 if is_calibrated else outside > 5
  assert (stats.chisquare(counts).pvalue > 0.01) == is_calibrated


def test_band_of_ranks():
  low, high = diagnostics.ranks_band(300, num_bins=20)
  counts = np.random.default_rng(0).binomial(300, 1 / 20, size=100_000)
  inside = np.mean((counts >= low) & (counts <= high))
  assert 0.99 <= inside < 0.997
