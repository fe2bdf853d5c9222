"""BatchNormBijector: batch normalization with its log-det."""

import math
import numbers

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.networks import moving_statistics

__all__ = ['BatchNormBijector']


class BatchNormBijector(flow_bijector.FlowBijector):
  """Normalizes every channel (section 3.7 and appendix E of the paper).

  - Forward:  `y = (x - mean) / sqrt(variance + epsilon)`    (eq. 17)
  - Inverse:  `x = y sqrt(variance + epsilon) + mean`
  - Forward log-det: `-1/2 sum_c log(variance_c + epsilon)`, of each vector of
    channels. An image `[H, W, C]` has `H W` of them: with `event_ndims=3` each
    channel counts `H W` times (eq. 18).

  Without `training` the statistics are the moving averages. With
  `forward(x, training=True)` they are those of `x` over all its dimensions but
  the last, the log-det uses the same ones with gradients through them, and the
  moving averages move once. With `lagged=True` the statistics are, in training
  too, the moving averages, after they have moved (eq. 20, 21): the gradient
  goes through the batch's part in them.
  """

  _takes = frozenset(['training'])

  def __init__(
    self,
    num_channels,
    epsilon=1e-4,
    momentum=None,
    lagged=False,
    synchronized=None,
    statistics=None,
    validate_args=False,
    dtype=tf.float32,
    name='batch_norm_bijector',
  ):
    """Initializes BatchNormBijector.

    Args:
      num_channels: `int`, size `C` of the last dimension.
      epsilon: Positive `float`, added to the variance.
      momentum: `float` in [0, 1), the weight `rho` of the past in the moving
        averages; by default 0.9.
      lagged: Python `bool`, whether training normalizes with the moving
        averages instead of the statistics of the batch.
      synchronized: Python `bool`, whether the statistics in training are those
        of the batch of all replicas of a `tf.distribute.Strategy` together, in
        the log-det too; by default `False`.
      statistics: `MovingStatistics` to share, as a copy does; new ones by
        default, which start at mean 0 and variance 1. Theirs are then
        `num_channels`, `momentum`, `synchronized` and `dtype`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `num_channels`, `epsilon` or `momentum` is out of range, or
        an argument is not that of `statistics`.
    """
    parameters = dict(locals())
    if statistics is not None:
      for argument, value, shared in (
        ('num_channels', num_channels, statistics.mean.shape[-1]),
        ('momentum', momentum, statistics.momentum),
        ('synchronized', synchronized, statistics.synchronized),
        ('dtype', tf.as_dtype(dtype), statistics.mean.dtype),
      ):
        if value is not None and value != shared:
          raise ValueError(
            f'`{argument}` must be that of `statistics`, which a copy shares: '
            f'{shared!r}; got {value!r}.'
          )
    if not isinstance(epsilon, numbers.Real) or not 0 < epsilon < math.inf:
      raise ValueError(f'`epsilon` must be positive, got {epsilon!r}.')
    with tf.name_scope(name) as name:
      self._num_channels = num_channels
      self._epsilon = epsilon
      self._lagged = lagged
      self._statistics = statistics or moving_statistics.MovingStatistics(
        num_channels,
        0.9 if momentum is None else momentum,
        dtype,
        synchronized=bool(synchronized),
      )
      parameters['statistics'] = self._statistics  # A copy shares them.
      super().__init__(
        forward_min_event_ndims=1,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def statistics(self):
    """The `MovingStatistics`."""
    return self._statistics

  @property
  def epsilon(self):
    """What is added to the variance."""
    return self._epsilon

  @property
  def lagged(self):
    """Whether training normalizes with the moving averages."""
    return self._lagged

  def _forward_and_log_det(self, x, training=False, condition=None):
    del condition
    x = self._ensure_channels(x)
    mean, variance = self._statistics.mean, self._statistics.variance
    if training:
      mean, variance = moving_statistics.batch_moments(
        x, self._statistics.synchronized
      )
      moved = self._statistics.update(mean, variance)
      mean, variance = moved if self._lagged else (mean, variance)
    log_stddev = tf.math.log(variance + self._epsilon) / 2
    y = (x - mean) * tf.exp(-log_stddev)
    return y, self._log_det(x, -log_stddev)

  def _inverse_and_log_det(self, y, training=False, condition=None):
    del training, condition
    y = self._ensure_channels(y)
    log_stddev = tf.math.log(self._statistics.variance + self._epsilon) / 2
    x = y * tf.exp(log_stddev) + self._statistics.mean
    return x, self._log_det(y, log_stddev)

  def _log_det(self, x, log_scale):
    return tf.fill(util.dims(x)[:-1], tf.reduce_sum(log_scale))

  def _shape_after(self, shape, direction):
    if shape[-1] not in (None, self._num_channels):
      raise ValueError(
        f'{self.name}: the last dimension must be `num_channels` = '
        f'{self._num_channels}, got shape {shape}.'
      )
    return shape

  def _ensure_channels(self, x):
    """Returns `x`, whose number of channels may be known at run time only."""
    if x.shape[-1] is None:  # One channel would be broadcast.
      x = tf.ensure_shape(x, x.shape[:-1].concatenate(self._num_channels))
    return x
