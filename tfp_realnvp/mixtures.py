"""Mixtures of Gaussians: for comparison, and as base distributions of flows.

Needs scikit-learn, which `pip install 'tfp_realnvp[examples]'` installs.
"""

import numpy as np
from sklearn import mixture
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ['NUM_COMPONENTS', 'base', 'fit']

tfb = tfp.bijectors
tfd = tfp.distributions

NUM_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # `fit` tries them.

_MAX_ROWS = 30_000


def fit(
  train: np.ndarray,
  validation: np.ndarray,
  seed: int,
  num_components: int = 0,
) -> mixture.GaussianMixture:
  """Fits a mixture of Gaussians by expectation-maximization.

  Args:
    train: Rows to fit to, `[N, D]`. Only the first 30,000 are used.
    validation: Rows that choose the number of components, `[M, D]`.
    seed: Seed of the initial clusters.
    num_components: Number of components. 0 tries those of `NUM_COMPONENTS` for
      which there are at least `D` rows per component.

  Raises:
    ValueError: If there are fewer rows than components.
  """
  train = train[:_MAX_ROWS]
  most = max(1, len(train) // train.shape[1])
  counts = [num_components] if num_components else NUM_COMPONENTS
  fitted = [
    mixture.GaussianMixture(
      count, reg_covar=1e-6, n_init=3, random_state=seed
    ).fit(train)
    for count in counts
    if num_components or count <= most
  ]
  return max(fitted, key=lambda model: model.score(validation))


def base(
  prior: tfd.Distribution, weights: np.ndarray, loc: np.ndarray, cov: np.ndarray
) -> tfd.MixtureSameFamily:
  """Builds a mixture, whose parameters are variables, for a flow to transform.

  A flow of an isotropic normal distribution cannot tear it apart, and leaves
  bridges between the modes of a density; one of a mixture need not.

  Args:
    prior: Distribution with event shape `[D]`. The components are affine images
      of it: Gaussians, if it is a standard normal distribution.
    weights: Initial weights of the components, `[K]`.
    loc: Initial shifts, `[K, D]`.
    cov: Initial `scale scale^T` of the scales, `[K, D, D]`. These are lower
      triangular.
  """
  scale = tfp.util.TransformedVariable(
    np.linalg.cholesky(cov),
    tfb.FillScaleTriL(diag_bijector=tfb.Exp(), diag_shift=None),
    name='mixture_scale',
  )
  return tfd.MixtureSameFamily(
    tfd.Categorical(logits=tf.Variable(np.log(weights), name='mixture_logits')),
    tfd.TransformedDistribution(
      prior,
      tfb.Chain(
        [
          tfb.Shift(tf.Variable(loc, name='mixture_loc')),
          tfb.ScaleMatvecTriL(scale),
        ]
      ),
    ),
  )
