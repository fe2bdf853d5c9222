"""What tests share: a registry of bijectors, and how to randomize them."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions


def randomize(module, seed=0):
  """Gives every variable of `module` a random value, and returns it.

  Fresh networks have log-scales of zero: what they do says little.
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


def count_ops(function, op_type, *args):
  """How many ops of a type the graph of a `tf.function` has."""
  graph = tf.function(function).get_concrete_function(*args).graph
  return sum(op.type == op_type for op in graph.get_operations())


def chain(event_shape, norm=None, batch_norm=True, **kwargs):
  """Builds a small `RealNVPChain` from the options of all of its parts.

  Args:
    event_shape: Shape of an event.
    norm: `BatchNormOptions` of the flow and of its networks.
    batch_norm: Whether the couplings are normalized.
    **kwargs: Of `RealNVPChain`, and of its networks.
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
  return tfp_realnvp.RealNVPChain(
    event_shape,
    networks=factory(**options),
    batch_norm=norm if batch_norm else None,
    **kwargs,
  )


class Case:
  """A bijector to test, and data for its `forward` in data -> latent order."""

  def __init__(
    self, make, event_shape, low=-2.0, high=2.0, kwargs=None, generative=False
  ):
    self.make = make
    self.event_shape = event_shape
    self.kwargs = kwargs or {}
    self.generative = generative
    self._low = low
    self._high = high

  def bijector(self, dtype=tf.float64, seed=0):
    return randomize(self.make(dtype=dtype), seed)

  def data(self, batch_shape=(2,), dtype=tf.float64, seed=1):
    rng = np.random.default_rng(seed)
    shape = tuple(batch_shape) + self.event_shape
    return tf.constant(rng.uniform(self._low, self._high, shape), dtype)

  def to_latent(self, bijector, x, **kwargs):
    if self.generative:
      return bijector.inverse_and_log_det(x, **self.kwargs, **kwargs)
    return bijector.forward_and_log_det(x, **self.kwargs, **kwargs)

  def to_data(self, bijector, z):
    if self.generative:
      return bijector.forward_and_log_det(z, **self.kwargs)
    return bijector.inverse_and_log_det(z, **self.kwargs)


_NO_MEMORY = tfp_realnvp.BatchNormOptions(momentum=0.0)


def _residual(mask, dtype, channels=(2, 2)):
  networks = tfp_realnvp.ResidualNetworks(
    hidden_channels=3, num_blocks=1, batch_norm=_NO_MEMORY, seed=1
  )
  in_channels, out_channels = channels
  return networks(
    tfp_realnvp.NetworkSpec(
      in_channels=in_channels, out_channels=out_channels, mask=mask, dtype=dtype
    )
  )


def _checkerboard(dtype, mask=tfp_realnvp.checkerboard_mask):
  return tfp_realnvp.AffineCoupling(_residual(mask, dtype), mask, dtype=dtype)


def _channel(dtype):
  mask = tfp_realnvp.channel_mask((4, 4, 3))
  network = _residual(None, dtype, channels=(1, 2))
  return tfp_realnvp.AffineCoupling(network, mask, dtype=dtype)


def _vector(dtype):
  mask = [True, False, True, False, False]
  network = tfp_realnvp.DenseNetworks(hidden_units=(4, 4), seed=1)(
    tfp_realnvp.NetworkSpec(in_channels=2, out_channels=3, dtype=dtype)
  )
  return tfp_realnvp.AffineCoupling(network, mask, dtype=dtype)


def _image_chain(dtype, **kwargs):
  return chain(
    (4, 4, 1),
    norm=_NO_MEMORY,
    dtype=dtype,
    seed=1,
    **({'num_scales': 2} | kwargs),
  )


def _vector_chain(dtype, **kwargs):
  return chain(
    (3,), norm=_NO_MEMORY, num_couplings=4, dtype=dtype, seed=1, **kwargs
  )


_CONDITION = {'condition': np.array([0.5, -1.0])}
_norm = functools.partial(
  tfp_realnvp.BatchNormBijector, num_channels=3, momentum=0.0
)
_pixels = {'low': 0.0, 'high': 256.0}
_chain = functools.partial(Case, generative=True)

CASES = {
  'coupling_checkerboard': Case(_checkerboard, (4, 4, 2)),
  'coupling_pixel_mask': Case(
    functools.partial(
      _checkerboard,
      mask=lambda shape: np.random.default_rng(0).uniform(size=(4, 4, 1)) < 0.3,
    ),
    (4, 4, 2),
  ),
  'coupling_channel': Case(_channel, (4, 4, 3)),
  'coupling_vector': Case(_vector, (5,)),
  'batch_norm': Case(_norm, (3,)),
  'batch_norm_lagged': Case(functools.partial(_norm, lagged=True), (3,)),
  'squeeze': Case(tfp_realnvp.Squeeze, (4, 6, 3)),
  'squeeze_checkerboard': Case(
    functools.partial(tfp_realnvp.Squeeze, order='checkerboard'), (4, 6, 3)
  ),
  'squeeze_3': Case(
    functools.partial(tfp_realnvp.Squeeze, 3, 'checkerboard'), (6, 3, 2)
  ),
  'factor_out': Case(
    lambda dtype: tfp_realnvp.FactorOut(_checkerboard(dtype), dtype=dtype),
    (4, 4, 4),
  ),
  'logit': Case(tfp_realnvp.LogitTransform, (), **_pixels),
  'logit_17': Case(
    functools.partial(tfp_realnvp.LogitTransform, 17, 0.01), (), 0.0, 17.0
  ),
  'chain_image': _chain(_image_chain, (4, 4, 1), **_pixels),
  'chain_one_scale': _chain(
    functools.partial(_image_chain, num_scales=1, batch_norm=False),
    (4, 4, 1),
    **_pixels,
  ),
  'chain_conditional': _chain(
    functools.partial(_image_chain, condition_size=2, num_scales=1),
    (4, 4, 1),
    **_pixels,
    kwargs=_CONDITION,
  ),
  'chain_periodic': _chain(
    functools.partial(_image_chain, padding='periodic', logit_transform=None),
    (4, 4, 1),
  ),
  'chain_vector': _chain(_vector_chain, (3,)),
  'chain_vector_conditional': _chain(
    functools.partial(_vector_chain, condition_size=2), (3,), kwargs=_CONDITION
  ),
}
