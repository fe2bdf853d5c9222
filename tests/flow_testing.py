"""Helpers for tests of flows."""

import collections
import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions


def randomize(module, seed=0):
  """Gives every variable of `module` a random value, and returns it.

  Fresh networks have log-scales of zero, so tests of them prove little.
  """
  rng = np.random.default_rng(seed)
  for variable in module.variables:
    value = variable.numpy()
    if 'moving_variance' in variable.name:
      value = rng.uniform(0.5, 2.0, value.shape)
    elif 'num_updates' not in variable.name:
      value = value + 0.1 * rng.normal(size=value.shape)
    variable.assign(value)
  return module


def isotropic_normal(event_shape, dtype=tf.float32):
  zero = tf.zeros([], dtype)
  return tfd.Sample(tfd.Normal(zero, zero + 1), sample_shape=event_shape)


def count_ops(function, *args):
  """Counts the ops of each type in the graph of `function`."""
  graph = tf.function(function).get_concrete_function(*args).graph
  return collections.Counter(op.type for op in graph.get_operations())


def two_couplings(event_shape, **kwargs):
  """Builds the first two couplings of a `chain`, which are quick to trace."""
  flow = chain(event_shape, **kwargs)
  couplings = [
    i
    for i, bijector in enumerate(flow.bijectors)
    if isinstance(bijector, tfp_realnvp.AffineCoupling)
  ]
  return tfp_realnvp.RealNVPChain.from_bijectors(
    flow.bijectors[: couplings[2]], event_shape, dtype=flow.dtype
  )


def chain(event_shape, norm=None, batch_norm=True, **kwargs):
  """Builds a small `RealNVPChain` from the options of all of its parts.

  Args:
    event_shape: Shape of an event.
    norm: `BatchNormOptions` of the flow and of its networks.
    batch_norm: Whether batch norm follows the couplings, which are affine
      unless `couplings` is given.
    **kwargs: Arguments of `RealNVPChain` and fields of the network factory.
  """
  norm = norm or tfp_realnvp.BatchNormOptions()
  if len(event_shape) == 3:
    factory = tfp_realnvp.ResidualNetworks
    options = {'num_blocks': 1, 'hidden_channels': 2, 'batch_norm': norm}
  else:
    factory, options = tfp_realnvp.DenseNetworks, {'hidden_units': (32,)}
  for field in dataclasses.fields(factory):
    if field.name in kwargs:
      options[field.name] = kwargs.pop(field.name)
  couplings = tfp_realnvp.AffineCouplings(
    batch_norm=norm if batch_norm else None
  )
  return tfp_realnvp.RealNVPChain(
    event_shape,
    networks=factory(**options),
    **{'couplings': couplings, **kwargs},
  )
