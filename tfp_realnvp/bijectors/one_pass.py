"""Value and log-det from one pass, by way of TFP's private cache.

TFP's bijectors keep the results of `forward` and `inverse` for as long as they
are alive. A pass that computes a value puts its log-det beside it, so that
`log_prob` runs every network once. Read against TFP 0.25. Nothing else in the
library touches the cache.
"""

import abc
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = ['CHAIN', 'INVERT', 'OnePassBijector', 'snapshot']

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


def snapshot(condition: Any) -> tf.Tensor | np.ndarray:
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


class OnePassBijector(tfb.Bijector, metaclass=abc.ABCMeta):
  """Derives TFP's methods from two that give value and log-det together."""

  # Whether `forward` is latent -> data. It is not for a component.
  _is_generative = False

  @abc.abstractmethod
  def _forward_and_log_det(self, x, training=False, condition=None):
    """Returns `(forward(x), forward_log_det_jacobian(x))`."""

  @abc.abstractmethod
  def _inverse_and_log_det(self, y, training=False, condition=None):
    """Returns `(inverse(y), inverse_log_det_jacobian(y))`."""

  @abc.abstractmethod
  def _checked(self, value, direction, **kwargs):
    """Returns the input of a public method, and its keyword arguments.

    Args:
      value: What the user passed.
      direction: 'forward' or 'inverse'.
      **kwargs: `training`, `condition`.

    Returns:
      value: `Tensor`.
      kwargs: A dict, equal for calls that mean the same: the cache is keyed by
        it.
    """

  def _get_parameterization(self):
    # TFP lets bijectors of equal parameters share a cache; two flows built from
    # the same arguments hold different variables.
    return id(self)

  @classmethod
  def _parameter_properties(cls, dtype):
    return {}

  # TFP's public methods call these first, then its cache.

  def _call_forward(self, x, name, **kwargs):
    x, kwargs = self._checked(x, 'forward', **kwargs)
    if kwargs.get('training') and not self._is_generative:
      self._forget('forward', x)
    return super()._call_forward(x, name, **kwargs)

  def _call_inverse(self, y, name, **kwargs):
    y, kwargs = self._checked(y, 'inverse', **kwargs)
    if kwargs.get('training') and self._is_generative:
      self._forget('inverse', y)
    return super()._call_inverse(y, name, **kwargs)

  def _call_forward_log_det_jacobian(self, x, event_ndims, name, **kwargs):
    x, kwargs = self._checked(x, 'forward', **kwargs)
    return super()._call_forward_log_det_jacobian(
      x, event_ndims, name, **kwargs
    )

  def _call_inverse_log_det_jacobian(self, y, event_ndims, name, **kwargs):
    y, kwargs = self._checked(y, 'inverse', **kwargs)
    return super()._call_inverse_log_det_jacobian(
      y, event_ndims, name, **kwargs
    )

  # The cache calls these, where it has no result.

  def _forward(self, x, **kwargs):
    self._check_direction('forward', kwargs)
    y, fldj = self._forward_and_log_det(x, **kwargs)
    self._cache.forward_attributes(x, **kwargs)['ildj'] = -fldj
    return y

  def _inverse(self, y, **kwargs):
    self._check_direction('inverse', kwargs)
    x, ildj = self._inverse_and_log_det(y, **kwargs)
    self._cache.inverse_attributes(y, **kwargs)['ildj'] = ildj
    return x

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._check_direction('forward', kwargs)
    return self._forward_and_log_det(x, **kwargs)[1]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._check_direction('inverse', kwargs)
    return self._inverse_and_log_det(y, **kwargs)[1]

  def _check_direction(self, direction, kwargs):
    # Not before: with the cached result of a pass in training, TFP asks for the
    # log-det in the other direction.
    is_generation = self._is_generative == (direction == 'forward')
    if kwargs.get('training') and is_generation:
      raise ValueError(
        f'`{self.name}.{direction}` is the latent -> data direction, which has '
        'no batch statistics of its own: `training` must be False, got True.'
      )

  def _forget(self, direction, value):
    """Drops what the cache holds for the input `value`; replicas share it."""
    for key in self._cache.weak_keys(direction=direction):
      if key() is value:
        key.cancel()
        del self._cache.storage[key]
