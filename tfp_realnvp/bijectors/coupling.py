"""Coupling: the base class of the coupling layers."""

import abc
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import conditioner
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['Coupling']


class Coupling(flow_bijector.FlowBijector):
  """Transforms part of its input by functions of the rest (section 3.2).

  The base class holds the mask and the network, splits the input and joins the
  result. Subclasses implement `_transform` and `_transform_back`.
  """

  def __init__(
    self,
    network: Callable,
    mask: Any,
    parameters: dict[str, Any],
    network_argument: str,
    num_outputs: int,
    params_per_output: int = 1,
  ):
    """Initializes Coupling.

    Args:
      network: See `AffineCoupling`.
      mask: See `AffineCoupling`.
      parameters: Arguments of the subclass, with `validate_args`, `dtype` and
        `name`.
      network_argument: What the subclass calls `network`, for errors.
      num_outputs: Number of tensors that the network computes.
      params_per_output: Number of channels of each of these tensors for each
        channel that the coupling changes.

    Raises:
      TypeError: If `network` is not callable, or `mask` is not boolean.
      ValueError: If `mask` has another rank, is all True, or is all False and
        the network has no argument `condition`.
    """
    if not callable(mask):
      mask = _check_mask(mask, (1, 3))
    with tf.name_scope(parameters['name']) as name:
      self._conditioner = conditioner.Conditioner(
        network, network_argument, num_outputs
      )
      self._takes = self._conditioner.takes
      self._mask = mask
      self._params_per_output = params_per_output
      self._check_mask_changes_a_part()
      is_split = not callable(mask) and mask.size == mask.shape[-1]
      self._channel_split = _ChannelSplit(mask.ravel()) if is_split else None
      super().__init__(
        forward_min_event_ndims=3 if callable(mask) else mask.ndim,
        validate_args=parameters['validate_args'],
        dtype=parameters['dtype'],
        parameters=parameters,
        name=name,
      )

  @property
  def network(self) -> Callable:
    """The network."""
    return self._conditioner.network

  @property
  def is_built(self) -> bool:
    """Whether the network has its variables. A Keras network may not yet."""
    return getattr(self.network, 'built', True)

  @property
  def mask(self) -> Any:
    """The mask, or the function from an event shape to the mask."""
    return self._mask

  @abc.abstractmethod
  def _transform(
    self, changed: tf.Tensor, *params: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Transforms the part that changes.

    Args:
      changed: The part that changes.
      *params: The outputs of the network.

    Returns:
      The new values, and the logarithm of their derivatives, like `changed`.
    """

  @abc.abstractmethod
  def _transform_back(
    self, changed: tf.Tensor, *params: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Inverts `_transform`.

    Args:
      changed: What `_transform` returned.
      *params: The outputs of the network.

    Returns:
      The old values, and the logarithm of the derivatives of `_transform`.
    """

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    split, kept, changed = self._split(x)
    params = self._params(split, kept, training, condition)
    changed, log_derivatives = self._transform(changed, *params)
    return split.join(kept, changed), self._sum_over_event(log_derivatives)

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    split, kept, changed = self._split(y)
    params = self._params(split, kept, training, condition)
    changed, log_derivatives = self._transform_back(changed, *params)
    return split.join(kept, changed), -self._sum_over_event(log_derivatives)

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

  def _params(
    self,
    split: '_ChannelSplit | _MaskSplit',
    kept: tf.Tensor,
    training: bool,
    condition: Any,
  ) -> list[tf.Tensor]:
    """Returns the outputs of the network for the part that changes."""
    ndims = self.forward_min_event_ndims
    outputs = self._conditioner(kept, ndims, training, condition)
    expected = split.num_changed * self._params_per_output
    for value in outputs:
      if value.shape[-1] != expected:
        raise ValueError(
          f'Each output of `{self._conditioner.argument}` must have as many '
          f'channels as the coupling needs, {expected}; got shape '
          f'{value.shape}.'
        )
    return [split.fit(value) for value in outputs]

  def _sum_over_event(self, log_derivatives: tf.Tensor) -> tf.Tensor:
    ndims = self.forward_min_event_ndims
    return tf.reduce_sum(log_derivatives, axis=list(range(-ndims, 0)))

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    del direction
    if not callable(self._mask):
      self._check_mask_fits(shape[-self._mask.ndim :], self._mask.shape)
    return shape

  def _check_mask_changes_a_part(self) -> None:
    mask = self._mask
    if callable(mask):
      return
    if mask.all():
      raise ValueError(f'`mask` must change a part of the event, got {mask!r}.')
    if not mask.any() and 'condition' not in self._takes:
      raise ValueError(
        '`mask` must keep a part of the event unless the network takes a '
        f'`condition`, got {mask!r}.'
      )

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

  @property
  def num_changed(self) -> int:
    """Number of channels that the coupling changes."""
    return len(self._changed)

  def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _take(x, self._kept), _take(x, self._changed)

  def fit(self, value: tf.Tensor) -> tf.Tensor:
    return value

  def join(self, kept: tf.Tensor, changed: tf.Tensor) -> tf.Tensor:
    if not self._kept.size:
      return changed
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
    self.num_changed = num_channels

  def split(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return x * self._kept, x

  def fit(self, value: tf.Tensor) -> tf.Tensor:
    """Zeros an output of the network for the part that is kept."""
    return value * (1 - self._kept)

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


def _take(x: tf.Tensor, indices: np.ndarray) -> tf.Tensor:
  """Gathers on the last axis. Adjacent indices are sliced, which is faster."""
  if not indices.size:
    return x[..., :0]
  first, last = indices[0], indices[-1]
  if last - first + 1 == len(indices):
    return x[..., first : last + 1]
  return tf.gather(x, indices, axis=-1)
