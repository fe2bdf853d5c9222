"""FlowBijector: value and log-det of a bijector from one pass."""

import abc
import numbers

import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

__all__ = [
  'FlowBijector',
  'FlowSequence',
  'check_int',
  'dims',
  'forward_and_log_det',
  'inverse_and_log_det',
  'nested_kwargs',
  'to_tensor',
]


def dims(x):
  """The shape of `x` as a list: Python ints where static, else scalars."""
  dynamic = None
  shape = list(x.shape)
  for axis, size in enumerate(shape):
    if size is None:
      dynamic = tf.shape(x) if dynamic is None else dynamic
      shape[axis] = dynamic[axis]
  return shape


def check_int(value, name, minimum=1, optional=False):
  """Returns `value` as an `int`; a `ValueError` names what is none.

  `None` is returned as it is where the value is `optional`.
  """
  if optional and value is None:
    return None
  is_int = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not is_int or value < minimum:
    or_none = ', or None' if optional else ''
    raise ValueError(
      f'`{name}` must be an int of at least {minimum}{or_none}, got {value!r}.'
    )
  return int(value)


def to_tensor(value, dtype, name):
  """`tf.convert_to_tensor`, with an error that names what cannot be one."""
  try:
    return tf.convert_to_tensor(value, dtype, name=name)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f'`{name}` must be convertible to a {dtype and dtype.name} tensor: '
      f'{error}'
    ) from error


