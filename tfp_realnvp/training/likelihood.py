"""Log-likelihoods of data under any distribution that holds flows."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import pixels
from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import sample_weights

tfd = tfp.distributions

__all__ = [
  'Likelihood',
  'check_distribution',
  'check_event_shape',
  'log_prob_kwargs',
  'split_batch',
]

# These hand the arguments of `log_prob` to what they wrap. Where that is not a
# composite tensor, TFP makes instances of their private base classes.
_TRANSPARENT = tuple(
  wrapper.__bases__[0]
  for wrapper in (tfd.BatchBroadcast, tfd.Independent, tfd.Sample)
)
_TRANSFORMED = tfd.TransformedDistribution.__bases__[0]


def log_prob_kwargs(
  distribution: tfd.Distribution, **kwargs: Any
) -> dict[str, Any]:
  """Returns keyword arguments for `distribution.log_prob`.

  Args:
    distribution: `tfd.Distribution`. The flows within may be bijectors of
      `tfd.TransformedDistribution`s, inside `tfb.Chain` and `tfb.Invert` too,
      and these inside one another and inside `tfd.Independent`, `tfd.Sample`
      and `tfd.BatchBroadcast`.
    **kwargs: `training`, `condition`.

  Returns:
    A dict that hands each flow those of `kwargs` that it depends on.

  Raises:
    TypeError: If TFP cannot hand them to a flow, as within `tfd.Mixture`.
    ValueError: If the names of the bijectors of a composition do not tell them
      apart.
  """
  if not composition.takes(distribution):
    return {}
  if isinstance(distribution, _TRANSPARENT):
    return log_prob_kwargs(distribution.distribution, **kwargs)
  default = tfd.TransformedDistribution.__init__.__defaults__[0]
  split = distribution.parameters.get('kwargs_split_fn', default)
  if not isinstance(distribution, _TRANSFORMED) or split is not default:
    flow = next(
      module
      for module in distribution.submodules
      if isinstance(module, flow_bijector.FlowBijector)
    )
    raise TypeError(
      f'`training` and `condition` cannot reach {flow.name!r} within '
      f'{distribution!r}: TFP hands them on in tfd.TransformedDistribution '
      '(with the default `kwargs_split_fn`), tfd.Independent, tfd.Sample and '
      'tfd.BatchBroadcast alone. Put the flow outside, such as '
      '`tfd.TransformedDistribution(tfd.Mixture(...), flow)`, or use flows '
      'without batch normalization, dropout and condition.'
    )
  parts = {
    'bijector_kwargs': composition.nested_kwargs(
      distribution.bijector, **kwargs
    ),
    'distribution_kwargs': log_prob_kwargs(distribution.distribution, **kwargs),
  }
  return {name: nested for name, nested in parts.items() if nested}


def check_distribution(distribution: tfd.Distribution) -> None:
  """Raises unless log-likelihoods of batches of events can be computed.

  Args:
    distribution: `tfd.Distribution`.

  Raises:
    TypeError: If `distribution` is not a `tfd.Distribution`, or holds a flow
      that `training` or `condition` cannot reach.
    ValueError: If its event shape is not fully known, or it has batch
      dimensions.
  """
  if not isinstance(distribution, tfd.Distribution):
    raise TypeError(
      f'`distribution` must be a tfd.Distribution, got {distribution!r}.'
    )
  check_event_shape(distribution, '`distribution`')
  if distribution.batch_shape.rank != 0:
    raise ValueError(
      '`distribution` must have no batch dimensions, got batch shape '
      f'{distribution.batch_shape}: `tfd.Independent` makes them part of the '
      'event.'
    )
  log_prob_kwargs(distribution, training=True)  # Or raises.


def check_event_shape(distribution: tfd.Distribution, name: str) -> None:
  """Raises a `ValueError` unless the event is one tensor of a known shape."""
  shape = distribution.event_shape
  if not isinstance(shape, tf.TensorShape) or not shape.is_fully_defined():
    raise ValueError(
      f'{name} must have a fully known event shape of one tensor, got {shape}.'
    )


class Likelihood:
  """Computes the log-likelihood of data, pixels or continuous."""

  def __init__(self, distribution: tfd.Distribution, num_levels: int | None):
    """Initializes Likelihood.

    Args:
      distribution: `tfd.Distribution`, see `check_distribution`.
      num_levels: See `DensityEstimator`.

    Raises:
      TypeError: See `check_distribution`.
      ValueError: See `check_distribution`; or if `num_levels` is not an int of
        at least 1 that the dtype can count to.
    """
    check_distribution(distribution)
    self._distribution = distribution
    self._num_levels = util.check_int(num_levels, 'num_levels', optional=True)
    if num_levels is not None and distribution.dtype.is_floating:
      pixels.check_num_levels(num_levels, distribution.dtype)

  def unpack(
    self, data: Any
  ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Returns a batch as tensors.

    Args:
      data: See `split_batch`.

    Returns:
      x: `[N] + event_shape`. Events of weight 0 are replaced by another one.
      condition: `[N, K]` or `None`.
      weight: `[N]` or `None`.
    """
    x, condition, weight = split_batch(data)
    x = self._convert(x)
    condition = self._convert_condition(condition, x)
    if weight is None:
      return x, condition, None
    weight = sample_weights.to_tensor(weight, x, self._distribution.dtype)
    x, condition = sample_weights.replace_rows(weight, x, condition)
    return x, condition, weight

  def _convert(self, x: Any) -> tf.Tensor:
    """Returns `x` as a tensor of a batch of events."""
    if isinstance(x, dict):
      raise TypeError(
        '`x` must be an array or a tensor, or batches `(x, condition)`, got a '
        f'dict with the keys {sorted(x)}. Choose one, such as '
        '`data.map(lambda batch: batch["image"])`.'
      )
    x = tf.convert_to_tensor(x)
    event_shape = self._distribution.event_shape
    if not x.shape[1:].is_compatible_with(event_shape):
      message = (
        f'`x` must be a batch of events of shape {event_shape}, got shape '
        f'{x.shape}'
      )
      if x.shape.is_compatible_with(event_shape):
        message += ': the batch dimension is missing; batch the data set'
      raise ValueError(f'{message}.')
    return tf.cast(x, tf.uint8) if x.dtype == tf.bool else x

  def _convert_condition(
    self, condition: Any, x: tf.Tensor
  ) -> tf.Tensor | None:
    """Returns `condition` as a tensor of the distribution's dtype."""
    if condition is None:
      return None
    condition = tf.cast(condition, self._distribution.dtype)
    if condition.shape[-1:] == [0]:
      return None
    if 'condition' not in composition.takes(self._distribution):
      raise ValueError(
        'No flow of `distribution` takes a condition, got `y` of shape '
        f'{condition.shape}: give `x` alone, or build the flow with '
        '`condition_size`.'
      )
    if not condition.shape.is_compatible_with([x.shape[0], None]):
      raise ValueError(
        '`y`, the condition, must have shape [N, K], a row for each event of '
        f'`x`, whose shape is {x.shape}; got shape {condition.shape}. Labels '
        'need one-hot encoding: tf.one_hot(labels, K).'
      )
    return condition

  def assert_on_range(self, x: tf.Tensor) -> tf.Tensor:
    """Returns `x`, after a check at run time that it holds pixels."""
    if self._num_levels is None:
      return x
    x = pixels.assert_on_range(x, self._num_levels)
    message = (
      f'`x` must be pixels on [0, {self._num_levels}), not scaled to [0, 1]'
    )
    is_scaled = pixels.is_scaled(x, self._num_levels)
    return util.assert_all(~is_scaled, x, message)

  def is_on_range(self, x: tf.Tensor) -> tf.Tensor | bool:
    """Returns which events `[N]` hold pixels: none if they were scaled."""
    if self._num_levels is None:
      return True
    on_range = pixels.is_on_range(x, self._num_levels)
    on_range = tf.reduce_all(on_range, axis=list(range(1, x.shape.rank)))
    return on_range & ~pixels.is_scaled(x, self._num_levels)

  def log_prob(
    self,
    x: tf.Tensor,
    condition: tf.Tensor | None,
    seed: tf.Tensor,
    training: bool = False,
    weight: tf.Tensor | None = None,
  ) -> tf.Tensor:
    """Returns the log-likelihood `[N]` of what `unpack` returned, in nats.

    Args:
      x: `[N] + event_shape`.
      condition: `[N, K]` or `None`.
      seed: Stateless seed of the dequantization noise.
      training: Passed to the flows.
      weight: `[N]` or `None`, weights of the events in batch statistics.
    """
    distribution = self._distribution
    kwargs = log_prob_kwargs(
      distribution, training=training, condition=condition
    )
    noise = 0.0
    if self._num_levels is not None:
      noise = _noise(x, seed, distribution.dtype)
    with moving_statistics.weighted(weight):
      return distribution.log_prob(self.dequantize(x, noise), **kwargs)

  def dequantize(self, x: tf.Tensor, noise: tf.Tensor | float) -> tf.Tensor:
    """Returns what the distribution is a density of.

    Args:
      x: `[N] + event_shape`.
      noise: On `[0, 1)`, broadcast to `x`: added to pixels, and not used for
        continuous data.

    Returns:
      `Tensor` like `x`, of the distribution's dtype.
    """
    dtype = self._distribution.dtype
    if self._num_levels is None:
      return tf.cast(x, dtype)
    noise = tf.convert_to_tensor(noise, dtype)
    return pixels.dequantize(x, noise, self._num_levels)


def split_batch(data: Any) -> tuple[Any, Any, Any]:
  """Returns `(x, condition, sample_weight)`, with `None` for what is missing.

  Args:
    data: `x`, `(x, condition)` or `(x, condition, sample_weight)`, which may be
      the only element of another tuple: Keras's `predict` makes one.
  """
  x, condition, weight = keras.utils.unpack_x_y_sample_weight(data)
  if isinstance(x, (tuple, list)) and condition is None:
    return keras.utils.unpack_x_y_sample_weight(tuple(x))
  return x, condition, weight


def _noise(x: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  """Returns uniform noise like `x`: this replica's part of the batch's."""
  count, *event_shape = util.dims(x)
  start, total = moving_statistics.part_of_batch(count)
  noise = tf.random.stateless_uniform([total, *event_shape], seed, dtype=dtype)
  return noise[start : start + count]
