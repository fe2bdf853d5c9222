"""Batch statistics and their moving averages, for all batch normalization."""

import dataclasses
import numbers

import tensorflow as tf

from tfp_realnvp import util

__all__ = [
  'BatchNormOptions',
  'MovingStatistics',
  'batch_moments',
  'blend',
  'check_batch_norm',
  'in_sync',
  'part_of_batch',
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormOptions:
  """How batch normalization works, in a flow or in its networks.

  Attributes:
    momentum: In [0, 1), the weight `rho` of the past in the moving averages.
    lagged: Whether training normalizes with the moving averages instead of the
      statistics of the batch (appendix E of the paper). In networks it slows
      learning at first.
    synchronized: Whether batch statistics are those of all replicas of a
      `tf.distribute.Strategy` together.
  """

  momentum: float = 0.9
  lagged: bool = False
  synchronized: bool = False

  def __post_init__(self):
    _check_momentum(self.momentum)

  def statistics(
    self,
    num_channels: int,
    dtype: tf.DType,
    num_layers: int | None = None,
    name: str = 'moving_statistics',
  ) -> 'MovingStatistics':
    """Returns new `MovingStatistics`; see there."""
    return MovingStatistics(
      num_channels,
      self.momentum,
      dtype,
      num_layers=num_layers,
      synchronized=self.synchronized,
      name=name,
    )


def check_batch_norm(value: BatchNormOptions | None) -> None:
  """Raises unless `value` is `BatchNormOptions` or `None`."""
  if not isinstance(value, (BatchNormOptions, type(None))):
    raise TypeError(
      f'`batch_norm` must be BatchNormOptions or None, got {value!r}.'
    )


class MovingStatistics(tf.Module):
  """Exponential moving averages of a mean and a variance per channel.

  With the momentum `rho` and the batch's statistics `batch`, the `t`-th update
  is eq. 20 and 21 of the paper,

    `moving <- (1 - rate_t) moving + rate_t batch`,
    `rate_t = (1 - rho) / (1 - rho^t)`,

  where the rate falls from 1 to `1 - rho`: the average is that of the batches
  seen, without a trace of the initial mean 0 and variance 1 (the bias
  correction of Adam, Kingma and Ba, 2015).

  A channel whose batch statistics are not finite is left as it is; so are all
  by a replica that got no part of an uneven batch.
  """

  def __init__(
    self,
    num_channels,
    momentum=0.9,
    dtype=tf.float32,
    num_layers=None,
    synchronized=False,
    name='moving_statistics',
  ):
    """Initializes MovingStatistics.

    Args:
      num_channels: `int`, `C`.
      momentum: `float` in [0, 1), `rho`.
      dtype: Dtype of the averages.
      num_layers: `int`, for the averages of a stack of layers, `[num_layers,
        C]`, that move together; `None` for those of one, `[C]`.
      synchronized: Python `bool`, whether the batch of all replicas of a
        `tf.distribute.Strategy` counts as one. Otherwise each replica
        normalizes its own part, and the averages are of all replicas' averages.
      name: Name of the module.

    Raises:
      ValueError: If `num_channels` or `momentum` is out of range.
    """
    num_channels = util.check_int(num_channels, 'num_channels')
    _check_momentum(momentum)
    super().__init__(name=name)
    self.momentum = momentum
    self.synchronized = synchronized
    # Synchronized replicas move alike: no need for them to confer.
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

  def read(self):
    """Returns mean, variance, and the rate at which the next batch counts."""
    momentum = tf.constant(self.momentum, self.mean.dtype)
    rate = (1 - momentum) / (1 - tf.pow(momentum, self.num_updates + 1))
    return tf.identity(self.mean), tf.identity(self.variance), rate

  def update(self, mean, variance):
    """Moves the averages, once.

    Args:
      mean: Of the batch, of the averages' shape.
      variance: Of the batch, of the averages' shape.

    Returns:
      The averages after the update, with gradients to `mean` and `variance`
      alone.
    """
    moving_mean, moving_variance, rate = self.read()
    moved_mean = blend(moving_mean, mean, rate)
    moved_variance = blend(moving_variance, variance, rate)
    self.mean.assign(moved_mean)
    self.variance.assign(moved_variance)
    self.num_updates.assign_add(1)
    return moved_mean, moved_variance


def _check_momentum(momentum):
  if not isinstance(momentum, numbers.Real) or not 0 <= momentum < 1:
    raise ValueError(f'`momentum` must be in [0, 1), got {momentum!r}.')


def blend(moving, batch, rate):
  """A moving average after a step at `rate` towards the batch (eq. 20, 21)."""
  batch = tf.where(tf.math.is_finite(batch), batch, moving)
  return (1 - rate) * moving + rate * batch


def in_sync(synchronized):
  """Whether statistics are now to be those of several replicas together."""
  replica = tf.distribute.get_replica_context()
  return bool(synchronized and replica and replica.num_replicas_in_sync > 1)


def batch_moments(x, synchronized=False):
  """Mean and variance of each channel, over a whole batch.

  Args:
    x: `[..., C]`.
    synchronized: Python `bool`, whether the batch is that of all replicas,
      whose parts may differ in size.

  Returns:
    mean: `[C]`; where synchronized, with gradients to all replicas.
    variance: `[C]`, without Bessel's correction.
  """
  mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
  if not in_sync(synchronized):
    return mean, variance
  count = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
  own = tf.stack([tf.fill(mean.shape, count), mean, variance])
  own = tf.where(count > 0, own, 0)
  counts, means, variances = tf.unstack(_gather(own), axis=1)
  shares = counts / tf.reduce_sum(counts, axis=0)
  mean = tf.reduce_sum(shares * means, axis=0)
  squares = variances + (means - mean) ** 2
  return mean, tf.reduce_sum(shares * squares, axis=0)


def part_of_batch(count):
  """Where this replica's part of a batch lies in the batch of all replicas.

  Args:
    count: `int` or scalar, rows of the part. Replicas may differ in it.

  Returns:
    start: Index of the first row.
    total: Rows of the whole batch.
  """
  if not in_sync(True):
    return 0, count
  replica = tf.distribute.get_replica_context()
  index = replica.replica_id_in_sync_group
  if isinstance(replica.strategy, tf.distribute.TPUStrategy):
    # Parts are equal, and shapes must be static.
    return index * count, replica.num_replicas_in_sync * count
  counts = _gather(tf.convert_to_tensor(count))
  return tf.reduce_sum(counts[:index]), tf.reduce_sum(counts)


def _gather(value):
  """Stacks the values of all replicas, with gradients to all of them."""
  replica = tf.distribute.get_replica_context()
  row = tf.one_hot(
    replica.replica_id_in_sync_group,
    replica.num_replicas_in_sync,
    dtype=value.dtype,
  )
  # The other replicas leave these rows zero, so that the sum is a stack.
  rows = tf.tensordot(row, value, axes=0)
  return replica.all_reduce(tf.distribute.ReduceOp.SUM, rows)
