"""What the library knows about the private cache of TFP's bijectors.

TFP keeps the results of `forward` and `inverse` for as long as they are alive.
A pass that computes a value puts its log-det beside it, so that `log_prob` runs
every network once. Read against TFP 0.25; nothing else in the library touches
the cache.
"""

import weakref

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = ['CHAIN', 'INVERT', 'forget', 'keep_log_det', 'snapshot']

# With parts that are not composite tensors, such as flows, `tfb.Chain` and
# `tfb.Invert` make instances of these private classes.
CHAIN = tfb.Chain.__bases__[0]
INVERT = tfb.Invert.__bases__[0]

_cache = vars(tfb.Bijector).get('_cache')
for _name in ('storage', 'forward_attributes', 'inverse_attributes'):
  if not hasattr(_cache, _name):
    raise ImportError(
      f'TensorFlow Probability {tfp.__version__} has no '
      f'`Bijector._cache.{_name}`, which tfp_realnvp needs; use version 0.25.'
    )


class _Storage(type(_cache.storage)):
  """Keeps nothing of a composition that must be computed at every call.

  A hit in the cache of a `tfb.Chain` would not reach the flow within: batch
  normalization would not move, or a condition that changed would go unnoticed.
  The flow's own entries stay, so that its log-det needs no second pass.
  """

  def setdefault(self, key, default=None):
    if _is_cacheable(key):
      return super().setdefault(key, default)
    key.cancel()
    return default

  def __setitem__(self, key, value):
    if _is_cacheable(key):
      super().__setitem__(key, value)
    else:
      key.cancel()


def _is_cacheable(key):
  *_, kwargs = key.subkey
  return not any(map(_is_volatile, kwargs.values()))


def _is_volatile(value):
  """Whether `value` holds arguments of a part that forbid caching."""
  if not isinstance(value, dict):
    return False
  condition = value.get('condition')
  return (
    value.get('training') is True
    or not (condition is None or isinstance(condition, tf.Tensor))
    or any(map(_is_volatile, value.values()))
  )


# All bijectors of the process share this storage.
_cache.storage = _Storage()

_snapshots = weakref.WeakValueDictionary()


def snapshot(condition):
  """Returns `condition` as something that never changes, to key the cache by.

  Arrays and numbers of equal value give the same object for as long as it is
  alive. A `tf.Variable` gives a new tensor at every call.
  """
  if isinstance(condition, tf.Tensor):
    return condition
  leaves = tf.nest.flatten(condition)
  if any(
    tf.is_tensor(leaf) or hasattr(leaf, '__tf_tensor__') for leaf in leaves
  ):
    return tf.convert_to_tensor(condition)
  array = np.array(condition)
  array.flags.writeable = False
  key = array.dtype.str, array.shape, array.tobytes()
  return _snapshots.setdefault(key, array)


def keep_log_det(bijector, direction, value, ildj, kwargs):
  """Puts the log-det of a pass into the cache, beside its result.

  Args:
    bijector: `tfb.Bijector`.
    direction: 'forward' or 'inverse'.
    value: The input of the pass.
    ildj: The inverse log-det of the pass.
    kwargs: The keyword arguments of the pass.
  """
  attributes = getattr(bijector._cache, f'{direction}_attributes')
  attributes(value, **kwargs)['ildj'] = ildj


def forget(bijector, direction, value):
  """Drops what the cache holds for the input `value`; replicas share it."""
  for key in bijector._cache.weak_keys(direction=direction):
    if key() is value:
      key.cancel()
      del bijector._cache.storage[key]
