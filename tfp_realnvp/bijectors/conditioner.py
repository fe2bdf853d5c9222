"""Conditioner: calls the network of a coupling."""

import collections.abc
from collections.abc import Callable
from collections.abc import Sequence
import inspect
import math
from typing import Any

import tensorflow as tf

from tfp_realnvp import util

__all__ = ['Conditioner', 'broadcast_condition']


class Conditioner(tf.Module):
  """Calls a network on the part of the event that a coupling keeps.

  Merges the batch dimensions, passes `training` and `condition` if the network
  has such arguments, and checks the output. The variables of the network, also
  of a Keras network, are variables of this module.
  """

  def __init__(
    self,
    network: Callable,
    argument: str = 'shift_and_log_scale_fn',
    num_outputs: int = 2,
    name: str = 'conditioner',
  ):
    """Initializes Conditioner.

    Args:
      network: See `AffineCoupling`.
      argument: What the coupling calls the network, for errors.
      num_outputs: Number of tensors that the network computes.
      name: Name of the module.

    Raises:
      TypeError: If `network` is not callable.
    """
    super().__init__(name=name)
    if not callable(network):
      raise TypeError(f'`{argument}` must be callable, got {network!r}.')
    self._network = network
    self._argument = argument
    self._num_outputs = num_outputs
    self._takes = _arguments(network)
    self._keras_variables = _KerasVariables(network)
    # The values of `training` that the network has been called with.
    self._called_with = set()

  @property
  def network(self) -> Callable:
    """The network."""
    return self._network

  @property
  def argument(self) -> str:
    """What the coupling calls the network."""
    return self._argument

  @property
  def takes(self) -> frozenset[str]:
    """Which of the arguments 'training' and 'condition' the network has."""
    return self._takes

  def __call__(
    self,
    kept: tf.Tensor,
    event_ndims: int,
    training: bool = False,
    condition: Any = None,
  ) -> list[tf.Tensor]:
    """Returns the tensors that the network computes.

    Args:
      kept: Input of the network, `batch_shape + event_shape`.
      event_ndims: Rank of an event.
      training: Passed to the network.
      condition: `[..., K]`, passed to the network as `[N, K]`.

    Returns:
      List of tensors of the shape of `kept`, except for the last dimension.

    Raises:
      ValueError: If the network returns something else, or uses variables that
        `tf.Module` cannot find.
    """
    shape = util.dims(kept)
    batch, event = shape[:-event_ndims], shape[-event_ndims:]
    # `tf.reshape` cannot infer -1 if the event has no elements.
    count = math.prod(batch)
    kwargs = {'training': training} if 'training' in self.takes else {}
    if condition is not None:
      condition = broadcast_condition(condition, kept, event_ndims)
      size = condition.shape[-1]
      kwargs['condition'] = tf.reshape(condition, [count, size])
    output = self._call(tf.reshape(kept, [count] + event), training, kwargs)
    count = self._num_outputs
    if (
      tf.is_tensor(output)
      and output.shape.rank
      and output.shape[-1] % count == 0
    ):
      output = tf.split(output, count, axis=-1) if count > 1 else [output]
    if not isinstance(output, (tuple, list)) or len(output) != count:
      expected = 'one tensor'
      if count == 2:
        expected = 'shift and log-scale, or both in one tensor'
      raise ValueError(
        f'`{self._argument}` must return {expected}; got '
        f'{getattr(output, "shape", output)!r}.'
      )
    return [
      tf.reshape(value, batch + event[:-1] + [value.shape[-1]])
      for value in output
    ]

  def _call(self, x: tf.Tensor, training: bool, kwargs: dict[str, Any]) -> Any:
    """Calls the network. The first call checks that its variables are found."""
    if training in self._called_with:
      return self._network(x, **kwargs)
    with tf.GradientTape() as tape:
      output = self._network(x, **kwargs)
    own = {id(c) for v in self.variables for c in _components(v)}
    hidden = [
      v
      for v in tape.watched_variables()
      if not own.intersection(map(id, _components(v)))
    ]
    if hidden:
      raise ValueError(
        f'The variables {[v.name for v in hidden]} of the network '
        f'{self._network!r} cannot be found, so they would not be trained or '
        'saved. Use the Keras layer or model that owns them as the network, or '
        'a `tf.Module` with the variables as attributes.'
      )
    self._called_with.add(training)
    return output


def broadcast_condition(
  condition: Any, x: tf.Tensor, event_ndims: int
) -> tf.Tensor:
  """Broadcasts a condition to the batch shape of `x`.

  Args:
    condition: `[..., K]`.
    x: `batch_shape + event_shape`.
    event_ndims: Rank of an event.

  Returns:
    Tensor `batch_shape + [K]` of the dtype of `x`.

  Raises:
    TypeError: If `condition` has another dtype.
    ValueError: If its leading dimensions do not broadcast to the batch shape.
  """
  condition = util.to_tensor(condition, x.dtype, 'condition')
  shape, batch_shape = condition.shape, x.shape[:-event_ndims]
  leading = list(shape)[:-1] if shape.rank else None
  if leading == list(batch_shape) and None not in leading:
    return condition
  if (
    leading is None
    or len(leading) > batch_shape.rank
    or any(
      None not in (size, batch) and size not in (1, batch)
      for size, batch in zip(reversed(leading), reversed(list(batch_shape)))
    )
  ):
    raise ValueError(
      '`condition` must have shape [..., K] with leading dimensions that '
      f'broadcast against the batch shape {batch_shape}, got {shape}.'
    )
  batch = util.dims(x)[:-event_ndims]
  return tf.broadcast_to(condition, batch + [shape[-1]])


def _arguments(network: Any) -> frozenset[str]:
  """Returns which of the arguments 'training' and 'condition' a network has."""
  # Those of a Keras layer or model are the arguments of its `call`.
  function = getattr(network, 'call', network)
  try:
    parameters = inspect.signature(function).parameters
  except (TypeError, ValueError):  # Some builtins have no signature.
    return frozenset()
  arguments = frozenset(['training', 'condition'])
  if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
    arguments &= frozenset(parameters)
  if getattr(network, 'condition_size', 0) is None:
    arguments -= {'condition'}
  return arguments


class _KerasVariables(collections.abc.Sequence):
  """The current variables of a Keras network.

  `tf.Module` finds them here, because Keras 3 layers are not `tf.Module`s.
  """

  def __init__(self, network: Any):
    self._network = network

  def __len__(self) -> int:
    return len(self._variables())

  def __getitem__(self, index: Any) -> Any:
    return self._variables()[index]

  def _variables(self) -> Sequence[tf.Variable]:
    if isinstance(self._network, tf.Module):
      return []
    return [_synced(v) for v in getattr(self._network, 'variables', ())]


def _synced(variable: Any) -> tf.Variable:
  """Returns the `tf.Variable` of a Keras variable, with its `trainable`."""
  value = getattr(variable, 'value', variable)
  if value.trainable != variable.trainable:
    for component in _components(value):
      component._trainable = variable.trainable
  return value


def _components(variable: tf.Variable) -> Sequence[tf.Variable]:
  """Returns the variables of all replicas of a `tf.Variable`."""
  return getattr(variable, 'values', [variable])
