"""DenseNetwork, the network of vector couplings, and its factory."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.networks import coupling_network

__all__ = ['DenseNetwork', 'DenseNetworks']

_LOG_SCALE_BOUND = 3.0
_NARROW = 8  # Columns of a kernel.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetworks:
  """Builds the fully connected networks of vector couplings.

  `RealNVPChain` uses `DenseNetworks()` for vectors unless `networks` is given.

  Attributes:
    hidden_units: Number of units of each hidden layer.
    activation: Activation of the hidden layers: a function, or the name of a
      function in `tf.nn`.
    recompute: Whether training recomputes the activations in the backward pass
      instead of storing them.
    compute_dtype: Dtype of the activations. Defaults to that of the flow.
    output_scale: Scale of the initial weights of the last layer, relative to
      those of the other layers. With 0, a new flow is the identity.
    seed: `int` or stateless seed of the initial weights, or `None` for random
      ones.
  """

  hidden_units: tuple[int, ...] = (64, 64)
  activation: str | Callable = 'relu'
  recompute: bool = False
  compute_dtype: tf.DType | str | None = None
  output_scale: float = 0.1
  seed: Any = None

  def __post_init__(self) -> None:
    if not isinstance(self.hidden_units, (tuple, list)):
      raise ValueError(
        f'`hidden_units` must be a tuple of ints, got {self.hidden_units!r}.'
      )
    for units in self.hidden_units:
      util.check_int(units, 'hidden_units')
    if not callable(self.activation) and not callable(
      getattr(tf.nn, str(self.activation), None)
    ):
      raise ValueError(
        '`activation` must be a function or the name of a function in `tf.nn`, '
        f'got {self.activation!r}.'
      )
    if not 0 <= self.output_scale < math.inf:
      raise ValueError(
        '`output_scale` must be finite and at least 0, '
        f'got {self.output_scale!r}.'
      )

  def __call__(self, spec: coupling_network.NetworkSpec) -> 'DenseNetwork':
    return DenseNetwork(spec, self)


class DenseNetwork(coupling_network.CouplingNetwork):
  """Fully connected network for couplings of vectors.

  For an affine coupling it maps `[N, in_channels]` to the shift and the
  log-scale, `[N, out_channels]` each. The log-scale is `raw / (1 + |raw| /
  bound)`, which is between -3 and 3. For other couplings it returns
  `[N, out_channels * params_per_channel]`.

  Kernels and biases are initialized to uniform values between `-1 / sqrt(I)`
  and `1 / sqrt(I)`, where `I` is the size of the input of the layer. Those of
  the last layer are scaled by `output_scale`, by default a tenth, so that a new
  flow is close to the identity.
  """

  def __init__(
    self, spec: coupling_network.NetworkSpec, options: DenseNetworks
  ):
    """Initializes DenseNetwork.

    Args:
      spec: Description of the network.
      options: Layers, activation, dtype and seed.

    Raises:
      ValueError: If an argument is out of range.
    """
    super().__init__(
      spec, recompute=options.recompute, compute_dtype=options.compute_dtype
    )
    self._activation = _activation(options.activation)
    self._is_affine = spec.params_per_channel == 2
    sizes = [spec.in_channels + (spec.condition_size or 0)]
    sizes += [
      *options.hidden_units,
      spec.params_per_channel * spec.out_channels,
    ]
    layer_sizes = list(zip(sizes, sizes[1:]))
    seeds = coupling_network.split_seed(options.seed, spec, n=2 * len(sizes))

    def uniform(layer: int, seed: tf.Tensor, *shape: int) -> tf.Tensor:
      limit = sizes[layer] ** -0.5
      if layer == len(layer_sizes) - 1:
        limit *= options.output_scale
      return tf.random.stateless_uniform(
        shape, seed, -limit, limit, dtype=self._dtype
      )

    with self.name_scope:
      self.kernels = [
        tf.Variable(uniform(i, seeds[2 * i], *shape), name=f'kernel_{i}')
        for i, shape in enumerate(layer_sizes)
      ]
      self.biases = [
        tf.Variable(uniform(i, seeds[2 * i + 1], size), name=f'bias_{i}')
        for i, (_, size) in enumerate(layer_sizes)
      ]

  def __call__(
    self, x: tf.Tensor, condition: tf.Tensor | None = None
  ) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """Returns what the coupling needs, see the class docstring.

    Args:
      x: `[N, in_channels]`.
      condition: `[N, condition_size]`.
    """
    x = tf.concat(self._inputs(x, condition), axis=-1)
    output = tf.cast(self._maybe_recomputed(self._pass)(x), self._dtype)
    if not self._is_affine:
      return output
    shift, raw = tf.split(output, 2, axis=-1)
    return shift, util.soft_bound(raw, _LOG_SCALE_BOUND)

  def _pass(self, x: tf.Tensor) -> tf.Tensor:
    for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
      x = self._activation(x) if i else x
      x = _product(x, tf.cast(kernel, x.dtype)) + tf.cast(bias, x.dtype)
    return x


def _product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Returns `x @ kernel`, as a product whose gradient is fast in XLA.

  For the gradient of `x @ kernel`, XLA on CPU transposes `x`, which takes ten
  times as long as the product itself if the kernel is narrow. With the columns
  of the kernel as rows, it transposes the gradient of the output instead. XLA
  would fold `tf.transpose` into the product; it does not fold `tf.stack`.
  """
  if kernel.shape[1] > _NARROW:
    return tf.matmul(x, kernel)
  columns = tf.stack(tf.unstack(kernel, axis=1))
  return tf.matmul(x, columns, transpose_b=True)


def _activation(activation: str | Callable) -> Callable:
  if activation == 'relu':
    # oneDNN fuses `tf.nn.relu` with the sum before it and turns NaN into 0.
    return lambda x: tf.maximum(x, 0)
  return activation if callable(activation) else getattr(tf.nn, activation)
