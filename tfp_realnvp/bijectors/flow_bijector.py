"""FlowBijector: the base class of all bijectors of the library."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import one_pass

__all__ = ['FlowBijector']


class FlowBijector(one_pass.OnePassBijector):
  """A bijector that computes its value and its log-det in one pass.

  Subclasses implement

  - `_forward_and_log_det(x, training=False, condition=None) -> (y, fldj)` and
  - `_inverse_and_log_det(y, training=False, condition=None) -> (x, ildj)`,

  where the log-det has shape `x.shape[:-forward_min_event_ndims]`. A subclass
  whose result does not depend on `training` or `condition` leaves the argument
  out, and lists those that it has in the class attribute `_takes`. TFP's
  `forward`, `inverse` and their log-dets are derived from these two methods.
  Each pass stores its log-det in TFP's cache. The methods `log_prob`, `sample`
  and `experimental_sample_and_log_prob` of a `tfd.TransformedDistribution`
  therefore run each network once, also inside `tfb.Chain`.

  All methods take two keyword arguments:

  - `training`: Python `bool`. If True, batch normalization uses batch
    statistics, the log-det accounts for them, and each moving average is
    updated once per call. Only the data -> latent direction accepts True.
  - `condition`: Input of a conditional flow, `[..., K]`. Its leading dimensions
    broadcast against the batch dimensions of the event. It is an error to pass
    a condition to a bijector that does not use it.

  As in all TFP bijectors, a result is cached for as long as it is alive: the
  same input tensor with an equal condition returns the same result. The
  gradient of `log_prob(x)` with respect to a sample `x` is therefore `None`,
  because the cache returns the latent that `x` was computed from. Use
  `tf.identity(x)` instead. Calls with `training=True`, or with a `tf.Variable`
  as condition, are always computed.
  """

  # The arguments that results depend on. A subclass that does not use
  # `condition` leaves it out, and then refuses conditions.
  _takes = frozenset(['training', 'condition'])

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    """Returns the shape of the output for an input of shape `shape`.

    Subclasses override this to check shapes, or if they change shapes.

    Args:
      shape: Shape of the input, of rank at least `forward_min_event_ndims`.
        Dimensions before the event are batch dimensions.
      direction: 'forward' or 'inverse'.

    Raises:
      ValueError: If the bijector does not support this shape.
    """
    del direction
    return shape

  def forward_and_log_det(
    self,
    x: Any,
    training: bool = False,
    condition: Any = None,
    event_ndims: int | None = None,
    name: str = 'forward_and_log_det',
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `forward(x)` and its log-det, computed in one pass.

    Args:
      x: `Tensor` of the bijector's dtype.
      training: See the class docstring.
      condition: See the class docstring.
      event_ndims: Number of rightmost dimensions that form an event. Defaults
        to `forward_min_event_ndims`, and must not be smaller.
      name: Name of the op.

    Returns:
      y: `Tensor`.
      fldj: `Tensor` of shape `x.shape[:-event_ndims]`, in nats.
    """
    return self._value_and_log_det(
      'forward', x, training, condition, event_ndims, name
    )

  def inverse_and_log_det(
    self,
    y: Any,
    training: bool = False,
    condition: Any = None,
    event_ndims: int | None = None,
    name: str = 'inverse_and_log_det',
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `inverse(y)` and its log-det; see `forward_and_log_det`."""
    return self._value_and_log_det(
      'inverse', y, training, condition, event_ndims, name
    )

  def _value_and_log_det(
    self,
    direction: str,
    value: Any,
    training: bool,
    condition: Any,
    event_ndims: int | None,
    name: str,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    with self._name_and_control_scope(name):
      value, kwargs = self._checked(
        value, direction, training=training, condition=condition
      )
      self._check_direction(direction, kwargs)
      result, log_det = getattr(self, f'_{direction}_and_log_det')(
        value, **kwargs
      )
      min_ndims = self.forward_min_event_ndims
      return result, _sum_over_event(log_det, event_ndims, min_ndims)

  def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
    return self._checked_shape_after(shape, 'forward')

  def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
    return self._checked_shape_after(shape, 'inverse')

  def _checked_shape_after(
    self, shape: tf.TensorShape, direction: str, name: str = 'shape'
  ) -> tf.TensorShape:
    if shape.rank is None:
      return shape
    ndims = self.forward_min_event_ndims
    if shape.rank < ndims:
      raise ValueError(
        f'{self.name}: `{name}` must have at least {ndims} dimensions, got '
        f'shape {shape}.'
      )
    return self._shape_after(shape, direction)

  def _checked(
    self,
    value: Any,
    direction: str,
    training: bool = False,
    condition: Any = None,
  ) -> tuple[tf.Tensor, dict[str, Any]]:
    name = {'forward': 'x', 'inverse': 'y'}[direction]
    if hasattr(value, 'dtype') and self.dtype is not None:
      dtype = tf.as_dtype(value.dtype)
      if dtype != self.dtype:
        raise TypeError(
          f'`{name}` must have dtype {self.dtype.name}, got {dtype.name} of '
          f'shape {value.shape}. Cast it first, and add uniform noise on '
          '[0, 1) to integer pixels.'
        )
    value = util.to_tensor(value, self.dtype, name)
    if value.shape.rank is None:
      raise ValueError(f'`{name}` must have a known rank, got {value!r}.')
    self._checked_shape_after(value.shape, direction, name)
    if not isinstance(training, bool):
      raise TypeError(f'`training` must be a Python bool, got {training!r}.')
    kwargs = {'training': True} if training else {}
    if condition is not None:
      kwargs['condition'] = self._checked_condition(condition, training)
    return value, kwargs

  def _checked_condition(
    self, condition: Any, training: bool
  ) -> tf.Tensor | np.ndarray:
    if 'condition' not in self._takes:
      shape = getattr(condition, 'shape', condition)
      raise ValueError(
        f'{self.name} takes no `condition`, got one of shape {shape}.'
      )
    if training and isinstance(condition, tf.Variable):
      raise TypeError(
        '`condition` must be a tensor or an array if `training` is True, got '
        f'{condition!r}. Use `tf.convert_to_tensor`.'
      )
    return one_pass.snapshot(condition)


def _sum_over_event(
  log_det: tf.Tensor, event_ndims: int | None, min_event_ndims: int
) -> tf.Tensor:
  if event_ndims is None:
    return log_det
  extra = util.check_int(event_ndims, 'event_ndims', min_event_ndims)
  extra -= min_event_ndims
  if extra > log_det.shape.rank:
    raise ValueError(
      f'`event_ndims` must be at most {log_det.shape.rank + min_event_ndims}, '
      f'the rank of the input, got {event_ndims}.'
    )
  if extra == 0:
    return log_det
  return tf.reduce_sum(log_det, axis=list(range(-extra, 0)))