class FlowBijector(tfb.Bijector, metaclass=abc.ABCMeta):
  """A bijector that computes its value and its log-det in one pass.

  A subclass implements

  - `_forward_and_log_det(x, training, condition) -> (y, fldj)` and
  - `_inverse_and_log_det(y, training, condition) -> (x, ildj)`,

  the log-det at the bijector's minimum number of event dimensions, of shape
  `x.shape[:-forward_min_event_ndims]`. TFP's `forward`, `inverse` and their
  log-dets are derived from these; because each pass puts its log-det into TFP's
  cache, `log_prob`, `sample` and `experimental_sample_and_log_prob` of a
  `tfd.TransformedDistribution` run every network once, inside `tfb.Chain` too.

  All methods take two keyword arguments:

  - `training`: Python `bool`. In the data -> latent direction, batch
    normalization uses (and the log-det accounts for) batch statistics, and each
    moving average moves once per call. An error in the other direction.
  - `condition`: `[..., K]`, what a conditional flow depends on. Its leading
    dimensions broadcast against the batch dimensions of the event.

  As for every TFP bijector, a result is cached for as long as it is alive, and
  the same tensor asked for again gets the same result. A call with
  `training=True` computes anew.
  """

  # Whether `forward` is latent -> data. Of the components' it never is.
  _is_generative = False

  def _get_parameterization(self):
    # TFP lets bijectors of equal parameters share a cache; two flows built from
    # the same arguments hold different variables.
    return id(self)

  @classmethod
  def _parameter_properties(cls, dtype):
    return {}

  @abc.abstractmethod
  def _forward_and_log_det(self, x, training=False, condition=None):
    """Returns `(forward(x), forward_log_det_jacobian(x))`."""

  @abc.abstractmethod
  def _inverse_and_log_det(self, y, training=False, condition=None):
    """Returns `(inverse(y), inverse_log_det_jacobian(y))`."""

  def forward_and_log_det(
    self, x, event_ndims=None, name='forward_and_log_det', **kwargs
  ):
    """Returns `forward(x)` and its log-det, computed in one pass.

    Args:
      x: `Tensor` of the bijector's dtype.
      event_ndims: `int`, how many rightmost dimensions are one event. At least,
        and by default, `forward_min_event_ndims`.
      name: Name of the op.
      **kwargs: `training`, `condition`.

    Returns:
      y: `Tensor`.
      fldj: `Tensor` of shape `x.shape[:-event_ndims]`, in nats.
    """
    with self._name_and_control_scope(name):
      x, kwargs = self._convert(x, 'x'), _given(kwargs)
      self._check_direction('forward', kwargs)
      y, fldj = self._forward_and_log_det(x, **kwargs)
      return y, _sum_over_event(fldj, event_ndims, self.forward_min_event_ndims)

  def inverse_and_log_det(
    self, y, event_ndims=None, name='inverse_and_log_det', **kwargs
  ):
    """Returns `inverse(y)` and its log-det, computed in one pass.

    Args:
      y: `Tensor` of the bijector's dtype.
      event_ndims: `int`, how many rightmost dimensions are one event. At least,
        and by default, `inverse_min_event_ndims`.
      name: Name of the op.
      **kwargs: `training`, `condition`.

    Returns:
      x: `Tensor`.
      ildj: `Tensor` of shape `y.shape[:-event_ndims]`, in nats.
    """
    with self._name_and_control_scope(name):
      y, kwargs = self._convert(y, 'y'), _given(kwargs)
      self._check_direction('inverse', kwargs)
      x, ildj = self._inverse_and_log_det(y, **kwargs)
      return x, _sum_over_event(ildj, event_ndims, self.inverse_min_event_ndims)

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

  # The public methods arrive here: one place to check what users hand in.

  def _call_forward(self, x, name, **kwargs):
    x, kwargs = self._convert(x, 'x'), _given(kwargs)
    if kwargs.get('training') and not self._is_generative:
      self._forget(x, 'forward')
    return super()._call_forward(x, name, **kwargs)

  def _call_inverse(self, y, name, **kwargs):
    y, kwargs = self._convert(y, 'y'), _given(kwargs)
    if kwargs.get('training') and self._is_generative:
      self._forget(y, 'inverse')
    return super()._call_inverse(y, name, **kwargs)

  def _call_forward_log_det_jacobian(self, x, event_ndims, name, **kwargs):
    return super()._call_forward_log_det_jacobian(
      self._convert(x, 'x'), event_ndims, name, **_given(kwargs)
    )

  def _call_inverse_log_det_jacobian(self, y, event_ndims, name, **kwargs):
    return super()._call_inverse_log_det_jacobian(
      self._convert(y, 'y'), event_ndims, name, **_given(kwargs)
    )

  def _forget(self, value, direction):
    """Drops what the cache holds of `value`; replicas share the cache."""
    for key in self._cache.weak_keys(direction=direction):
      if key() is value:
        key.cancel()
        del self._cache.storage[key]

  def _convert(self, value, name):
    """Returns `value` as a tensor of `self.dtype`; never casts a tensor."""
    if hasattr(value, 'dtype') and self.dtype is not None:
      dtype = tf.as_dtype(value.dtype)
      if dtype != self.dtype:
        raise TypeError(
          f'`{name}` must have dtype {self.dtype.name}, got {dtype.name} of '
          f'shape {value.shape}. Cast it first; integer pixels also need '
          'uniform noise on [0, 1) added to them.'
        )
    value = to_tensor(value, self.dtype, name)
    if value.shape.rank is None:
      raise ValueError(f'`{name}` must have a known rank, got {value!r}.')
    ndims = self.forward_min_event_ndims
    if value.shape.rank < ndims:
      raise ValueError(
        f'`{name}` must have at least {ndims} dimensions, got shape '
        f'{value.shape}.'
      )
    return value

  def _check_direction(self, direction, kwargs):
    is_generation = self._is_generative == (direction == 'forward')
    if kwargs.get('training') and is_generation:
      raise ValueError(
        f'`{self.name}.{direction}` is the latent -> data direction, which has '
        'no batch statistics of its own: `training` must be False, got True.'
      )


