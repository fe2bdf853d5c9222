"""Weight-normalized convolution and batch normalization."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.networks import moving_statistics

__all__ = ['Norm', 'batch_norm', 'convolve', 'normalized']

_EPSILON = 1e-4  # Added to the variance.
_TINY = 1e-12  # Keeps the direction of a kernel of zeros finite.


def normalized(
  kernel: tf.Tensor, magnitude: tf.Tensor | None = None
) -> tf.Tensor:
  """Normalizes the weights of a kernel (Salimans and Kingma, 2016).

  Args:
    kernel: `[..., k, k, I, O]`.
    magnitude: `[..., O]`, the norm of the result; 1 by default.

  Returns:
    The kernel divided by its norm over all but the leading and the output
    axes, times `magnitude`.
  """
  squares = tf.reduce_sum(kernel**2, axis=[-4, -3, -2], keepdims=True)
  scale = tf.math.rsqrt(squares + _TINY)
  if magnitude is not None:
    scale *= magnitude[..., tf.newaxis, tf.newaxis, tf.newaxis, :]
  return kernel * scale


def convolve(
  x: tf.Tensor, kernel: tf.Tensor, padding: str = 'zeros'
) -> tf.Tensor:
  """Convolves images; the result has their height and width.

  Args:
    x: `[N, H, W, I]`.
    kernel: `[k, k, I, O]`, `k` odd.
    padding: 'zeros' or 'periodic', what is beyond the edges of an image.

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
  # zero image and slice it off. Neither op copies where there are images.
  missing = tf.cast(tf.equal(count, 0), tf.int32)
  y = convolve(tf.pad(x, [[0, missing], [0, 0], [0, 0], [0, 0]]))
  return tf.slice(y, [0, 0, 0, 0], [count, *size, kernel.shape[-1]])


class Norm(NamedTuple):
  """What a batch normalization of `C` channels knows before its batch."""

  offset: tf.Tensor  # [C]
  mean: tf.Tensor  # [C], moving.
  variance: tf.Tensor  # [C], moving.
  rate: tf.Tensor  # Scalar, at which the moving ones move.


def batch_norm(
  x: tf.Tensor,
  norm: Norm,
  training: bool,
  lagged: bool = False,
  synchronized: bool = False,
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor] | None]:
  """Batch normalization over batch and space, with an offset and no scale.

  Args:
    x: `[N, H, W, C]`.
    norm: Offset and moving statistics.
    training: Whether to normalize with the batch's statistics.
    lagged: Whether to normalize, in training, with the moving statistics after
      they have moved.
    synchronized: Whether the batch is that of all replicas.

  Returns:
    y: Like `x`.
    batch: In training the batch's mean and variance, `[C]`, else `None`.
  """
  offset, mean, variance, rate = norm
  synchronized = moving_statistics.in_sync(synchronized)
  if offset.dtype != tf.float32 or (training and (lagged or synchronized)):
    # The fused kernel has none of these.
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
  # The kernel returns n / (n - 1) times the variance of the batch.
  n = math.prod(util.dims(x)[:-1])
  n = tf.cast(n, variance.dtype) if tf.is_tensor(n) else max(n, 1)
  return y, (mean, variance * (1 - 1 / n))
