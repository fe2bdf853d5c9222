"""Moving averages of batch statistics, for all batch normalization."""

import tensorflow as tf

__all__ = ['MovingStatistics']


class MovingStatistics(tf.Module):
  """Exponential moving averages of a mean and a variance per channel.

  With the momentum `rho` and the batch's statistics `batch`, the `t`-th update
  is eq. 20 and 21 of the paper,

    `moving <- rho_t moving + (1 - rho_t) batch`,
    `rho_t = rho (1 - rho^(t-1)) / (1 - rho^t)`,

  where `rho_t` rises from 0 to `rho`: the average is that of the batches seen,
  without a trace of the initial mean 0 and variance 1 (the bias correction of
  Adam, Kingma and Ba, 2015).
  """

  def __init__(
    self, num_channels, momentum=0.9, dtype=tf.float32, name='moving_statistics'
  ):
    """Initializes MovingStatistics.

    Args:
      num_channels: `int`, `C`.
      momentum: `float` in [0, 1), `rho`.
      dtype: Dtype of the averages.
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
    with self.name_scope:
      variable = lambda value, name: tf.Variable(
        value,
        trainable=False,
        name=name,
        aggregation=tf.VariableAggregation.MEAN,
      )
      self.mean = variable(tf.zeros([num_channels], dtype), 'moving_mean')
      self.variance = variable(
        tf.ones([num_channels], dtype), 'moving_variance'
      )
      self.num_updates = variable(tf.zeros([], dtype), 'num_updates')

  def update(self, mean, variance):
    """Moves the averages, once.

    Args:
      mean: `[C]`, of the batch.
      variance: `[C]`, of the batch.

    Returns:
      The averages after the update, two `[C]`; gradients go to `mean` and
      `variance` alone.
    """
    momentum = tf.constant(self.momentum, mean.dtype)
    decay = tf.pow(momentum, self.num_updates)
    momentum *= (1 - decay) / (1 - momentum * decay)
    moved_mean = momentum * self.mean + (1 - momentum) * mean
    moved_variance = momentum * self.variance + (1 - momentum) * variance
    self.mean.assign(moved_mean)
    self.variance.assign(moved_variance)
    self.num_updates.assign_add(1)
    return moved_mean, moved_variance
