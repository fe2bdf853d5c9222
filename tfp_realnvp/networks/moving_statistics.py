"""Batch statistics and their moving averages."""

from collections.abc import Iterator
import contextlib
import contextvars
import dataclasses
import math
import numbers
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from tfp_realnvp import util

__all__ = [
  'BatchNormOptions',
  'MovingStatistics',
  'batch_moments',
  'blend',
  'check_batch_norm',
  'in_sync',
  'is_weighted',
  'part_of_batch',
  'weighted',
]


class _Weights(NamedTuple):
  """Weights of this replica's rows, their sum, and the sum of all replicas."""

  rows: tf.Tensor
  own: tf.Tensor
  total: tf.Tensor


# Replicas are threads, and each has its own value.
_WEIGHTS = contextvars.ContextVar('weights', default=None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormOptions:
  """Options of batch normalization, for a flow or for its networks.

  Attributes:
    momentum: Weight `rho` of the past in the moving averages, in [0, 1).
    lagged: Whether training normalizes with the moving averages instead of the
      batch statistics (appendix E of the paper). In networks this slows down
      the first steps.
    synchronized: Whether batch statistics are computed over all replicas of a
      `tf.distribute.Strategy`.
  """

  momentum: float = 0.9
  lagged: bool = False
  synchronized: bool = False

  def __post_init__(self) -> None:
    _check_momentum(self.momentum)

  def statistics(
    self,
    num_channels: int,
    dtype: tf.DType,
    num_layers: int | None = None,
    name: str = 'moving_statistics',
  ) -> 'MovingStatistics':
    """Returns new `MovingStatistics` with these options.

    Args:
      num_channels: See `MovingStatistics`.
      dtype: See `MovingStatistics`.
      num_layers: See `MovingStatistics`.
      name: Name of the module.
    """
    return MovingStatistics(
      num_channels,
      self.momentum,
      dtype,
      num_layers=num_layers,
      synchronized=self.synchronized,
      name=name,
    )


def check_batch_norm(value: BatchNormOptions | None) -> None:
  """Raises a `TypeError` unless `value` is `BatchNormOptions` or `None`."""
  if not isinstance(value, (BatchNormOptions, type(None))):
    raise TypeError(
      f'`batch_norm` must be BatchNormOptions or None, got {value!r}.'
    )


class MovingStatistics(tf.Module):
  """Exponential moving averages of a mean and a variance per channel.

  The `t`-th update with a batch's statistics `batch` and the momentum `rho` is
  (eq. 20 and 21 of the paper)

    `moving <- (1 - rate_t) moving + rate_t batch`,
    `rate_t = (1 - rho) / (1 - rho^t)`.

  The rate falls from 1 to `1 - rho`. This is the bias correction of Adam
  (Kingma and Ba, 2015): the initial mean 0 and variance 1 have no influence
  after the first update.

  An update skips channels whose batch statistics are not finite. A replica that
  received no rows of an uneven batch therefore changes nothing. Nor does a
  batch whose rows all have the weight 0, see `weighted`.
  """

  def __init__(
    self,
    num_channels: int,
    momentum: float = 0.9,
    dtype: tf.DType = tf.float32,
    num_layers: int | None = None,
    synchronized: bool = False,
    name: str = 'moving_statistics',
  ):
    """Initializes MovingStatistics.

    Args:
      num_channels: Number of channels `C`.
      momentum: Weight `rho` of the past, in [0, 1).
      dtype: Dtype of the averages.
      num_layers: Number of layers whose averages are stacked, `[num_layers,
        C]`, and updated together. `None` for a single layer, `[C]`.
      synchronized: Whether batch statistics are computed over all replicas of a
        `tf.distribute.Strategy`. Otherwise each replica uses its own rows, and
        the averages of the replicas are averaged.
      name: Name of the module.

    Raises:
      ValueError: If `num_channels` or `momentum` is out of range.
    """
    num_channels = util.check_int(num_channels, 'num_channels')
    _check_momentum(momentum)
    super().__init__(name=name)
    self.momentum = momentum
    self.synchronized = synchronized
    # Synchronized replicas compute the same update, so one of them is enough.
    aggregation = (
      tf.VariableAggregation.ONLY_FIRST_REPLICA
      if synchronized
      else tf.VariableAggregation.MEAN
    )
    shape = [num_channels] if num_layers is None else [num_layers, num_channels]
    with self.name_scope:
      variable = lambda value, name: tf.Variable(
        value, trainable=False, name=name, aggregation=aggregation
      )
      self.mean = variable(tf.zeros(shape, dtype), 'moving_mean')
      self.variance = variable(tf.ones(shape, dtype), 'moving_variance')
      self.num_updates = variable(tf.zeros([], dtype), 'num_updates')

  def read(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the mean, the variance and the rate of the next update."""
    momentum = tf.constant(self.momentum, self.mean.dtype)
    rate = (1 - momentum) / (1 - tf.pow(momentum, self.num_updates + 1))
    weights = _WEIGHTS.get()
    if weights is not None:
      weight = weights.total if in_sync(self.synchronized) else weights.own
      rate = tf.where(weight > 0, rate, 0)
    return tf.identity(self.mean), tf.identity(self.variance), rate

  def update(
    self,
    mean: tf.Tensor,
    variance: tf.Tensor,
    moving: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Updates the averages with the statistics of one batch.

    Args:
      mean: Mean of the batch, of the shape of the averages.
      variance: Variance of the batch, of the shape of the averages.
      moving: What `read` returned, if it was called for this batch. Graph
        optimizations can otherwise move that reading behind the update, if
        what was read passes through `tf.recompute_grad`.

    Returns:
      Moving mean and variance after the update. Gradients flow to `mean` and
      `variance` only.
    """
    moving_mean, moving_variance, rate = moving or self.read()
    moved_mean = blend(moving_mean, mean, rate)
    moved_variance = blend(moving_variance, variance, rate)
    self.mean.assign(moved_mean)
    self.variance.assign(moved_variance)
    # In a graph, it would also move when no batch is left to read.
    with tf.control_dependencies([moved_mean]):
      self.num_updates.assign_add(1)
    return moved_mean, moved_variance


def _check_momentum(momentum: Any) -> None:
  if not isinstance(momentum, numbers.Real) or not 0 <= momentum < 1:
    raise ValueError(f'`momentum` must be in [0, 1), got {momentum!r}.')


def blend(moving: tf.Tensor, batch: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
  """Returns a moving average after its update (eq. 20, 21).

  Args:
    moving: The average before.
    batch: Statistics of the batch. Where they are not finite, the average is
      unchanged.
    rate: Weight of the batch.
  """
  batch = tf.where(tf.math.is_finite(batch), batch, moving)
  return (1 - rate) * moving + rate * batch


def in_sync(synchronized: bool) -> bool:
  """Whether statistics must be gathered from other replicas here."""
  replica = tf.distribute.get_replica_context()
  return bool(synchronized and replica and replica.num_replicas_in_sync > 1)


@contextlib.contextmanager
def weighted(weight: tf.Tensor | None) -> Iterator[None]:
  """Returns a context manager in which batch statistics are weighted.

  A row of weight 2 counts as two rows. The weights are a context instead of an
  argument, because every bijector and network between a training step and its
  batch statistics would have to pass on the argument.

  Args:
    weight: `[N]`, the weights of the rows of this replica, at least 0. `None`
      for batch statistics without weights.
  """
  weights = None
  if weight is not None:
    own = total = tf.reduce_sum(weight)
    if in_sync(True):
      replica = tf.distribute.get_replica_context()
      total = replica.all_reduce(tf.distribute.ReduceOp.SUM, own)
    weights = _Weights(weight, own, total)
  token = _WEIGHTS.set(weights)
  try:
    yield
  finally:
    _WEIGHTS.reset(token)


def is_weighted() -> bool:
  """Whether batch statistics are weighted here, see `weighted`."""
  return _WEIGHTS.get() is not None


def batch_moments(
  x: tf.Tensor, synchronized: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the mean and the variance of each channel over a batch.

  They are weighted in the context of `weighted`.

  Args:
    x: `[..., C]`.
    synchronized: Whether the batch consists of the rows of all replicas.
      Replicas may have different numbers of rows.

  Returns:
    mean: `[C]`. If synchronized, gradients flow to all replicas.
    variance: `[C]`, without Bessel's correction.
  """
  weights = _WEIGHTS.get()
  if weights is None:
    mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
  else:
    mean, variance = _weighted_moments(x, weights.rows)
  if not in_sync(synchronized):
    return mean, variance
  count = tf.size(x) // x.shape[-1] if weights is None else weights.own
  count = tf.cast(count, x.dtype)
  own = tf.stack([tf.fill(mean.shape, count), mean, variance])
  own = tf.where(count > 0, own, 0)
  counts, means, variances = tf.unstack(_gather(own), axis=1)
  shares = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, axis=0))
  mean = tf.reduce_sum(shares * means, axis=0)
  squares = variances + (means - mean) ** 2
  return mean, tf.reduce_sum(shares * squares, axis=0)


def _weighted_moments(
  x: tf.Tensor, weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns the moments of `[N, ..., C]`, which are 0 if all weights are 0."""
  (count,) = util.dims(weight)
  *batch, channels = util.dims(x)
  # The first dimension may also be `N` times the sample shape of `tfd.Sample`.
  size = math.prod(batch) // tf.maximum(count, 1)
  x = tf.reshape(x, [count, size, channels])
  return tf.nn.weighted_moments(x, [0, 1], weight[:, tf.newaxis, tf.newaxis])


def part_of_batch(
  count: int | tf.Tensor,
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
  """Locates the rows of this replica in the batch of all replicas.

  Args:
    count: Number of rows of this replica. Replicas may have different numbers.

  Returns:
    start: Index of the first row of this replica.
    total: Number of rows of all replicas.
  """
  if not in_sync(True):
    return 0, count
  replica = tf.distribute.get_replica_context()
  index = replica.replica_id_in_sync_group
  if isinstance(replica.strategy, tf.distribute.TPUStrategy):
    # On TPUs all replicas have the same number of rows, and it must be static.
    return index * count, replica.num_replicas_in_sync * count
  counts = _gather(tf.convert_to_tensor(count))
  return tf.reduce_sum(counts[:index]), tf.reduce_sum(counts)


def _gather(value: tf.Tensor) -> tf.Tensor:
  """Stacks the values of all replicas, with gradients to all of them."""
  replica = tf.distribute.get_replica_context()
  row = tf.one_hot(
    replica.replica_id_in_sync_group,
    replica.num_replicas_in_sync,
    dtype=value.dtype,
  )
  # Each replica fills its own row, so that the sum over replicas is the stack.
  rows = tf.tensordot(row, value, axes=0)
  return replica.all_reduce(tf.distribute.ReduceOp.SUM, rows)
