"""FactorOut: the recursion of the multi-scale architecture."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import flow_bijector

tfb = tfp.bijectors

__all__ = ['FactorOut']


class FactorOut(flow_bijector.FlowBijector):
  """Factors out half of the channels (equations 14 to 16).

  The other half goes through `bijector`. With `h, z = split(x)`:

  - Forward:  `y = merge(bijector.forward(h), z)`
  - Inverse:  `x = merge(bijector.inverse(h), z)`
  - Log-det: that of `bijector`

  The event shape is `[..., C]` with even `C`.
  """

  def __init__(
    self,
    bijector: tfb.Bijector,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'factor_out',
  ):
    """Initializes FactorOut.

    Args:
      bijector: `tfb.Bijector` for the first half of the channels, on events
        `[..., C / 2]`. It must keep their shape.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `bijector` is not a `tfb.Bijector`, or contains flows that
        `training` and `condition` cannot reach.
    """
    parameters = dict(locals())
    if not isinstance(bijector, tfb.Bijector):
      raise TypeError(f'`bijector` must be a tfb.Bijector, got {bijector!r}.')
    composition.check_part(bijector)
    with tf.name_scope(name) as name:
      self._bijector = bijector
      self._takes = composition.takes(bijector)
      super().__init__(
        is_constant_jacobian=bijector.is_constant_jacobian,
        forward_min_event_ndims=max(1, bijector.forward_min_event_ndims),
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def bijector(self) -> tfb.Bijector:
    """The bijector for the first half of the channels."""
    return self._bijector

  def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Splits the channels in half.

    Args:
      x: `[..., C]`.

    Returns:
      onward: The first half, for `bijector`, `[..., C / 2]`.
      latent: The second half, `[..., C / 2]`.

    Raises:
      ValueError: If `C` is odd.
    """
    self._shape_after(x.shape, 'forward')
    return tf.split(x, 2, axis=-1)

  def merge(self, onward: Any, latent: Any) -> tf.Tensor:
    """Inverts `split`.

    Args:
      onward: `[..., C / 2]`.
      latent: `[..., C / 2]`.

    Returns:
      `[..., C]`.

    Raises:
      ValueError: If the shapes are different.
    """
    onward = util.to_tensor(onward, self.dtype, 'onward')
    latent = util.to_tensor(latent, self.dtype, 'latent')
    if not onward.shape.is_compatible_with(latent.shape):
      raise ValueError(
        f'{self.name}: `onward` and `latent` must have the same shape, got '
        f'{onward.shape} and {latent.shape}.'
      )
    return tf.concat([onward, latent], axis=-1)

  def _forward_and_log_det(
    self, x: tf.Tensor, **kwargs: Any
  ) -> tuple[tf.Tensor, tf.Tensor]:
    onward, latent = self.split(x)
    onward, fldj = composition.forward_and_log_det(
      self._bijector, onward, self.forward_min_event_ndims, **kwargs
    )
    return self.merge(onward, latent), fldj

  def _inverse_and_log_det(
    self, y: tf.Tensor, **kwargs: Any
  ) -> tuple[tf.Tensor, tf.Tensor]:
    onward, latent = self.split(y)
    onward, ildj = composition.inverse_and_log_det(
      self._bijector, onward, self.forward_min_event_ndims, **kwargs
    )
    return self.merge(onward, latent), ildj

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    del direction
    channels = shape[-1]
    if channels is not None and channels % 2:
      raise ValueError(
        f'{self.name}: an odd number of channels cannot be split in half, got '
        f'shape {shape}.'
      )
    return shape


def split_scales(
  bijectors: Sequence[tfb.Bijector], z: tf.Tensor
) -> list[tf.Tensor]:
  """Splits latents by scale.

  Args:
    bijectors: Components of a chain, in data -> latent order.
    z: Latents in the shape of the data.

  Returns:
    List with the latents of each scale, finest first.
  """
  latents = []
  for factor, after in _factor_outs(bijectors):
    for bijector in reversed(after):
      z = bijector.inverse(z)
    z, latent = factor.split(z)
    latents.append(latent)
  return latents + [z]


def merge_scales(
  bijectors: Sequence[tfb.Bijector], latents: Sequence[tf.Tensor]
) -> tf.Tensor:
  """Inverts `split_scales`.

  Args:
    bijectors: Components of a chain, in data -> latent order.
    latents: List with the latents of each scale, finest first.

  Returns:
    Latents in the shape of the data.

  Raises:
    ValueError: If the number of latents is not the number of scales.
  """
  scales = list(_factor_outs(bijectors))
  if len(latents) != len(scales) + 1:
    raise ValueError(
      f'`latents` must have {len(scales) + 1} elements, one for each scale, '
      f'got {len(latents)}.'
    )
  *latents, z = latents
  for (factor, after), latent in zip(reversed(scales), reversed(latents)):
    z = factor.merge(z, latent)
    for bijector in after:
      z = bijector.forward(z)
  return z


def _factor_outs(
  bijectors: Sequence[tfb.Bijector],
) -> Iterator[tuple[FactorOut, Sequence[tfb.Bijector]]]:
  """Yields each `FactorOut`, outermost first, and the components after it."""
  for i, bijector in enumerate(bijectors):
    if isinstance(bijector, FactorOut):
      yield bijector, bijectors[i + 1 :]
      yield from _factor_outs(bijector.bijector.bijectors)
