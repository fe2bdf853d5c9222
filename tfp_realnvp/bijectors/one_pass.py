"""OnePassBijector: stores the log-det of each pass in TFP's private cache.

TFP's bijectors cache the results of `forward` and `inverse` for as long as the
results are alive. Storing the log-det with them lets `log_prob` run each
network once. This is the only module that uses the cache. It was written for
TFP 0.25.
"""

import abc
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = ['CHAIN', 'INVERT', 'OnePassBijector', 'snapshot']

# If their parts are not composite tensors, as flows are not, `tfb.Chain` and
# `tfb.Invert` create instances of these private classes.
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
  """Does not store the results of compositions that must not be cached.

  With a cached result, `tfb.Chain` does not call the flow inside: moving
  averages would not be updated, and a changed condition would be ignored. The
  entries of the flow itself are stored, for its log-det.
  """

  def setdefault(self, key: Any, default: Any = None) -> Any:
    if _is_cacheable(key):
      return super().setdefault(key, default)
    key.cancel()
    return default

  def __setitem__(self, key: Any, value: Any) -> None:
    if _is_cacheable(key):
      super().__setitem__(key, value)
    else:
      key.cancel()


def _is_cacheable(key: Any) -> bool:
  *_, kwargs = key.subkey
  return not any(map(_is_volatile, kwargs.values()))


def _is_volatile(value: Any) -> bool:
  """Whether `value` contains arguments for a part that rule out caching."""
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
  """Returns an immutable copy of `condition`, to use in a cache key.

  Equal arrays and numbers return the same object for as long as it is alive. A
  `tf.Variable` returns a new tensor at each call.
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
  """Derives TFP's methods from two that return value and log-det."""

  # Whether `forward` is latent -> data. `RealNVPChain` sets this to True.
  _is_generative = False

  @abc.abstractmethod
  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `(forward(x), forward_log_det_jacobian(x))`."""

  @abc.abstractmethod
  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `(inverse(y), inverse_log_det_jacobian(y))`."""

  @abc.abstractmethod
  def _checked(
    self, value: Any, direction: str, **kwargs: Any
  ) -> tuple[tf.Tensor, dict[str, Any]]:
    """Checks the arguments of a public method.

    Args:
      value: Input of the method.
      direction: 'forward' or 'inverse'.
      **kwargs: `training` and `condition`.

    Returns:
      value: `Tensor`.
      kwargs: A dict that is part of the cache key. It must be equal for
        equivalent arguments.
    """

  def _get_parameterization(self) -> int:
    # Bijectors with equal parameterizations share a cache in TFP. Two flows
    # built from the same arguments must not, because their variables differ.
    return id(self)

  @classmethod
  def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
    del dtype
    return {}

  # TFP's public methods call the following four before they use the cache.

  def _call_forward(self, x: Any, name: str, **kwargs: Any) -> tf.Tensor:
    x, kwargs = self._checked(x, 'forward', **kwargs)
    if kwargs.get('training') and not self._is_generative:
      self._evict('forward', x)
    return super()._call_forward(x, name, **kwargs)

  def _call_inverse(self, y: Any, name: str, **kwargs: Any) -> tf.Tensor:
    y, kwargs = self._checked(y, 'inverse', **kwargs)
    if kwargs.get('training') and self._is_generative:
      self._evict('inverse', y)
    return super()._call_inverse(y, name, **kwargs)

  def _call_forward_log_det_jacobian(
    self, x: Any, event_ndims: Any, name: str, **kwargs: Any
  ) -> tf.Tensor:
    x, kwargs = self._checked(x, 'forward', **kwargs)
    return super()._call_forward_log_det_jacobian(
      x, event_ndims, name, **kwargs
    )

  def _call_inverse_log_det_jacobian(
    self, y: Any, event_ndims: Any, name: str, **kwargs: Any
  ) -> tf.Tensor:
    y, kwargs = self._checked(y, 'inverse', **kwargs)
    return super()._call_inverse_log_det_jacobian(
      y, event_ndims, name, **kwargs
    )

  # The cache calls the following four if it has no result.

  def _forward(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
    self._check_direction('forward', kwargs)
    y, fldj = self._forward_and_log_det(x, **kwargs)
    self._cache.forward_attributes(x, **kwargs)['ildj'] = -fldj
    return y

  def _inverse(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
    self._check_direction('inverse', kwargs)
    x, ildj = self._inverse_and_log_det(y, **kwargs)
    self._cache.inverse_attributes(y, **kwargs)['ildj'] = ildj
    return x

  def _forward_log_det_jacobian(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
    self._check_direction('forward', kwargs)
    return self._forward_and_log_det(x, **kwargs)[1]

  def _inverse_log_det_jacobian(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
    self._check_direction('inverse', kwargs)
    return self._inverse_and_log_det(y, **kwargs)[1]

  def _check_direction(self, direction: str, kwargs: dict[str, Any]) -> None:
    # Public methods must not check this before they use the cache: after a pass
    # in training, TFP asks for the cached log-det in the other direction.
    is_generation = self._is_generative == (direction == 'forward')
    if kwargs.get('training') and is_generation:
      raise ValueError(
        f'`{self.name}.{direction}` is latent -> data and cannot compute batch '
        'statistics: `training` must be False, got True.'
      )

  def _evict(self, direction: str, value: tf.Tensor) -> None:
    """Removes the results for one input. Other replicas share the cache."""
    for key in self._cache.weak_keys(direction=direction):
      if key() is value:
        key.cancel()
        del self._cache.storage[key]