class FlowSequence(FlowBijector):
  """Applies bijectors one after another, in the order of the list.

  `forward` is data -> latent, as of every component: the first bijector is
  applied first. (`tfb.Chain` applies its last bijector first.)
  """

  def __init__(
    self,
    bijectors,
    event_ndims,
    validate_args=False,
    dtype=tf.float32,
    name='flow_sequence',
  ):
    """Initializes FlowSequence.

    Args:
      bijectors: List of `tfb.Bijector`s.
      event_ndims: `int`, rank of one event.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `bijectors` holds none, or something else.
      ValueError: If `event_ndims` is negative or no int.
    """
    parameters = dict(locals())
    event_ndims = check_int(event_ndims, 'event_ndims', minimum=0)
    if (
      not isinstance(bijectors, (list, tuple))
      or not bijectors
      or not all(isinstance(b, tfb.Bijector) for b in bijectors)
    ):
      raise TypeError(
        f'`bijectors` must be a list of tfb.Bijectors, got {bijectors!r}.'
      )
    with tf.name_scope(name) as name:
      self._bijectors = list(bijectors)
      super().__init__(
        forward_min_event_ndims=event_ndims,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def bijectors(self):
    """The bijectors, in data -> latent order."""
    return list(self._bijectors)

  def _forward_and_log_det(self, x, **kwargs):
    total = 0.0
    for bijector in self._bijectors:
      x, fldj = forward_and_log_det(
        bijector, x, self.forward_min_event_ndims, **kwargs
      )
      total += fldj
    return x, total

  def _inverse_and_log_det(self, y, **kwargs):
    total = 0.0
    for bijector in reversed(self._bijectors):
      y, ildj = inverse_and_log_det(
        bijector, y, self.forward_min_event_ndims, **kwargs
      )
      total += ildj
    return y, total

  def _forward_event_shape(self, shape):
    for bijector in self._bijectors:
      shape = bijector.forward_event_shape(shape)
    return shape

  def _inverse_event_shape(self, shape):
    for bijector in reversed(self._bijectors):
      shape = bijector.inverse_event_shape(shape)
    return shape

  def _forward_event_shape_tensor(self, shape):
    for bijector in self._bijectors:
      shape = bijector.forward_event_shape_tensor(shape)
    return shape

  def _inverse_event_shape_tensor(self, shape):
    for bijector in reversed(self._bijectors):
      shape = bijector.inverse_event_shape_tensor(shape)
    return shape


def forward_and_log_det(bijector, x, event_ndims, **kwargs):
  """`FlowBijector.forward_and_log_det`, for any TFP bijector.

  Bijectors that are not `FlowBijector`s get no `training` and no `condition`.
  """
  if isinstance(bijector, FlowBijector):
    return bijector.forward_and_log_det(x, event_ndims, **kwargs)
  y = bijector.forward(x)
  fldj = bijector.forward_log_det_jacobian(x, event_ndims)
  return y, _of_batch(fldj, x, event_ndims)


def inverse_and_log_det(bijector, y, event_ndims, **kwargs):
  """`FlowBijector.inverse_and_log_det`, for any TFP bijector.

  Bijectors that are not `FlowBijector`s get no `training` and no `condition`.
  """
  if isinstance(bijector, FlowBijector):
    return bijector.inverse_and_log_det(y, event_ndims, **kwargs)
  x = bijector.inverse(y)
  ildj = bijector.inverse_log_det_jacobian(y, event_ndims)
  return x, _of_batch(ildj, y, event_ndims)


def nested_kwargs(bijector, **kwargs):
  """Hands `kwargs` to every `FlowBijector` in `bijector`.

  Args:
    bijector: `tfb.Bijector`, compositions included.
    **kwargs: `training`, `condition`.

  Returns:
    The keyword arguments for the methods of `bijector`, nested by name as TFP
    takes them; empty where none of its parts is a `FlowBijector`.
  """
  if isinstance(bijector, FlowBijector):
    return kwargs
  if hasattr(bijector, 'bijectors'):  # A composition takes them by name.
    parts = tf.nest.flatten(bijector.bijectors)
    nested = {part.name: nested_kwargs(part, **kwargs) for part in parts}
    return {name: value for name, value in nested.items() if value}
  if hasattr(bijector, 'bijector'):  # `tfb.Invert` hands them on.
    return nested_kwargs(bijector.bijector, **kwargs)
  return {}


def _given(kwargs):
  """Drops defaults, so that `training=False` and nothing share a cache."""
  training = kwargs.get('training', False)
  if not isinstance(training, bool):
    raise TypeError(f'`training` must be a Python bool, got {training!r}.')
  given = {key: value for key, value in kwargs.items() if value is not None}
  if not training:
    given.pop('training', None)
  return given


def _of_batch(log_det, x, event_ndims):
  """The log-det of every event; of all alike, TFP gives but one."""
  batch = dims(x)[: x.shape.rank - event_ndims]
  if log_det.shape.is_fully_defined() and log_det.shape == batch:
    return log_det
  return log_det + tf.zeros(batch, log_det.dtype)


def _sum_over_event(log_det, event_ndims, min_event_ndims):
  if event_ndims is None:
    return log_det
  extra = check_int(event_ndims, 'event_ndims', min_event_ndims)
  extra -= min_event_ndims
  if extra > log_det.shape.rank:
    raise ValueError(
      f'`event_ndims` must be at most {log_det.shape.rank + min_event_ndims}, '
      f'the dimensions there are; got {event_ndims}.'
    )
  if extra == 0:
    return log_det
  return tf.reduce_sum(log_det, axis=list(range(-extra, 0)))
