"""AffineCoupling: the layer that Real NVP is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import conditioner
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['AffineCoupling']


class AffineCoupling(flow_bijector.FlowBijector):
  """Scales and shifts part of its input by functions of the rest.

  - Forward:  `y = b x + (1 - b) (x exp(log_scale(b x)) + shift(b x))`  (eq. 9)
  - Inverse:  `x = b y + (1 - b) (y - shift(b y)) exp(-log_scale(b y))`
  - Forward log-det: `sum((1 - b) log_scale(b x))` over the event

  The event shape is `[H, W, C]` or `[D]`, leading dimensions are batch. `b` is
  the mask. One that varies over the last dimension only (`channel_mask`) splits
  it: the network sees the channels that are kept and returns shift and
  log-scale of the others (eq. 7). With any other (`checkerboard_mask`), the
  network sees the whole event, zero where `b` is False, and what it returns
  where `b` is True, which must be finite, is not used.

  #### Examples

  ```python
  network = keras.Sequential([
      keras.Input([1]),
      keras.layers.Dense(64, activation='relu'), keras.layers.Dense(2)])
  coupling = AffineCoupling(network, mask=channel_mask((2,)))
  dist = tfd.TransformedDistribution(
      tfd.MultivariateNormalDiag([0., 0.]), tfb.Invert(coupling))
  ```
  """

  def __init__(
    self,
    shift_and_log_scale_fn: Callable,
    mask: Any,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'affine_coupling',
  ):
    """Initializes AffineCoupling.

    Args:
      shift_and_log_scale_fn: The network, from `[N, H, W, K]` or `[N, K]` (all
        batch dimensions are merged) to a pair: shift and log-scale, each of the
        shape of what it changes; or to one tensor that holds both, shift first,
        along the last dimension. It is called with `training=` and, if the flow
        is given a condition, with `condition=`, `[N, size]`, if it has such
        arguments or `**kwargs`. If it has variables, it must be a Keras layer
        or model, or a `tf.Module`; they then are the bijector's. Those of a
        Keras network that is not built yet exist after the first call. What
        Keras has frozen is not trainable here.
      mask: Boolean, True where the input passes through unchanged. `[D]` for
        vectors, `[H, W, 1]`, `[1, 1, C]` or `[H, W, C]` for images; or, for
        images of any size, a function from the event shape `(H, W, C)` to one
        of these, such as `checkerboard_mask`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `shift_and_log_scale_fn` is not callable, or `mask` is not
        boolean.
      ValueError: If `mask` has another rank, or keeps all or nothing.
    """
    parameters = dict(locals())
    if not callable(mask):
      mask = _check_mask(mask, (1, 3))
      if mask.all() or not mask.any():
        raise ValueError(
          f'`mask` must keep a part and change a part, got all {mask.any()}: '
          f'{mask!r}.'
        )
    with tf.name_scope(name) as name:
      self._conditioner = conditioner.Conditioner(shift_and_log_scale_fn)
      self._takes = self._conditioner.takes
      self._mask = mask
      is_split = not callable(mask) and mask.size == mask.shape[-1]
      self._channel_split = _ChannelSplit(mask.ravel()) if is_split else None
      super().__init__(
        forward_min_event_ndims=3 if callable(mask) else mask.ndim,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def shift_and_log_scale_fn(self) -> Callable:
    """The network."""
    return self._conditioner.network

  @property
  def mask(self) -> Any:
    """The mask, or the function that makes it from an event shape."""
    return self._mask

  def _forward_and_log_det(self, x, training=False, condition=None):
    split, kept, changed = self._split(x)
    shift, log_scale = self._parameters_of(split, kept, training, condition)
    y = split.join(kept, changed * tf.exp(log_scale) + shift)
    return y, self._sum_over_event(log_scale)

  def _inverse_and_log_det(self, y, training=False, condition=None):
    split, kept, changed = self._split(y)
    shift, log_scale = self._parameters_of(split, kept, training, condition)
    x = split.join(kept, (changed - shift) * tf.exp(-log_scale))
    return x, -self._sum_over_event(log_scale)

  def _split(self, x):
    """Returns how the event is split, and the two parts of `x`."""
    mask = self._mask
    if callable(mask):
      mask = _check_mask(mask(tuple(util.dims(x)[-3:])), (3,))
      self._check_mask_fits(x.shape[-3:], mask.shape)
    sizes = [None if size == 1 else size for size in mask.shape]
    batch, event = x.shape[: -len(sizes)], x.shape[-len(sizes) :]
    if any(e is None and size is not None for e, size in zip(event, sizes)):
      # What is known at run time only must fit too: 1 would be broadcast.
      x = tf.ensure_shape(x, batch.concatenate(sizes))
    split = self._channel_split or _MaskSplit(mask, x.shape[-1], x.dtype)
    return split, *split.split(x)

  def _parameters_of(self, split, kept, training, condition):
    """Returns shift and log-scale of what the coupling changes."""
    ndims = self.forward_min_event_ndims
    output = self._conditioner(kept, ndims, training, condition)
    return [split.fit(value) for value in output]

  def _sum_over_event(self, log_scale):
    ndims = self.forward_min_event_ndims
    return tf.reduce_sum(log_scale, axis=list(range(-ndims, 0)))

  def _shape_after(self, shape, direction):
    if not callable(self._mask):
      self._check_mask_fits(shape[-self._mask.ndim :], self._mask.shape)
    return shape

  def _check_mask_fits(self, event_shape, mask_shape):
    for size, mask_size in zip(event_shape, mask_shape):
      if None not in (size, mask_size) and mask_size not in (1, size):
        raise ValueError(
          f'{self.name}: `mask` of shape {tuple(mask_shape)} does not fit the '
          f'event shape {tuple(event_shape)}.'
        )


class _ChannelSplit:
  """Splits the last dimension by a mask over it."""

  def __init__(self, mask):
    self._kept = np.flatnonzero(mask)
    self._changed = np.flatnonzero(~mask)
    self._order = np.argsort(np.concatenate([self._kept, self._changed]))

  def split(self, x):
    return _take(x, self._kept), _take(x, self._changed)

  def fit(self, value):
    """Checks what the network returns for the part that changes."""
    return _check_channels(value, len(self._changed))

  def join(self, kept, changed):
    if self._kept[-1] < self._changed[0]:
      return tf.concat([kept, changed], axis=-1)
    if self._changed[-1] < self._kept[0]:
      return tf.concat([changed, kept], axis=-1)
    return tf.gather(tf.concat([kept, changed], -1), self._order, axis=-1)


class _MaskSplit:
  """Keeps the event whole: zeros what changes, for the network to see."""

  def __init__(self, mask, num_channels, dtype):
    self._kept = tf.cast(mask, dtype)
    self._num_channels = num_channels

  def split(self, x):
    return x * self._kept, x

  def fit(self, value):
    """Zeros what the network returns for the part that is kept."""
    return _check_channels(value, self._num_channels) * (1 - self._kept)

  def join(self, kept, changed):
    """The part that is kept was scaled by 1 and shifted by 0."""
    del kept
    return changed


def _check_mask(mask, ndims):
  """Returns the mask, a NumPy array unless it is a symbolic tensor."""
  if not tf.is_tensor(mask) or tf.executing_eagerly():
    mask = np.asarray(mask)
  if tf.as_dtype(mask.dtype) != tf.bool:
    raise TypeError(f'`mask` must be boolean, got {mask.dtype}: {mask!r}.')
  if len(mask.shape) not in ndims:
    raise ValueError(
      f'`mask` must have {" or ".join(map(str, ndims))} dimensions, got shape '
      f'{mask.shape}.'
    )
  return mask


def _check_channels(value, num_channels):
  if value.shape[-1] != num_channels:
    raise ValueError(
      'Each output of `shift_and_log_scale_fn` must have as many channels as '
      f'it changes, {num_channels}; got shape {value.shape}.'
    )
  return value


def _take(x, indices):
  """`tf.gather` on the last axis; neighbours are sliced, which is faster."""
  first, last = indices[0], indices[-1]
  if last - first + 1 == len(indices):
    return x[..., first : last + 1]
  return tf.gather(x, indices, axis=-1)
