"""What the networks of the couplings have in common."""

from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util

__all__ = ['CouplingNetwork', 'NetworkSpec', 'split_seed']


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
  """What `RealNVPChain` asks its `networks` for: the network of one coupling.

  The network is called with `x`, `[N, H, W, in_channels]` or `[N,
  in_channels]`; with `condition`, `[N, condition_size]`, if there is one; and
  with `training`, if it has such an argument. It returns shift and log-scale,
  each with `out_channels` channels, as a pair or as one tensor of twice as many
  channels.

  Attributes:
    in_channels: Channels of the input.
    out_channels: Channels of shift and of log-scale.
    level: How often channels were doubled so far. The paper doubles the hidden
      channels with every level. 0 for vectors.
    mask: For a checkerboard coupling the function from the event shape to its
      mask; `None` for others, whose input is all that the coupling keeps.
    condition_size: Size `K` of the condition, or `None`.
    dtype: Dtype of input and output.
    index: Number of the coupling, in the order in which they are built; with
      it, each network can get a seed of its own.
    name: Name of the network.
  """

  in_channels: int
  out_channels: int
  level: int = 0
  mask: Callable | None = None
  condition_size: int | None = None
  dtype: tf.DType = tf.float32
  index: int = 0
  name: str = 'network'


def split_seed(seed: Any, spec: NetworkSpec, n: int) -> tf.Tensor:
  """Returns `n` stateless seeds, `[n, 2]`, that other couplings do not share.

  Args:
    seed: `int` or stateless seed of all networks of a flow, or `None`.
    spec: What the network is for.
    n: How many seeds.
  """
  seed = tf.random.fold_in(util.stateless_seed(seed), spec.index)
  return tfp.random.split_seed(seed, n=n)


class CouplingNetwork(tf.Module):
  """Base of the networks: condition, precision, recomputation, log-scale.

  `log_scale = magnitude tanh(raw)`, with one learned scalar magnitude.
  """

  def __init__(
    self,
    spec: NetworkSpec,
    initial_magnitude: float = 1.0,
    recompute: bool = False,
    compute_dtype: tf.DType | None = None,
  ):
    """Initializes CouplingNetwork.

    Args:
      spec: What the network is for.
      initial_magnitude: The magnitude of the log-scale at the start.
      recompute: Whether the backward pass of training computes the activations
        again instead of keeping them (Chen et al., 2016).
      compute_dtype: Dtype of the activations, such as `tf.bfloat16`; by default
        `spec.dtype`. Input, output and variables have `spec.dtype`.

    Raises:
      ValueError: If a number is out of range, or a dtype not floating.
    """
    super().__init__(name=spec.name)
    util.check_int(spec.in_channels, 'in_channels')
    util.check_int(spec.out_channels, 'out_channels')
    util.check_int(spec.condition_size, 'condition_size', optional=True)
    dtype = spec.dtype if compute_dtype is None else compute_dtype
    if not tf.as_dtype(dtype).is_floating:
      raise ValueError(f'`compute_dtype` must be floating, got {dtype!r}.')
    self._condition_size = spec.condition_size
    self._recompute = recompute
    self._dtype = tf.as_dtype(spec.dtype)
    self._compute_dtype = tf.as_dtype(dtype)
    with self.name_scope:
      self.magnitude = tf.Variable(
        tf.cast(initial_magnitude, self._dtype), name='log_scale_magnitude'
      )

  @property
  def condition_size(self) -> int | None:
    """Size of the `condition`, `None` if the network takes none."""
    return self._condition_size

  @property
  def scale_parameters(self) -> tuple[tf.Variable, ...]:
    """The learned magnitudes: what `RealNVPChain.scale_parameters` lists."""
    return (self.magnitude,)

  def _inputs(self, x, condition):
    """Returns `[x]` or `[x, condition]`, in the dtype of the activations."""
    size = self._condition_size
    if (condition is None) != (size is None) or (
      condition is not None and condition.shape[-1] != size
    ):
      got = None if condition is None else f'shape {condition.shape}'
      expected = None if size is None else f'[..., {size}]'
      raise ValueError(
        f'`condition` must be {expected}, as `condition_size` says; got {got}.'
      )
    inputs = [x] if condition is None else [x, condition]
    return [tf.cast(value, self._compute_dtype) for value in inputs]

  def _maybe_recomputed(self, function, training=True):
    """Returns `function`, which must not change variables, to call once."""
    if self._recompute and training:
      return tf.recompute_grad(function)
    return function

  def _shift_and_log_scale(self, output):
    """Splits what the last layer gives."""
    shift, raw = tf.split(tf.cast(output, self._dtype), 2, axis=-1)
    return shift, self.magnitude * tf.tanh(raw)
