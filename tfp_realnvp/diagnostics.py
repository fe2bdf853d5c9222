"""Baselines and tests that say how good a density of vectors is.

Needs scikit-learn, which `pip install 'tfp_realnvp[examples]'` installs.
"""

import numpy as np
from sklearn import mixture
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = ['NUM_COMPONENTS', 'gaussian_mixtures']

# Of the mixtures that `gaussian_mixtures` chooses from.
NUM_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def gaussian_mixtures(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  test: np.ndarray,
  seed: int,
) -> tuple[float, float, int]:
  """Fits Gaussian mixtures to whitened rows, for numerical accuracy.

  Args:
    whiten: Bijector from whitened rows to rows.
    train: Rows to fit to, `[N, D]`.
    validation: Rows that choose the number of components.
    test: Held-out rows.
    seed: Seed of the initial clusters.

  Returns:
    gaussian: Mean log-likelihood of the test rows under one Gaussian, in nats.
    best: The same under the mixture that is best on the validation rows.
    num_components: Number of components of that mixture.
  """
  log_det = whiten.forward_log_det_jacobian(train[:1], event_ndims=1)
  whitened = [whiten.inverse(x).numpy() for x in (train, validation, test)]
  scores = {}
  for count in NUM_COMPONENTS:
    if count > 1 and count * train.shape[1] > len(train):
      break
    fitted = mixture.GaussianMixture(
      count, reg_covar=1e-6, n_init=3, random_state=seed
    )
    fitted.fit(whitened[0])
    scores[count] = [fitted.score(x) - float(log_det) for x in whitened[1:]]
  best = max(scores, key=lambda count: scores[count][0])
  return scores[1][1], scores[best][1], best
