"""FlowBijector: the contract that all bijectors of the library keep."""

from typing import Any

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import one_pass

__all__ = ['FlowBijector']


class FlowBijector(one_pass.OnePassBijector):
  """A bijector that computes its value and its log-det in one pass.

  A subclass implements

  - `_forward_and_log_det(x, training, condition) -> (y, fldj)` and
  - `_inverse_and_log_det(y, training, condition) -> (x, ildj)`,

  the log-det at the bijector's minimum number of event dimensions, of shape
  `x.shape[:-forward_min_event_ndims]`. TFP's `forward`, `inverse` and their
  log-dets are derived from these; because each pass puts its log-det into TFP's
  cache, `log_prob`, `sample` and `experimental_sample_and_log_prob` of a
  `tfd.TransformedDistribution` run every network once, inside `tfb.Chain` too.

  All methods take two keyword arguments:

  - `training`: Python `bool`. In the data -> latent direction, batch
    normalization uses (and the log-det accounts for) batch statistics, and each
    moving average moves once per call. An error in the other direction.
  - `condition`: `[..., K]`, what a conditional flow depends on. Its leading
    dimensions broadcast against the batch dimensions of the event. An error if
    the bijector takes none.

  As for every TFP bijector, a result is cached for as long as it is alive, and
  the same tensor with a condition of the same value gets the same result. So
  the gradient of `log_prob(x)` with respect to a sample `x` is `None`: the
  cache has the latent that `x` was made of. Ask for that of `tf.identity(x)`.
  A call with `training=True` is always computed, and so is one with a
  `tf.Variable` as condition.
  """

  # What results depend on, beside the event. A bijector that ignores one of the
  # two leaves it out: to pass it a condition is then an error.
  _takes = frozenset(['training', 'condition'])

  def _shape_after(self, shape, direction):
    """Returns the shape of what a pass in `direction` makes of `shape`.

    A subclass overrides it to check shapes, or if it changes them.

    Args:
      shape: `tf.TensorShape`, of at least `forward_min_event_ndims` dimensions;
        those before the event are batch.
      direction: 'forward' or 'inverse'.

    Raises:
      ValueError: If events cannot have this shape.
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
      event_ndims: How many rightmost dimensions are one event. At least, and by
        default, `forward_min_event_ndims`.
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
    self, direction, value, training, condition, event_ndims, name
  ):
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

  def _forward_event_shape(self, shape):
    return self._checked_shape_after(shape, 'forward')

  def _inverse_event_shape(self, shape):
    return self._checked_shape_after(shape, 'inverse')

  def _checked_shape_after(self, shape, direction, name='shape'):
    if shape.rank is None:
      return shape
    ndims = self.forward_min_event_ndims
    if shape.rank < ndims:
      raise ValueError(
        f'{self.name}: `{name}` must have at least {ndims} dimensions, got '
        f'shape {shape}.'
      )
    return self._shape_after(shape, direction)

  def _checked(self, value, direction, training=False, condition=None):
    name = {'forward': 'x', 'inverse': 'y'}[direction]
    if hasattr(value, 'dtype') and self.dtype is not None:
      dtype = tf.as_dtype(value.dtype)
      if dtype != self.dtype:
        raise TypeError(
          f'`{name}` must have dtype {self.dtype.name}, got {dtype.name} of '
          f'shape {value.shape}. Cast it first; integer pixels also need '
          'uniform noise on [0, 1) added to them.'
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

  def _checked_condition(self, condition, training):
    if 'condition' not in self._takes:
      shape = getattr(condition, 'shape', condition)
      raise ValueError(
        f'{self.name} takes no `condition`, got one of shape {shape}.'
      )
    if training and isinstance(condition, tf.Variable):
      raise TypeError(
        '`condition` must be a tensor or an array where `training` is True, '
        f'got {condition!r}: read it first, with `tf.convert_to_tensor`.'
      )
    return one_pass.snapshot(condition)


def _sum_over_event(log_det, event_ndims, min_event_ndims):
  if event_ndims is None:
    return log_det
  extra = util.check_int(event_ndims, 'event_ndims', min_event_ndims)
  extra -= min_event_ndims
  if extra > log_det.shape.rank:
    raise ValueError(
      f'`event_ndims` must be at most {log_det.shape.rank + min_event_ndims}, '
      f'the number of dimensions; got {event_ndims}.'
    )
  if extra == 0:
    return log_det
  return tf.reduce_sum(log_det, axis=list(range(-extra, 0)))
