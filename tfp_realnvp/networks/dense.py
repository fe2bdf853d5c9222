"""DenseNetwork, the network of vector couplings, and its factory."""

from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.networks import coupling_network

__all__ = ['DenseNetwork', 'DenseNetworks']


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
    seed: `int` or stateless seed of the initial weights, or `None` for random
      ones.
  """

  hidden_units: tuple[int, ...] = (64, 64)
  activation: str | Callable = 'relu'
  recompute: bool = False
  compute_dtype: tf.DType | str | None = None
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

  def __call__(self, spec: coupling_network.NetworkSpec) -> 'DenseNetwork':
    return DenseNetwork(spec, self)


class DenseNetwork(coupling_network.CouplingNetwork):
  """Fully connected network for couplings of vectors.

  Maps `[N, in_channels]` to the shift and the log-scale, `[N, out_channels]`
  each. The log-scale is `magnitude tanh(raw)` as in `ResidualNetwork`.
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
    sizes = [spec.in_channels + (spec.condition_size or 0)]
    sizes += [*options.hidden_units, 2 * spec.out_channels]
    seeds = coupling_network.split_seed(options.seed, spec, n=len(sizes) - 1)
    with self.name_scope:
      self.kernels = [
        tf.Variable(
          tf.random.stateless_normal(
            [fan_in, fan_out],
            layer_seed,
            stddev=(2 / fan_in) ** 0.5,  # He et al., 2015.
            dtype=self._dtype,
          ),
          name=f'kernel_{i}',
        )
        for i, (fan_in, fan_out, layer_seed) in enumerate(
          zip(sizes, sizes[1:], seeds)
        )
      ]
      self.biases = [
        tf.Variable(tf.zeros([size], self._dtype), name=f'bias_{i}')
        for i, size in enumerate(sizes[1:])
      ]

  def __call__(
    self, x: tf.Tensor, condition: tf.Tensor | None = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the shift and the log-scale, `[N, out_channels]` each.

    Args:
      x: `[N, in_channels]`.
      condition: `[N, condition_size]`.
    """
    x = tf.concat(self._inputs(x, condition), axis=-1)
    return self._shift_and_log_scale(self._maybe_recomputed(self._pass)(x))

  def _pass(self, x: tf.Tensor) -> tf.Tensor:
    for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
      x = self._activation(x) if i else x
      x = tf.matmul(x, tf.cast(kernel, x.dtype)) + tf.cast(bias, x.dtype)
    return x


def _activation(activation: str | Callable) -> Callable:
  if activation == 'relu':
    # oneDNN fuses `tf.nn.relu` with the sum before it and turns NaN into 0.
    return lambda x: tf.maximum(x, 0)
  return activation if callable(activation) else getattr(tf.nn, activation)
