"""The networks of the couplings: residual for images, dense for vectors."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import flow_bijector
from tfp_realnvp import moving_statistics

__all__ = ['DenseNetwork', 'ResidualNetwork', 'stateless_seed']

_EPSILON = 1e-4  # Of batch normalization.

# The magnitudes of weight normalization at the start. Networks that start small
# learn faster: on CIFAR-10 images, held-out bits/dim after 100 steps were 4.71,
# with magnitudes of 1 4.85.
_INNER_MAGNITUDE = 0.5
_OUTPUT_MAGNITUDE = 0.3


class _Convolution(tf.Module):
  """Weight-normalized convolution (Salimans and Kingma, 2016), stride 1.

  The kernel is divided by its norm over all but the output axis. A learned
  magnitude per output channel (given its initial value), and a bias, are there
  on request: batch normalization that follows would undo both.
  """

  def __init__(
    self,
    in_channels,
    out_channels,
    kernel_size,
    dtype,
    seed,
    magnitude=None,
    bias=False,
    name='convolution',
  ):
    super().__init__(name=name)
    shape = [kernel_size, kernel_size, in_channels, out_channels]
    with self.name_scope:
      self.kernel = tf.Variable(
        tf.random.stateless_normal(shape, seed, stddev=0.05, dtype=dtype),
        name='kernel',
      )
      self.magnitude = self.bias = None
      if magnitude is not None:
        self.magnitude = tf.Variable(
          tf.fill([out_channels], tf.cast(magnitude, dtype)), name='magnitude'
        )
      if bias:
        self.bias = tf.Variable(tf.zeros([out_channels], dtype), name='bias')

  def __call__(self, x):
    kernel = tf.math.l2_normalize(self.kernel, axis=[0, 1, 2])
    if self.magnitude is not None:
      kernel *= self.magnitude
    y = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), strides=1, padding='SAME')
    if self.bias is not None:
      y += tf.cast(self.bias, x.dtype)
    return y


class _BatchNorm(tf.Module):
  """Batch normalization with an offset and no scale, over batch and space."""

  def __init__(
    self, num_channels, momentum, lagged, dtype=tf.float32, name='batch_norm'
  ):
    super().__init__(name=name)
    self.lagged = lagged
    with self.name_scope:
      self.offset = tf.Variable(tf.zeros([num_channels], dtype), name='offset')
      self.statistics = moving_statistics.MovingStatistics(
        num_channels, momentum, dtype
      )

  def __call__(self, x, training):
    if not training:
      mean, variance = self.statistics.mean, self.statistics.variance
      return self._normalize(x, mean, variance)
    if self.lagged or x.dtype == tf.float64:  # The fused kernel has neither.
      wide = tf.cast(x, self.offset.dtype)
      mean, variance = tf.nn.moments(wide, [0, 1, 2])
      moved = self.statistics.update(mean, variance)
      return self._normalize(x, *(moved if self.lagged else (mean, variance)))
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
      x, tf.ones_like(self.offset), self.offset, epsilon=_EPSILON
    )
    # The kernel gives n / (n - 1) times the variance of the batch.
    n = tf.cast(tf.size(x) // x.shape[-1], variance.dtype)
    self.statistics.update(mean, variance * tf.maximum(n - 1, 1) / n)
    return y

  def _normalize(self, x, mean, variance):
    scale = tf.math.rsqrt(variance + _EPSILON)
    shift = self.offset - mean * scale
    return x * tf.cast(scale, x.dtype) + tf.cast(shift, x.dtype)


class _ResidualBlock(tf.Module):
  """Batch norm, ReLU, 3x3, batch norm, ReLU, 3x3, add."""

  def __init__(self, channels, norm, convolution, name='residual_block'):
    super().__init__(name=name)
    with self.name_scope:
      self.norms = [norm(channels, name=f'batch_norm_{i}') for i in range(2)]
      self.convolutions = [
        convolution(channels, channels, 3, name='convolution_0'),
        convolution(
          channels,
          channels,
          3,
          magnitude=_INNER_MAGNITUDE,
          name='convolution_1',
        ),
      ]

  def __call__(self, x, training):
    y = x
    for norm, convolution in zip(self.norms, self.convolutions):
      y = convolution(tf.nn.relu(norm(y, training)))
    return x + y


class ResidualNetwork(tf.Module):
  """Residual convolutional network with a skip sum, for image couplings.

  From `[N, H, W, in_channels]` to shift and log-scale, `[N, H, W,
  out_channels]` each, as section 4.1 of the paper has it:

  - batch norm of the input, `[x, -x]`, ReLU, 3x3 convolution to the hidden
    channels;
  - `num_blocks` residual blocks of two 3x3 convolutions;
  - the sum of 1x1 convolutions of the first features and of every block's
    output; batch norm, ReLU, 1x1 convolution to shift and `raw`;
  - `log_scale = magnitude tanh(raw)`, with one learned scalar magnitude.

  Convolutions are weight-normalized; batch norms have an offset and no scale.
  """

  def __init__(
    self,
    in_channels,
    out_channels,
    hidden_channels=32,
    num_blocks=4,
    mask=None,
    condition_size=None,
    initial_magnitude=1.0,
    momentum=0.9,
    lagged=False,
    compute_dtype=None,
    dtype=tf.float32,
    seed=None,
    name='residual_network',
  ):
    """Initializes ResidualNetwork.

    Args:
      in_channels: `int`, channels of the input.
      out_channels: `int`, channels of shift and of log-scale.
      hidden_channels: `int`, channels within.
      num_blocks: `int`, residual blocks.
      mask: Function from `(H, W, in_channels)` to a boolean `[H, W, 1]`, given
        to the network as one more channel; `checkerboard_mask`, of the parity
        of the coupling.
      condition_size: `int`, size `K` of the `condition` that joins the input;
        `None` for a network without one.
      initial_magnitude: `float`, the magnitude of the log-scale at the start.
      momentum: `float`, momentum of the moving statistics of batch norm.
      lagged: Python `bool`, whether batch norm is that of appendix E, see
        `BatchNormBijector`.
      compute_dtype: Dtype of the activations, such as `tf.bfloat16`; by default
        `dtype`. Input, output, variables and batch statistics have `dtype`.
      dtype: Dtype of the variables.
      seed: `int` or stateless seed, of the initial kernels.
      name: Name of the module.

    Raises:
      ValueError: If a number is out of range.
    """
    super().__init__(name=name)
    _check_sizes(
      in_channels=in_channels,
      out_channels=out_channels,
      hidden_channels=hidden_channels,
      num_blocks=num_blocks,
    )
    self._mask = mask
    self._condition_size = condition_size
    self._dtype = tf.as_dtype(dtype)
    self._compute_dtype = tf.as_dtype(compute_dtype or dtype)

    seeds = iter(
      tfp.random.split_seed(stateless_seed(seed), n=3 * num_blocks + 3)
    )

    def convolution(*args, **kwargs):
      return _Convolution(*args, dtype, next(seeds), **kwargs)

    def norm(channels, name):
      return _BatchNorm(channels, momentum, lagged, dtype, name)

    joined = 2 * (in_channels + (condition_size or 0)) + (mask is not None)
    hidden = hidden_channels
    with self.name_scope:
      self.input_norm = norm(in_channels, name='input_batch_norm')
      self.input_convolution = convolution(
        joined, hidden, 3, name='input_convolution'
      )
      self.blocks = [
        _ResidualBlock(hidden, norm, convolution, name=f'block_{i}')
        for i in range(num_blocks)
      ]
      self.skips = [
        convolution(
          hidden, hidden, 1, magnitude=_INNER_MAGNITUDE, name=f'skip_{i}'
        )
        for i in range(num_blocks + 1)
      ]
      self.output_norm = norm(hidden, name='output_batch_norm')
      self.output_convolution = convolution(
        hidden,
        2 * out_channels,
        1,
        magnitude=_OUTPUT_MAGNITUDE,
        bias=True,
        name='output_convolution',
      )
      self.magnitude = tf.Variable(
        tf.cast(initial_magnitude, dtype), name='log_scale_magnitude'
      )

  def __call__(self, x, condition=None, training=False):
    """Returns shift and log-scale.

    Args:
      x: `[N, H, W, in_channels]`.
      condition: `[N, condition_size]`.
      training: Python `bool`, whether batch norm uses batch statistics.
    """
    x = self.input_norm(tf.cast(x, self._compute_dtype), training)
    x = self._join(x, condition)
    x = self.input_convolution(tf.nn.relu(x))
    skip_sum = self.skips[0](x)
    for block, skip in zip(self.blocks, self.skips[1:]):
      x = block(x, training)
      skip_sum += skip(x)
    y = tf.nn.relu(self.output_norm(skip_sum, training))
    y = tf.cast(self.output_convolution(y), self._dtype)
    shift, raw = tf.split(y, 2, axis=-1)
    return shift, self.magnitude * tf.tanh(raw)

  def _join(self, x, condition):
    """Puts the input, its negative, condition and mask on the channel axis."""
    count, height, width, channels = flow_bijector.dims(x)
    condition = _check_condition(condition, self._condition_size, x.dtype)
    if condition is not None:
      plane = condition[:, tf.newaxis, tf.newaxis, :]
      shape = [count, height, width, self._condition_size]
      x = tf.concat([x, tf.broadcast_to(plane, shape)], axis=-1)
    parts = [x, -x]
    if self._mask is not None:
      mask = tf.cast(self._mask((height, width, channels)), x.dtype)
      parts.append(tf.broadcast_to(mask, [count, height, width, 1]))
    return tf.concat(parts, axis=-1)


class DenseNetwork(tf.Module):
  """Fully connected network with ReLUs, for couplings of vectors.

  From `[N, in_size]` to shift and log-scale, `[N, out_size]` each, with
  `log_scale = magnitude tanh(raw)` as in `ResidualNetwork`.
  """

  def __init__(
    self,
    in_size,
    out_size,
    hidden_size=32,
    num_layers=4,
    condition_size=None,
    initial_magnitude=1.0,
    compute_dtype=None,
    dtype=tf.float32,
    seed=None,
    name='dense_network',
  ):
    """Initializes DenseNetwork.

    Args:
      in_size: `int`, size of the input.
      out_size: `int`, size of shift and of log-scale.
      hidden_size: `int`, units of a hidden layer.
      num_layers: `int`, hidden layers.
      condition_size: `int`, size `K` of the `condition` that joins the input;
        `None` for a network without one.
      initial_magnitude: `float`, the magnitude of the log-scale at the start.
      compute_dtype: Dtype of the activations; by default `dtype`.
      dtype: Dtype of input, output and variables.
      seed: `int` or stateless seed, of the initial weights.
      name: Name of the module.

    Raises:
      ValueError: If a number is out of range.
    """
    super().__init__(name=name)
    _check_sizes(
      in_size=in_size,
      out_size=out_size,
      hidden_size=hidden_size,
      num_layers=num_layers,
    )
    self._condition_size = condition_size
    self._dtype = tf.as_dtype(dtype)
    self._compute_dtype = tf.as_dtype(compute_dtype or dtype)
    sizes = [in_size + (condition_size or 0)] + [hidden_size] * num_layers
    sizes.append(2 * out_size)
    seeds = tfp.random.split_seed(stateless_seed(seed), n=num_layers + 1)
    with self.name_scope:
      self.kernels = [
        tf.Variable(
          tf.random.stateless_normal(
            [fan_in, fan_out],
            layer_seed,
            stddev=(2 / fan_in) ** 0.5,  # He et al., 2015.
            dtype=dtype,
          ),
          name=f'kernel_{i}',
        )
        for i, (fan_in, fan_out, layer_seed) in enumerate(
          zip(sizes, sizes[1:], seeds)
        )
      ]
      self.biases = [
        tf.Variable(tf.zeros([size], dtype), name=f'bias_{i}')
        for i, size in enumerate(sizes[1:])
      ]
      self.magnitude = tf.Variable(
        tf.cast(initial_magnitude, dtype), name='log_scale_magnitude'
      )

  def __call__(self, x, condition=None):
    """Returns shift and log-scale.

    Args:
      x: `[N, in_size]`.
      condition: `[N, condition_size]`.
    """
    x = tf.cast(x, self._compute_dtype)
    condition = _check_condition(condition, self._condition_size, x.dtype)
    if condition is not None:
      x = tf.concat([x, condition], axis=-1)
    for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
      x = tf.nn.relu(x) if i else x
      x = tf.matmul(x, tf.cast(kernel, x.dtype)) + tf.cast(bias, x.dtype)
    shift, raw = tf.split(tf.cast(x, self._dtype), 2, axis=-1)
    return shift, self.magnitude * tf.tanh(raw)


def stateless_seed(seed):
  """Returns a stateless seed; the same `int` always gives the same one.

  (For an `int`, TFP's own `sanitize_seed` gives another one at every call.)
  """
  return tfp.random.sanitize_seed([0, seed] if isinstance(seed, int) else seed)


def _check_sizes(**sizes):
  for name, size in sizes.items():
    if not isinstance(size, int) or size < 1:
      raise ValueError(f'`{name}` must be an int of at least 1, got {size!r}.')


def _check_condition(condition, size, dtype):
  """Returns the condition in `dtype`, `None` where the network takes none."""
  if (condition is None) != (size is None) or (
    condition is not None and condition.shape[-1] != size
  ):
    got = None if condition is None else f'shape {condition.shape}'
    expected = None if size is None else f'[..., {size}]'
    raise ValueError(
      f'`condition` must be {expected}, as `condition_size` says; got {got}.'
    )
  return None if condition is None else tf.cast(condition, dtype)
