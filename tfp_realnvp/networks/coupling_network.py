"""CouplingNetwork: the base class of the networks of the couplings."""

from collections.abc import Callable
import contextvars
import dataclasses
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util

__all__ = ['CouplingNetwork', 'NetworkSpec', 'split_seed']


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSpec:
  """Describes the network of one coupling.

  `RealNVPChain` calls its `networks` argument with a `NetworkSpec` for each
  coupling. The network that it returns is called with

  - `x`, `[N, H, W, in_channels]` or `[N, in_channels]`;
  - `condition=`, `[N, condition_size]`, if the flow has a condition;
  - `training=`, if the network has such an argument.

  For an affine coupling it returns the shift and the log-scale, `out_channels`
  each, as a pair or concatenated along the last dimension. For a spline
  coupling it returns `out_channels * params_per_channel` channels, see
  `SplineCoupling`.

  Attributes:
    in_channels: Number of channels of the input; 0 if the network sees the
      condition only.
    out_channels: Number of channels that the coupling changes.
    params_per_channel: Number of parameters for each of these channels: 2 for
      an affine coupling, `3 num_bins - 1` for a spline coupling.
    level: Number of times the channels were doubled before this coupling; 0 for
      vectors. The paper doubles the hidden channels at each level.
    mask: For a checkerboard coupling, the function from the event shape to the
      mask. `None` for other couplings.
    condition_size: Size `K` of the condition, or `None`.
    dtype: Dtype of input and output.
    index: Index of the coupling in the flow. Use it to give each network a
      different seed.
    name: Name of the network.
  """

  in_channels: int
  out_channels: int
  params_per_channel: int = 2
  level: int = 0
  mask: Callable | None = None
  condition_size: int | None = None
  dtype: tf.DType = tf.float32
  index: int = 0
  name: str = 'network'


def split_seed(seed: Any, spec: NetworkSpec, n: int) -> tf.Tensor:
  """Returns `n` stateless seeds that are different for each coupling.

  Args:
    seed: `int` or stateless seed that the networks of a flow share, or `None`
      for a random seed.
    spec: Description of the network.
    n: Number of seeds.

  Returns:
    `[n, 2]`.
  """
  seed = tf.random.fold_in(util.stateless_seed(seed), spec.index)
  return tfp.random.split_seed(seed, n=n)


class CouplingNetwork(tf.Module):
  """Base class that handles condition, dtypes and recomputation."""

  def __init__(
    self,
    spec: NetworkSpec,
    recompute: bool = False,
    compute_dtype: tf.DType | None = None,
  ):
    """Initializes CouplingNetwork.

    Args:
      spec: Description of the network.
      recompute: Whether training recomputes the activations in the backward
        pass instead of storing them (Chen et al., 2016).
      compute_dtype: Dtype of the activations, such as `tf.bfloat16`. Defaults
        to `spec.dtype`, which input, output and variables always have.

    Raises:
      ValueError: If a size in `spec` is out of range, or `compute_dtype` is not
        floating.
    """
    super().__init__(name=spec.name)
    fewest = 1 if spec.condition_size is None else 0
    util.check_int(spec.in_channels, 'in_channels', fewest)
    util.check_int(spec.out_channels, 'out_channels')
    util.check_int(spec.condition_size, 'condition_size', optional=True)
    dtype = spec.dtype if compute_dtype is None else compute_dtype
    if not tf.as_dtype(dtype).is_floating:
      raise ValueError(f'`compute_dtype` must be floating, got {dtype!r}.')
    self._condition_size = spec.condition_size
    self._recompute = recompute
    self._dtype = tf.as_dtype(spec.dtype)
    self._compute_dtype = tf.as_dtype(dtype)

  @property
  def condition_size(self) -> int | None:
    """Size of the condition, or `None` if the network has no condition."""
    return self._condition_size

  def _inputs(
    self, x: tf.Tensor, condition: tf.Tensor | None
  ) -> list[tf.Tensor]:
    """Returns `[x]` or `[x, condition]` in the dtype of the activations."""
    size = self._condition_size
    if (condition is None) != (size is None) or (
      condition is not None and condition.shape[-1] != size
    ):
      got = None if condition is None else f'shape {condition.shape}'
      expected = None if size is None else f'[..., {size}]'
      advice = f' Labels need one-hot encoding: tf.one_hot(labels, {size}).'
      raise ValueError(
        f'`condition` must be {expected} because `condition_size` is {size}, '
        f'got {got}.{advice if got and size else ""}'
      )
    inputs = [x] if condition is None else [x, condition]
    return [tf.cast(value, self._compute_dtype) for value in inputs]

  def _maybe_recomputed(
    self, function: Callable, training: bool = True
  ) -> Callable:
    """Wraps `function` in `tf.recompute_grad` if activations are recomputed.

    `function` must not change variables, because the backward pass calls it a
    second time, with the same context variables.
    """
    if not self._recompute or not training:
      return function
    context = contextvars.copy_context()
    return tf.recompute_grad(lambda *args: context.run(function, *args))
