"""FlowSequence: applies bijectors one after another."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import flow_bijector

tfb = tfp.bijectors

__all__ = ['FlowSequence']


class FlowSequence(flow_bijector.FlowBijector):
  """Applies bijectors one after another, the first one first.

  `forward` is data -> latent, as for the other components of a flow. In
  contrast, `tfb.Chain` applies its last bijector first.
  """

  def __init__(
    self,
    bijectors: Sequence[tfb.Bijector],
    event_ndims: int,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'flow_sequence',
  ):
    """Initializes FlowSequence.

    Args:
      bijectors: List of `tfb.Bijector`s that keep the rank of an event.
      event_ndims: Rank of an event.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `bijectors` is not a non-empty list of bijectors, or if it
        contains flows that `training` and `condition` cannot reach.
      ValueError: If `event_ndims` is not an int of at least 0, or a bijector
        changes the rank of an event.
    """
    parameters = dict(locals())
    event_ndims = util.check_int(event_ndims, 'event_ndims', minimum=0)
    if (
      not isinstance(bijectors, (list, tuple))
      or not bijectors
      or not all(isinstance(b, tfb.Bijector) for b in bijectors)
    ):
      raise TypeError(
        f'`bijectors` must be a list of tfb.Bijectors, got {bijectors!r}.'
      )
    for bijector in bijectors:
      composition.check_part(bijector)
      if bijector.forward_event_ndims(event_ndims) != event_ndims:
        raise ValueError(
          f'`bijectors` must keep the rank of an event, {event_ndims}; got '
          f'{bijector!r}.'
        )
    with tf.name_scope(name) as name:
      self._bijectors = list(bijectors)
      self._takes = frozenset().union(*map(composition.takes, bijectors))
      super().__init__(
        forward_min_event_ndims=event_ndims,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def bijectors(self) -> list[tfb.Bijector]:
    """The bijectors, in data -> latent order."""
    return list(self._bijectors)

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    return self._apply(
      composition.forward_and_log_det, self._bijectors, x, training, condition
    )

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    return self._apply(
      composition.inverse_and_log_det,
      reversed(self._bijectors),
      y,
      training,
      condition,
    )

  def _apply(
    self,
    value_and_log_det: Callable,
    bijectors: Iterable[tfb.Bijector],
    value: tf.Tensor,
    training: bool,
    condition: Any,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    total = 0.0
    for bijector in bijectors:
      value, log_det = value_and_log_det(
        bijector,
        value,
        self.forward_min_event_ndims,
        training=training,
        condition=condition,
      )
      total += log_det
    return value, total

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    for bijector in self._bijectors[:: 1 if direction == 'forward' else -1]:
      shape = getattr(bijector, f'{direction}_event_shape')(shape)
    return shape

  def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    for bijector in self._bijectors:
      shape = bijector.forward_event_shape_tensor(shape)
    return shape

  def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    for bijector in reversed(self._bijectors):
      shape = bijector.inverse_event_shape_tensor(shape)
    return shape
