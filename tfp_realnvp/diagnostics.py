"""Baselines and tests that say how good a density of vectors is.

Needs scikit-learn, which `pip install 'tfp_realnvp[examples]'` installs.
"""

import numpy as np
from scipy import stats
from sklearn import model_selection
from sklearn import neural_network
import tensorflow_probability as tfp

from tfp_realnvp import mixtures

tfb = tfp.bijectors

__all__ = [
  'c2st',
  'count_ranks',
  'gaussian_mixtures',
  'ranks',
  'ranks_band',
]


def gaussian_mixtures(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  test: np.ndarray,
  seed: int,
) -> tuple[np.ndarray, np.ndarray, int]:
  """Fits Gaussian mixtures to whitened rows, for numerical accuracy.

  Args:
    whiten: Bijector from whitened rows to rows.
    train: Rows to fit to, `[N, D]`. Only the first 30,000 are used.
    validation: Rows that choose the number of components.
    test: Held-out rows, `[N, D]`.
    seed: Seed of the initial clusters.

  Returns:
    The log-likelihoods of the test rows under one Gaussian, `[N]`, in nats; the
    same under the mixture that is best on the validation rows; and the number
    of components of that mixture.
  """
  log_det = whiten.forward_log_det_jacobian(train[:1], event_ndims=1)
  *whitened, rows = (
    whiten.inverse(x).numpy() for x in (train, validation, test)
  )
  gaussian, best = (mixtures.fit(*whitened, seed, count) for count in (1, 0))
  scores = [
    model.score_samples(rows) - float(log_det) for model in (gaussian, best)
  ]
  return *scores, best.n_components


def c2st(samples: np.ndarray, reference: np.ndarray, seed: int = 1) -> float:
  """Tests two sets of samples with a classifier (C2ST).

  Args:
    samples: `[N, D]`.
    reference: `[M, D]`. If `N` and `M` differ, the first rows of the larger set
      are used.
    seed: Seed of the classifier and of the folds.

  Returns:
    How often a neural network tells held-out samples of both sets apart: 0.5 if
    the distributions are the same, 1 if they do not overlap.
  """
  count = min(len(samples), len(reference))
  rows = np.concatenate([reference[:count], samples[:count]])
  rows = (rows - reference.mean(0)) / reference.std(0)
  hidden = 10 * rows.shape[1]
  accuracies = model_selection.cross_val_score(
    neural_network.MLPClassifier(
      (hidden, hidden), max_iter=10_000, random_state=seed
    ),
    rows,
    np.repeat([0, 1], count),
    cv=model_selection.KFold(5, shuffle=True, random_state=seed),
    scoring='accuracy',
  )
  return float(np.mean(accuracies))


def ranks(draws: np.ndarray, theta: np.ndarray) -> np.ndarray:
  """Returns the ranks of parameters among draws of their posteriors.

  If the posteriors are right, each rank is uniform on 0, ..., L (simulation-
  based calibration [1]).

  Args:
    draws: `[L, N, D]`, draws given the data of each simulation.
    theta: `[N, D]`, the parameters of the simulations.

  Returns:
    int `[N, D]`: how many of the draws are smaller.

  #### References
  [1]: Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew
       Gelman. Validating Bayesian inference algorithms with simulation-based
       calibration. 2018. https://arxiv.org/abs/1804.06788
  """
  return np.sum(draws < theta, axis=0)


def count_ranks(
  ranks_: np.ndarray, num_draws: int, num_bins: int
) -> np.ndarray:
  """Returns histograms of ranks: int `[num_bins, D]`.

  Args:
    ranks_: int `[N, D]`, on 0, ..., `num_draws`.
    num_draws: How many draws the ranks refer to.
    num_bins: Divisor of `num_draws + 1`, so that all bins are equally likely.

  Raises:
    ValueError: If it is not a divisor.
  """
  if (num_draws + 1) % num_bins:
    raise ValueError(
      f'`num_bins` must divide `num_draws` + 1 = {num_draws + 1}, got '
      f'{num_bins}.'
    )
  bins = ranks_ // ((num_draws + 1) // num_bins)
  return np.sum(bins == np.arange(num_bins)[:, None, None], axis=1)


def ranks_band(
  count: int, num_bins: int, probability: float = 0.99
) -> tuple[float, float]:
  """Returns between which counts a bin of `count` uniform ranks lies.

  Args:
    count: Number of ranks.
    num_bins: Number of bins.
    probability: How likely the count of a bin is within the band, at least.
  """
  return stats.binom.interval(probability, count, 1 / num_bins)
