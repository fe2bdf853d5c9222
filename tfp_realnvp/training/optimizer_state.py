"""The variables of Keras optimizers, by the names of what they hold."""

import keras
import tensorflow as tf

__all__ = [
  'averages_weights',
  'class_name',
  'learning_rates',
  'slots',
  'values',
]


def _inner(
  optimizer: keras.optimizers.Optimizer,
) -> list[keras.optimizers.Optimizer]:
  """Returns the optimizers that one wraps."""
  inner = getattr(optimizer, 'inner_optimizer', None)
  return list(getattr(optimizer, 'optimizers', [inner] if inner else []))


def _parts(
  optimizer: keras.optimizers.Optimizer,
) -> list[keras.optimizers.Optimizer]:
  """Returns an optimizer and those within it."""
  parts = [optimizer]
  for inner in _inner(optimizer):
    parts += _parts(inner)
  return parts


def class_name(optimizer: keras.optimizers.Optimizer) -> str:
  """Returns the name of its class, such as 'LossScaleOptimizer(Adam)'."""
  inner = ', '.join(map(class_name, _inner(optimizer)))
  return type(optimizer).__name__ + (f'({inner})' if inner else '')


def averages_weights(optimizer: keras.optimizers.Optimizer) -> bool:
  """Returns whether it sets weights to averages at the end of `fit`."""
  return any(part.use_ema for part in _parts(optimizer))


def learning_rates(
  optimizer: keras.optimizers.Optimizer,
) -> list[keras.Variable]:
  """Returns the variables of learning rates: none where it is a schedule."""
  rates = [getattr(part, 'learning_rate', None) for part in _parts(optimizer)]
  rates = {id(r): r for r in rates if isinstance(r, keras.Variable)}
  return list(rates.values())


def values(rates: list[keras.Variable]) -> list[float]:
  """Returns the values of learning rates."""
  return [float(rate.numpy()) for rate in rates]


def slots(
  optimizer: keras.optimizers.Optimizer,
) -> dict[str, list[tf.Variable]]:
  """Returns the other variables, by the attribute that holds them.

  Args:
    optimizer: Keras optimizer, built.

  Returns:
    Dict of lists, such as `{'iterations': ..., 'momentums': ...}`.
  """
  names = {id(rate): None for rate in learning_rates(optimizer)}
  for part in _parts(optimizer):
    for name, value in vars(part).items():
      # Others list the same variables once more.
      if not name.startswith(('_variables', '_trainable_variables', '_self_')):
        for variable in tf.nest.flatten(value):
          names.setdefault(id(variable), name.strip('_'))
  slots = {}
  for variable in optimizer.variables:
    name = names.get(id(variable), 'other')
    if name is not None:
      slots.setdefault(name, []).append(variable.value)
  return slots
