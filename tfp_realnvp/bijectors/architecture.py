"""The components of Real NVP, for images and for vectors."""

from collections.abc import Callable
import functools
import itertools
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import batch_norm as batch_norm_lib
from tfp_realnvp.bijectors import factor_out
from tfp_realnvp.bijectors import flow_sequence
from tfp_realnvp.bijectors import mask as mask_lib
from tfp_realnvp.bijectors import squeeze
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import moving_statistics

tfb = tfp.bijectors

__all__ = ['CouplingBuilder', 'image_components', 'vector_components']


class CouplingBuilder:
  """Builds couplings, each with a network and a batch norm of its own."""

  def __init__(
    self,
    networks: Callable[[coupling_network.NetworkSpec], Callable],
    batch_norm: moving_statistics.BatchNormOptions | None,
    condition_size: int | None,
    **bijector_kwargs: Any,
  ):
    """Initializes CouplingBuilder.

    Args:
      networks: Returns the network of the coupling that a `NetworkSpec`
        describes.
      batch_norm: What follows each coupling, `None` for nothing.
      condition_size: Size of the condition, or `None`.
      **bijector_kwargs: `dtype` and `validate_args` of the bijectors.
    """
    self._networks = networks
    self._batch_norm = batch_norm
    self._condition_size = condition_size
    self.bijector_kwargs = bijector_kwargs
    self._index = itertools.count()

  def couplings(
    self,
    name: str,
    count: int,
    channels: int,
    mask: Callable[[int], Any],
    level: int = 0,
  ) -> list[tfb.Bijector]:
    """Returns couplings with masks of alternating parity.

    Args:
      name: What the names of the bijectors begin with.
      count: How many couplings.
      channels: Channels of the event.
      mask: Function from a parity to a mask, or to a function that makes one
        from an event shape.
      level: See `NetworkSpec`.
    """
    result = []
    for i in range(count):
      result += self._coupling(
        f'{name}_{i}', mask((i + 1) % 2), channels, level
      )
    return result

  def _coupling(
    self, name: str, mask: Any, channels: int, level: int
  ) -> list[tfb.Bijector]:
    is_function = callable(mask)
    spec = coupling_network.NetworkSpec(
      in_channels=channels if is_function else int(mask.sum()),
      out_channels=channels if is_function else int((~mask).sum()),
      level=level,
      mask=mask if is_function else None,
      condition_size=self._condition_size,
      dtype=self.bijector_kwargs['dtype'],
      index=next(self._index),
      name=f'{name}_network',
    )
    coupling = affine_coupling.AffineCoupling(
      self._networks(spec), mask, name=name, **self.bijector_kwargs
    )
    if self._batch_norm is None:
      return [coupling]
    norm = batch_norm_lib.BatchNormBijector(
      channels,
      momentum=self._batch_norm.momentum,
      lagged=self._batch_norm.lagged,
      synchronized=self._batch_norm.synchronized,
      name=f'{name}_batch_norm',
      **self.bijector_kwargs,
    )
    return [coupling, norm]


def image_components(
  builder: CouplingBuilder, channels: int, num_scales: int, scale: int = 0
) -> list[tfb.Bijector]:
  """Returns the components for images (section 3.6 of the paper).

  Args:
    builder: Builds the couplings.
    channels: Channels of the images at this scale.
    num_scales: How many scales.
    scale: The scale that the components begin with.

  Returns:
    List of bijectors, in data -> latent order.
  """
  checkerboard = functools.partial(
    builder.couplings,
    'checkerboard',
    channels=channels,
    mask=lambda parity: functools.partial(
      mask_lib.checkerboard_mask, parity=parity
    ),
    level=scale,
  )
  with tf.name_scope(f'scale_{scale}'):
    if scale == num_scales - 1:
      return checkerboard(count=4)
    kwargs = builder.bijector_kwargs
    to_channels = squeeze.Squeeze(**kwargs)
    to_colors = squeeze.Squeeze(order='checkerboard', **kwargs)
    this_scale = [
      *checkerboard(count=3),
      to_channels,
      *builder.couplings(
        'channel',
        count=3,
        channels=4 * channels,
        mask=lambda parity: mask_lib.channel_mask(
          (None, None, 4 * channels), parity=parity
        ),
        level=scale + 1,
      ),
      tfb.Invert(to_channels),
      to_colors,
    ]
  next_scale = flow_sequence.FlowSequence(
    image_components(builder, 2 * channels, num_scales, scale + 1),
    event_ndims=3,
    dtype=kwargs['dtype'],
  )
  onward = factor_out.FactorOut(next_scale, **kwargs)
  return [*this_scale, onward, tfb.Invert(to_colors)]


def vector_components(
  builder: CouplingBuilder, size: int, num_couplings: int
) -> list[tfb.Bijector]:
  """Returns the components for vectors: couplings with alternating halves.

  Args:
    builder: Builds the couplings.
    size: Elements of a vector.
    num_couplings: How many couplings.

  Returns:
    List of bijectors, in data -> latent order.
  """
  return builder.couplings(
    'coupling',
    count=num_couplings,
    channels=size,
    mask=lambda parity: mask_lib.channel_mask((size,), parity=parity),
  )
