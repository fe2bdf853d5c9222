"""What tests of estimators share: small models, and data for them."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
from tfp_realnvp.training import density_estimator

tfd = tfp.distributions


def image_flow(**kwargs):
  return flow_testing.two_couplings((4, 4, 1), **({'seed': 1} | kwargs))


def image_estimator(flow=None, compiled=True, **kwargs):
  flow = flow or image_flow()
  dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((4, 4, 1), flow.dtype), flow
  )
  model = density_estimator.DensityEstimator(dist, seed=0, **kwargs)
  if compiled:
    model.compile(keras.optimizers.Adam(1e-2))
  return model


def images(count=50, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(100, 140, [count, 4, 4, 1]).astype(np.uint8)


def fit_batches(model, *batches):
  x = np.concatenate(batches).astype(np.float32)
  return model.fit(x, batch_size=10, shuffle=False, verbose=0).history


def vectors(count=40, seed=0):
  return np.random.default_rng(seed).normal(size=[count, 2])


def vector_estimator(dtype=tf.float32, compiled=True, seed=0, **kwargs):
  flow = flow_testing.chain(
    (2,), num_couplings=2, dtype=dtype, seed=seed, **kwargs
  )
  base = flow_testing.isotropic_normal((2,), dtype)
  model = density_estimator.DensityEstimator(
    tfd.TransformedDistribution(base, flow), num_levels=None
  )
  if compiled:
    model.compile(keras.optimizers.SGD(1e-2), jit_compile=False)
  return model
