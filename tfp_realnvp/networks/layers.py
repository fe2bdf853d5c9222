"""Weight-normalized convolution and batch normalization."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.networks import moving_statistics

__all__ = ['Norm', 'batch_norm', 'convolve', 'normalized']

_EPSILON = 1e-4  # Added to variances.
_TINY = 1e-12  # Added to squared norms, so that a zero kernel stays finite.


def normalized(
  kernel: tf.Tensor, magnitude: tf.Tensor | None = None
) -> tf.Tensor:
  """Applies weight normalization to a kernel (Salimans and Kingma, 2016).

  Args:
    kernel: `[..., k, k, I, O]`.
    magnitude: Norms of the result, `[..., O]`. Defaults to 1.

  Returns:
    `magnitude * kernel / norm`, where the norm is over the axes `k, k, I`.
  """
  squares = tf.reduce_sum(kernel**2, axis=[-4, -3, -2], keepdims=True)
  scale = tf.math.rsqrt(squares + _TINY)
  if magnitude is not None:
    scale *= magnitude[..., tf.newaxis, tf.newaxis, tf.newaxis, :]
  return kernel * scale


def convolve(
  x: tf.Tensor, kernel: tf.Tensor, padding: str = 'zeros'
) -> tf.Tensor:
  """Convolves images and keeps their height and width.

  Args:
    x: `[N, H, W, I]`.
    kernel: `[k, k, I, O]` with odd `k`.
    padding: Values beyond the edges of an image: 'zeros' or 'periodic'.

  Returns:
    `[N, H, W, O]`.
  """
  count, *size, _ = util.dims(x)
  kernel = tf.cast(kernel, x.dtype)
  reach = kernel.shape[0] // 2
  if padding == 'periodic' and reach:
    x = tf.concat([x[:, -reach:], x, x[:, :reach]], axis=1)
    x = tf.concat([x[:, :, -reach:], x, x[:, :, :reach]], axis=2)
  mode = 'VALID' if padding == 'periodic' else 'SAME'
  convolve = lambda x: tf.nn.conv2d(x, kernel, strides=1, padding=mode)
  if isinstance(count, int) and count > 0:
    return convolve(x)
  # For an empty batch oneDNN returns the input's channel count, so convolve one
  # zero image and slice it off. Other batches are not copied by either op.
  missing = tf.cast(tf.equal(count, 0), tf.int32)
  y = convolve(tf.pad(x, [[0, missing], [0, 0], [0, 0], [0, 0]]))
  return tf.slice(y, [0, 0, 0, 0], [count, *size, kernel.shape[-1]])


class Norm(NamedTuple):
  """Offset and moving statistics of one batch normalization.

  Attributes:
    offset: `[C]`.
    mean: Moving mean, `[C]`.
    variance: Moving variance, `[C]`.
    rate: Scalar weight of the next batch in the moving statistics.
  """

  offset: tf.Tensor
  mean: tf.Tensor
  variance: tf.Tensor
  rate: tf.Tensor


def batch_norm(
  x: tf.Tensor,
  norm: Norm,
  training: bool,
  lagged: bool = False,
  synchronized: bool = False,
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor] | None]:
  """Normalizes over batch and space, then adds an offset. There is no scale.

  Batch statistics are weighted in the context of `moving_statistics.weighted`.

  Args:
    x: `[N, H, W, C]`.
    norm: Offset and moving statistics.
    training: Whether to use batch statistics instead of moving ones.
    lagged: Whether training uses the moving statistics after their update
      instead of batch statistics (eq. 20, 21).
    synchronized: Whether batch statistics are over all replicas.

  Returns:
    y: `[N, H, W, C]`.
    batch: Mean and variance of the batch, `[C]` each. `None` unless `training`.
  """
  offset, mean, variance, rate = norm
  synchronized = moving_statistics.in_sync(synchronized)
  weighted = moving_statistics.is_weighted()
  if offset.dtype != tf.float32 or (
    training and (lagged or synchronized or weighted)
  ):
    # The fused kernel supports none of these cases.
    batch = None
    if training:
      batch = moving_statistics.batch_moments(
        tf.cast(x, offset.dtype), synchronized
      )
      mean, variance = batch
      if lagged:
        mean = moving_statistics.blend(norm.mean, mean, rate)
        variance = moving_statistics.blend(norm.variance, variance, rate)
    scale = tf.math.rsqrt(variance + _EPSILON)
    shift = offset - mean * scale
    return x * tf.cast(scale, x.dtype) + tf.cast(shift, x.dtype), batch
  y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
    x,
    tf.ones_like(offset),
    offset,
    mean=None if training else mean,
    variance=None if training else variance,
    epsilon=_EPSILON,
    is_training=training,
  )
  if not training:
    return y, None
  # The kernel applies Bessel's correction, n / (n - 1).
  n = math.prod(util.dims(x)[:-1])
  n = tf.cast(n, variance.dtype) if tf.is_tensor(n) else max(n, 1)
  return y, (mean, variance * (1 - 1 / n))
