"""The same flow with couplings in the way of TFP's `tfb.RealNVP`.

They know value and log-det as two methods, each of which runs the network.
"""

import functools

import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp.bijectors import flow_sequence


class Coupling(tfp.bijectors.Bijector):
  """Computes what an `AffineCoupling` does, in two passes."""

  def __init__(self, coupling, training):
    self._network = coupling.shift_and_log_scale_fn  # Holds the variables.
    self._to_latent = functools.partial(
      coupling.forward_and_log_det, training=training
    )
    self._to_data = coupling.inverse_and_log_det
    super().__init__(forward_min_event_ndims=3, dtype=coupling.dtype)

  def _forward(self, x):
    return self._to_latent(x)[0]

  def _forward_log_det_jacobian(self, x):
    return self._to_latent(x)[1]

  def _inverse(self, y):
    return self._to_data(y)[0]

  def _inverse_log_det_jacobian(self, y):
    return self._to_data(y)[1]


def distribution_in_two_passes(distribution, training=False):
  """Returns the distribution with such couplings; it shares the variables."""

  def convert(bijector):
    if isinstance(bijector, tfp_realnvp.AffineCoupling):
      return Coupling(bijector, training)
    if isinstance(bijector, tfp_realnvp.FactorOut):
      onward = [convert(part) for part in bijector.bijector.bijectors]
      return tfp_realnvp.FactorOut(
        flow_sequence.FlowSequence(onward, event_ndims=3)
      )
    return bijector

  flow = tfp_realnvp.RealNVPChain.from_bijectors(
    [convert(part) for part in distribution.bijector.bijectors],
    distribution.event_shape,
  )
  return tfp.distributions.TransformedDistribution(
    distribution.distribution, flow
  )
