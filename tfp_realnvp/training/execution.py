"""How `fit` runs steps where nobody says: how many at a time, with XLA or not.

A step on vectors takes a few milliseconds, and starting it takes as long.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import coupling
from tfp_realnvp.networks import dense

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'has_static_shapes',
  'is_faster_with_xla',
  'steps_of_arrays',
  'steps_per_execution',
]

_MOST_STEPS = 32
_BATCH_HOOKS = (
  'on_train_batch_begin',
  'on_train_batch_end',
  'on_test_batch_begin',
  'on_test_batch_end',
  # Older names of those in training, which they call.
  'on_batch_begin',
  'on_batch_end',
)


def is_faster_with_xla(distribution: tfd.Distribution) -> bool:
  """Returns whether training steps of a distribution are faster with XLA.

  They are for affine couplings of vectors with `DenseNetwork`, compilation
  included. Splines take too long to compile, and others' code may not compile.

  Args:
    distribution: `tfd.Distribution` of vectors.
  """
  has_couplings = False
  for module in distribution.submodules:
    if isinstance(module, coupling.Coupling):
      has_couplings = True
      if not isinstance(
        module, affine_coupling.AffineCoupling
      ) or not isinstance(module.network, dense.DenseNetwork):
        return False
    package = type(module).__module__.split('.')[0]
    if package not in ('tensorflow_probability', 'tfp_realnvp'):
      return False
  return has_couplings


def has_static_shapes(x: Any) -> bool:
  """Returns whether the batches of `x` have few shapes, known in advance.

  XLA compiles a step anew for each shape.

  Args:
    x: That of `fit`: an array, or a `tf.data.Dataset` of batches.
  """
  if isinstance(x, tf.data.Dataset):
    specs = tf.nest.flatten(x.element_spec)
    return all(
      isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()
      for spec in specs
    )
  return hasattr(x, 'shape')


def steps_per_execution(callbacks: Any, *limits: int | None) -> int:
  """Returns how many steps `fit` may run at a time.

  Args:
    callbacks: Those of `fit`. Where one looks at single batches, steps run one
      at a time.
    *limits: Numbers of steps to stop after, which the result divides.
  """
  callbacks = [] if callbacks is None else callbacks
  if not isinstance(callbacks, Sequence):
    callbacks = [callbacks]
  if any(_looks_at_batches(callback) for callback in callbacks):
    return 1
  return max(
    count
    for count in range(1, _MOST_STEPS + 1)
    if all(limit % count == 0 for limit in limits if limit is not None)
  )


def steps_of_arrays(given: Mapping[str, Any]) -> int | None:
  """Returns how many steps an epoch of `fit` has, if an array says so.

  Told so, Keras makes one iterator for an epoch of training. Otherwise it makes
  a second one that it never uses, which takes as long as some steps.

  Args:
    given: Arguments of `fit` by name.
  """
  x = given.get('x')
  if not hasattr(x, 'shape') or given.get('validation_split'):
    return None
  return math.ceil(len(x) / (given.get('batch_size') or 32))


def _looks_at_batches(callback: Any) -> bool:
  if not isinstance(callback, keras.callbacks.Callback):
    return True  # Such as a `keras.callbacks.CallbackList`.
  return any(
    getattr(getattr(callback, name), '__func__', None)
    is not getattr(keras.callbacks.Callback, name)
    for name in _BATCH_HOOKS
  )
