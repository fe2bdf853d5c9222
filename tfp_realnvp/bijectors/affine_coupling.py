"""AffineCoupling: the coupling layer of Real NVP."""

from collections.abc import Callable
from collections.abc import Sequence
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

  where `b` is the mask. The event shape is `[H, W, C]` or `[D]`; leading
  dimensions are batch dimensions.

  A mask that varies only over the last dimension (`channel_mask`) splits it:
  the network maps the kept channels to the shift and the log-scale of the other
  channels (eq. 7). With other masks (`checkerboard_mask`), the input of the
  network is the whole event, zero where `b` is False. Its outputs where `b` is
  True are not used, but must be finite.

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
      shift_and_log_scale_fn: The network. Its input is `[N, H, W, K]` or
        `[N, K]`, with all batch dimensions merged. It returns the shift and the
        log-scale of the part that changes, as a pair or concatenated along the
        last dimension, shift first. If it has an argument `training`, that is
        passed. If it has an argument `condition` and the flow gets a condition,
        that is passed as `[N, size]`. A network with variables must be a Keras
        layer or model, or a `tf.Module`. Its variables become variables of the
        bijector; a Keras network that is not built creates them in its first
        call. Variables that are frozen in Keras are not trainable.
      mask: Boolean, True where the input passes through unchanged. `[D]` for
        vectors; `[H, W, 1]`, `[1, 1, C]` or `[H, W, C]` for images. For images
        of any size, a function from the event shape `(H, W, C)` to such a mask,
        such as `checkerboard_mask`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `shift_and_log_scale_fn` is not callable, or `mask` is not
        boolean.
      ValueError: If `mask` has another rank, or is all True or all False.
    """
    parameters = dict(locals())
    if not callable(mask):
      mask = _check_mask(mask, (1, 3))
      if mask.all() or not mask.any():
        raise ValueError(
          '`mask` must keep a part of the event and change a part, got all '
          f'{mask.any()}: {mask!r}.'
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
    """The mask, or the function from an event shape to the mask."""
    return self._mask

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    split, kept, changed = self._split(x)
    shift, log_scale = self._parameters_of(split, kept, training, condition)
    y = split.join(kept, changed * tf.exp(log_scale) + shift)
    return y, self._sum_over_event(log_scale)

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    split, kept, changed = self._split(y)
    shift, log_scale = self._parameters_of(split, kept, training, condition)
    x = split.join(kept, (changed - shift) * tf.exp(-log_scale))
    return x, -self._sum_over_event(log_scale)

  def _split(
    self, x: tf.Tensor
  ) -> tuple['_ChannelSplit | _MaskSplit', tf.Tensor, tf.Tensor]:
    """Returns the split for this event shape, and the two parts of `x`."""
    mask = self._mask
    if callable(mask):
      mask = _check_mask(mask(tuple(util.dims(x)[-3:])), (3,))
      self._check_mask_fits(x.shape[-3:], mask.shape)
    sizes = [None if size == 1 else size for size in mask.shape]
    batch, event = x.shape[: -len(sizes)], x.shape[-len(sizes) :]
    if any(e is None and size is not None for e, size in zip(event, sizes)):
      # A size of 1 that is only known at run time would be broadcast.
      x = tf.ensure_shape(x, batch.concatenate(sizes))
    split = self._channel_split or _MaskSplit(mask, x.shape[-1], x.dtype)
    return split, *split.split(x)

  def _parameters_of(
    self,
    split: '_ChannelSplit | _MaskSplit',
    kept: tf.Tensor,
    training: bool,
    condition: Any,
  ) -> list[tf.Tensor]:
    """Returns the shift and the log-scale of the part that changes."""
    ndims = self.forward_min_event_ndims
    output = self._conditioner(kept, ndims, training, condition)
    return [split.fit(value) for value in output]

  def _sum_over_event(self, log_scale: tf.Tensor) -> tf.Tensor:
    ndims = self.forward_min_event_ndims
    return tf.reduce_sum(log_scale, axis=list(range(-ndims, 0)))

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    del direction
    if not callable(self._mask):
      self._check_mask_fits(shape[-self._mask.ndim :], self._mask.shape)
    return shape

  def _check_mask_fits(
    self, event_shape: tf.TensorShape, mask_shape: Sequence[int | None]
  ) -> None:
    for size, mask_size in zip(event_shape, mask_shape):
      if None not in (size, mask_size) and mask_size not in (1, size):
        raise ValueError(
          f'{self.name}: `mask` of shape {tuple(mask_shape)} does not fit the '
          f'event shape {tuple(event_shape)}.'
        )


class _ChannelSplit:
  """Splits the last dimension."""

  def __init__(self, mask: np.ndarray):
    self._kept = np.flatnonzero(mask)
    self._changed = np.flatnonzero(~mask)
    self._order = np.argsort(np.concatenate([self._kept, self._changed]))

  def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _take(x, self._kept), _take(x, self._changed)

  def fit(self, value: tf.Tensor) -> tf.Tensor:
    """Checks an output of the network."""
    return _check_channels(value, len(self._changed))

  def join(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
    if self._kept[-1] < self._changed[0]:
      return tf.concat([kept, changed], axis=-1)
    if self._changed[-1] < self._kept[0]:
      return tf.concat([changed, kept], axis=-1)
    return tf.gather(tf.concat([kept, changed], -1), self._order, axis=-1)


class _MaskSplit:
  """Multiplies by the mask instead of splitting the event."""

  def __init__(
    self, mask: np.ndarray | tf.Tensor, num_channels: int, dtype: tf.DType
  ):
    self._kept = tf.cast(mask, dtype)
    self._num_channels = num_channels

  def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x * self._kept, x

  def fit(self, value: tf.Tensor) -> tf.Tensor:
    """Checks an output of the network, and zeros it for the kept part."""
    return _check_channels(value, self._num_channels) * (1 - self._kept)

  def join(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
    # `changed` is the whole event. Its kept part was scaled by exp(0) and
    # shifted by 0.
    del kept
    return changed


def _check_mask(mask: Any, ndims: Sequence[int]) -> np.ndarray | tf.Tensor:
  """Checks a mask, and converts it to NumPy unless it is a symbolic tensor."""
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


def _check_channels(value: tf.Tensor, num_channels: int) -> tf.Tensor:
  if value.shape[-1] != num_channels:
    raise ValueError(
      'Each output of `shift_and_log_scale_fn` must have as many channels as '
      f'the coupling changes, {num_channels}; got shape {value.shape}.'
    )
  return value


def _take(x: tf.Tensor, indices: np.ndarray) -> tf.Tensor:
  """Gathers on the last axis. Adjacent indices are sliced, which is faster."""
  first, last = indices[0], indices[-1]
  if last - first + 1 == len(indices):
    return x[..., first : last + 1]
  return tf.gather(x, indices, axis=-1)
