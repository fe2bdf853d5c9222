"""Moving averages of batch statistics, for all batch normalization."""

import tensorflow as tf

__all__ = ['MovingStatistics', 'blend']


class MovingStatistics(tf.Module):
  """Exponential moving averages of a mean and a variance per channel.

  With the momentum `rho` and the batch's statistics `batch`, the `t`-th update
  is eq. 20 and 21 of the paper,

    `moving <- (1 - rate_t) moving + rate_t batch`,
    `rate_t = (1 - rho) / (1 - rho^t)`,

  where the rate falls from 1 to `1 - rho`: the average is that of the batches
  seen, without a trace of the initial mean 0 and variance 1 (the bias
  correction of Adam, Kingma and Ba, 2015).
  """

  def __init__(
    self,
    num_channels,
    momentum=0.9,
    dtype=tf.float32,
    num_layers=None,
    name='moving_statistics',
  ):
    """Initializes MovingStatistics.

    Args:
      num_channels: `int`, `C`.
      momentum: `float` in [0, 1), `rho`.
      dtype: Dtype of the averages.
      num_layers: `int`, for the averages of a stack of layers, `[num_layers,
        C]`, that move together; `None` for those of one, `[C]`.
      name: Name of the module.

    Raises:
      ValueError: If `num_channels` or `momentum` is out of range.
    """
    if not isinstance(num_channels, int) or num_channels < 1:
      raise ValueError(
        f'`num_channels` must be an int of at least 1, got {num_channels!r}.'
      )
    if not 0 <= momentum < 1:
      raise ValueError(f'`momentum` must be in [0, 1), got {momentum!r}.')
    super().__init__(name=name)
    self.momentum = momentum
    shape = [num_channels] if num_layers is None else [num_layers, num_channels]
    with self.name_scope:
      variable = lambda value, name: tf.Variable(
        value,
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.MEAN,
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
      The averages after the update; gradients go to `mean` and `variance`
      alone.
    """
    moving_mean, moving_variance, rate = self.read()
    moved_mean = blend(moving_mean, mean, rate)
    moved_variance = blend(moving_variance, variance, rate)
    self.mean.assign(moved_mean)
    self.variance.assign(moved_variance)
    self.num_updates.assign_add(1)
    return moved_mean, moved_variance


def blend(moving, batch, rate):
  """A moving average after a step at `rate` towards the batch (eq. 20, 21)."""
  return (1 - rate) * moving + rate * batch
