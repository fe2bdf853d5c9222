"""DenseNetwork: the network of vector couplings, and its factory."""

from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.networks import coupling_network

__all__ = ['DenseNetwork', 'DenseNetworks']


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseNetworks:
  """Makes the fully connected networks of vector couplings.

  The default of `RealNVPChain(networks=...)` for vectors.

  Attributes:
    hidden_units: Units of each hidden layer.
    activation: After each hidden layer: the name of a function of `tf.nn`, or a
      function.
    recompute: Whether training computes the activations again in the backward
      pass instead of keeping them.
    compute_dtype: Dtype of the activations, by default that of the flow.
    seed: `int` or stateless seed of the initial weights, by default random.
  """

  hidden_units: tuple[int, ...] = (64, 64)
  activation: str | Callable = 'relu'
  recompute: bool = False
  compute_dtype: tf.DType | str | None = None
  seed: Any = None

  def __post_init__(self):
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
        '`activation` must be a function or the name of one of `tf.nn`, got '
        f'{self.activation!r}.'
      )

  def __call__(self, spec: coupling_network.NetworkSpec) -> 'DenseNetwork':
    return DenseNetwork(spec, self)


class DenseNetwork(coupling_network.CouplingNetwork):
  """Fully connected network, for couplings of vectors.

  From `[N, in_channels]` to shift and log-scale, `[N, out_channels]` each, with
  `log_scale = magnitude tanh(raw)` as in `ResidualNetwork`.
  """

  def __init__(
    self, spec: coupling_network.NetworkSpec, options: DenseNetworks
  ):
    """Initializes DenseNetwork.

    Args:
      spec: What the network is for.
      options: How it is built.

    Raises:
      ValueError: If a number is out of range.
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
    """Returns shift and log-scale.

    Args:
      x: `[N, in_channels]`.
      condition: `[N, condition_size]`.
    """
    x = tf.concat(self._inputs(x, condition), axis=-1)
    return self._shift_and_log_scale(self._maybe_recomputed(self._pass)(x))

  def _pass(self, x):
    for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases)):
      x = self._activation(x) if i else x
      x = tf.matmul(x, tf.cast(kernel, x.dtype)) + tf.cast(bias, x.dtype)
    return x


def _activation(activation):
  if activation == 'relu':
    # Not tf.nn.relu: oneDNN fuses it with the sum and turns NaN into 0.
    return lambda x: tf.maximum(x, 0)
  return activation if callable(activation) else getattr(tf.nn, activation)
