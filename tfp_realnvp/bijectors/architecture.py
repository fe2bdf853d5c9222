"""The components of Real NVP, for images and for vectors."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import couplings as couplings_lib
from tfp_realnvp.bijectors import factor_out
from tfp_realnvp.bijectors import flow_sequence
from tfp_realnvp.bijectors import logit_transform as logit_transform_lib
from tfp_realnvp.bijectors import mask as mask_lib
from tfp_realnvp.bijectors import squeeze
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import dense
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.networks import residual

tfb = tfp.bijectors

__all__ = [
  'check_event_shape',
  'components',
  'image_components',
  'vector_components',
]

_NUM_COUPLINGS = 8  # For vectors.


def check_event_shape(event_shape: Any) -> tuple[int | None, ...]:
  """Returns an event shape of images or vectors as a tuple.

  Args:
    event_shape: `(H, W, C)`, where `H` and `W` may be `None`, or `(D,)`.

  Raises:
    ValueError: If it is of another kind.
  """
  try:
    result = tuple(tf.TensorShape(event_shape))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'`event_shape` must be (H, W, C) or (D,), got {event_shape!r}.'
    ) from error
  if len(result) not in (1, 3) or 0 in result or result[-1] is None:
    raise ValueError(
      '`event_shape` must be (H, W, C) or (D,), the last element known; got '
      f'{result!r}.'
    )
  return result


def components(
  event_shape: Sequence[int | None],
  num_scales: int | None,
  num_couplings: int | None,
  networks: Callable[[coupling_network.NetworkSpec], Callable] | None,
  couplings: couplings_lib.Couplings | None,
  condition_size: int | None,
  logit_transform: tfb.Bijector | str | None,
  **bijector_kwargs: Any,
) -> list[tfb.Bijector]:
  """Returns the components of a `RealNVPChain`, whose arguments these are.

  Args:
    event_shape: See `RealNVPChain`.
    num_scales: For images only.
    num_couplings: For vectors only.
    networks: See `RealNVPChain`.
    couplings: See `RealNVPChain`.
    condition_size: See `RealNVPChain`.
    logit_transform: See `RealNVPChain`.
    **bijector_kwargs: `dtype` and `validate_args` of the bijectors.

  Returns:
    List of bijectors, in data -> latent order.

  Raises:
    TypeError: If an argument is of another type.
    ValueError: If an argument is out of range, or not for such events.
  """
  event_shape = check_event_shape(event_shape)
  is_image = len(event_shape) == 3
  other, value = ('num_scales', num_scales)
  if is_image:
    other, value = ('num_couplings', num_couplings)
  if value is not None:
    raise ValueError(
      f'`{other}` is for {"vectors" if is_image else "images"} only, got '
      f'{value!r} with `event_shape` {event_shape!r}.'
    )
  util.check_int(num_couplings, 'num_couplings', optional=True)
  util.check_int(condition_size, 'condition_size', optional=True)
  if networks is None:
    networks = (
      residual.ResidualNetworks() if is_image else dense.DenseNetworks()
    )
  if not callable(networks):
    raise TypeError(f'`networks` must be callable, got {networks!r}.')
  couplings = _check_couplings(couplings, is_image)
  first = _first_component(logit_transform, is_image, **bijector_kwargs)
  builder = couplings_lib.CouplingBuilder(
    networks, couplings, condition_size, **bijector_kwargs
  )
  channels = event_shape[-1]
  if is_image:
    num_scales = _check_num_scales(event_shape, num_scales)
    return [*first, *image_components(builder, channels, num_scales)]
  if channels == 1 and condition_size is None:
    raise ValueError(
      '`event_shape` (1,) cannot be split, so `condition_size` must be given, '
      'got None. For a density of one variable use a tfd.MixtureSameFamily.'
    )
  num_couplings = num_couplings or _NUM_COUPLINGS
  return [*first, *vector_components(builder, channels, num_couplings)]


def image_components(
  builder: couplings_lib.CouplingBuilder,
  channels: int,
  num_scales: int,
  scale: int = 0,
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
    mask=lambda index: functools.partial(
      mask_lib.checkerboard_mask, parity=_parity(index)
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
        mask=lambda index: mask_lib.channel_mask(
          (None, None, 4 * channels), parity=_parity(index)
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
  builder: couplings_lib.CouplingBuilder, size: int, num_couplings: int
) -> list[tfb.Bijector]:
  """Returns the components for vectors: couplings in pairs.

  The two couplings of a pair change the two halves of a vector, or of its
  permutation.

  Args:
    builder: Builds the couplings.
    size: Elements of a vector.
    num_couplings: How many couplings.

  Returns:
    List of bijectors, in data -> latent order.
  """
  seed = builder.permutation_seed

  def mask(index: int) -> np.ndarray:
    if size == 1:  # The networks see the condition only.
      return np.array([False])
    halves = mask_lib.channel_mask((size,), parity=_parity(index))
    if seed is None:
      return halves
    # The two couplings of a pair have the same permutation.
    return np.random.default_rng([seed, index // 2]).permutation(halves)

  return builder.couplings('coupling', num_couplings, size, mask)


def _parity(index: int) -> int:
  """Returns the parity of a mask. The first coupling keeps parity 1."""
  return (index + 1) % 2


def _check_couplings(couplings: Any, is_image: bool) -> couplings_lib.Couplings:
  """Returns `couplings` or its default, after a check."""
  if couplings is None:
    norm = moving_statistics.BatchNormOptions() if is_image else None
    return couplings_lib.AffineCouplings(batch_norm=norm)
  if not isinstance(couplings, couplings_lib.Couplings):
    raise TypeError(
      '`couplings` must be AffineCouplings, SplineCouplings or None, got '
      f'{couplings!r}.'
    )
  if is_image and (
    not isinstance(couplings, couplings_lib.AffineCouplings)
    or couplings.permutation_seed is not None
  ):
    raise ValueError(
      '`couplings` must be AffineCouplings without `permutation_seed` for '
      f'images, got {couplings!r}.'
    )
  return couplings


def _first_component(
  logit_transform: Any, is_image: bool, **kwargs: Any
) -> list[tfb.Bijector]:
  """Returns `logit_transform` in a list, which is empty for `None`."""
  if isinstance(logit_transform, str) and logit_transform == 'default':
    return [logit_transform_lib.LogitTransform(**kwargs)] if is_image else []
  if not isinstance(logit_transform, (tfb.Bijector, type(None))):
    raise TypeError(
      "`logit_transform` must be a tfb.Bijector, None or 'default', got "
      f'{logit_transform!r}.'
    )
  return [] if logit_transform is None else [logit_transform]


def _check_num_scales(
  event_shape: Sequence[int | None], num_scales: int | None
) -> int:
  """Returns how many scales there are, after a check that they fit."""
  util.check_int(num_scales, 'num_scales', optional=True)
  sides = event_shape[:2]
  if num_scales is None:
    if None in sides:
      raise ValueError(
        '`num_scales` must be given where height and width are not: '
        f'`event_shape` is {event_shape!r}.'
      )
    num_scales = 1
    while all(
      side % 2**num_scales == 0 and side > 4 * 2 ** (num_scales - 1)
      for side in sides
    ):
      num_scales += 1
  for side in sides:
    if side is not None and side % 2 ** (num_scales - 1):
      raise ValueError(
        f'`event_shape` {event_shape!r} cannot be halved {num_scales - 1} '
        f'times for `num_scales` {num_scales}: height and width must be '
        f'divisible by {2 ** (num_scales - 1)}.'
      )
  return num_scales
