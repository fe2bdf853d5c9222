"""BatchNormBijector: batch normalization as a bijector."""

from collections.abc import Callable
from typing import Any
import warnings

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.networks import moving_statistics

__all__ = ['BatchNormBijector', 'warn_if_fitted']


class BatchNormBijector(flow_bijector.FlowBijector):
  """Normalizes each channel (section 3.7 and appendix E of the paper).

  - Forward:  `y = (x - mean) / sqrt(variance + epsilon)`    (eq. 17)
  - Inverse:  `x = y sqrt(variance + epsilon) + mean`
  - Forward log-det: `-1/2 sum_c log(variance_c + epsilon)` for each vector of
    channels. An image `[H, W, C]` has `H W` such vectors, so with
    `event_ndims=3` each channel counts `H W` times (eq. 18).

  Mean and variance are moving averages. `forward(x, training=True)` instead
  uses the statistics of `x` over all dimensions but the last. The log-det uses
  the same statistics, gradients flow through them, and the moving averages are
  updated once. With `lagged=True`, training uses the moving averages after
  their update (eq. 20, 21), and gradients flow through the batch statistics in
  them.
  """

  _takes = frozenset(['training'])

  def __init__(
    self,
    num_channels: int,
    epsilon: float = 1e-4,
    momentum: float | None = None,
    lagged: bool = False,
    synchronized: bool | None = None,
    statistics: moving_statistics.MovingStatistics | None = None,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'batch_norm_bijector',
  ):
    """Initializes BatchNormBijector.

    Args:
      num_channels: Size `C` of the last dimension.
      epsilon: Positive number added to the variance.
      momentum: Weight `rho` of the past in the moving averages, in [0, 1).
        Defaults to 0.9.
      lagged: Python `bool`, whether training normalizes with the moving
        averages instead of the batch statistics.
      synchronized: Python `bool`, whether batch statistics and log-det are
        computed over all replicas of a `tf.distribute.Strategy`. Defaults to
        `False`.
      statistics: `MovingStatistics` to share, as copies do. `num_channels`,
        `momentum`, `synchronized` and `dtype` must match them. By default
        new statistics with mean 0 and variance 1 are created.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `num_channels`, `epsilon` or `momentum` is out of range, or
        an argument does not match `statistics`.
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
            f'`{argument}` must be that of `statistics`, which copies share, '
            f'{shared!r}; got {value!r}.'
          )
    util.check_positive(epsilon, 'epsilon')
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
      parameters['statistics'] = self._statistics  # Shared with copies.
      super().__init__(
        forward_min_event_ndims=1,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def statistics(self) -> moving_statistics.MovingStatistics:
    """The moving averages."""
    return self._statistics

  @property
  def epsilon(self) -> float:
    """Number added to the variance."""
    return self._epsilon

  @property
  def lagged(self) -> bool:
    """Whether training normalizes with the moving averages."""
    return self._lagged

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
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

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    del training, condition
    y = self._ensure_channels(y)
    log_stddev = tf.math.log(self._statistics.variance + self._epsilon) / 2
    x = y * tf.exp(log_stddev) + self._statistics.mean
    return x, self._log_det(y, log_stddev)

  def _log_det(self, x: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    return tf.fill(util.dims(x)[:-1], tf.reduce_sum(log_scale))

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    del direction
    if shape[-1] not in (None, self._num_channels):
      raise ValueError(
        f'{self.name}: the last dimension must be `num_channels` = '
        f'{self._num_channels}, got shape {shape}.'
      )
    return shape

  def _ensure_channels(self, x: tf.Tensor) -> tf.Tensor:
    """Checks the number of channels at run time if it is not static."""
    if x.shape[-1] is None:  # A single channel would be broadcast.
      x = tf.ensure_shape(x, x.shape[:-1].concatenate(self._num_channels))
    return x


def warn_if_fitted(samples: tf.Tensor, flow: tf.Module) -> tf.Tensor:
  """Returns `samples`; a gradient through them warns if averages never moved.

  Args:
    samples: What the flow generated, by its moving averages.
    flow: The module that owns `MovingStatistics`.
  """

  @tf.custom_gradient
  def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    def gradient(upstream: tf.Tensor) -> tf.Tensor:
      modules = [
        m
        for m in flow.submodules
        if isinstance(m, moving_statistics.MovingStatistics)
      ]
      with tf.init_scope():
        if not any(module.num_updates.numpy() for module in modules):
          warnings.warn(
            f'{flow.name}: gradients of samples are computed, but the moving '
            'averages of batch normalization were never updated. Only the '
            'data -> latent direction with `training=True` updates them. To '
            'fit a flow by its samples, build it and its networks with '
            '`batch_norm=None`.',
            stacklevel=2,
          )
      return upstream

    return tf.identity(x), gradient

  return identity(samples)
