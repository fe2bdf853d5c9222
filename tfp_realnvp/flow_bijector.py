"""FlowBijector: value and log-det of a bijector from one pass."""

import abc
import numbers

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import one_pass

tfb = tfp.bijectors

__all__ = [
  'FlowBijector',
  'FlowSequence',
  'check_int',
  'dims',
  'forward_and_log_det',
  'inverse_and_log_det',
  'nested_kwargs',
  'takes',
  'to_tensor',
]

# Keyword arguments of TFP's compositions, which also take those of their parts
# by name.
_RESERVED_NAMES = frozenset(
  ['argument', 'backward_compat', 'dtype', 'event_ndims', 'fn_name', 'forward']
  + ['forward_name', 'input', 'inverse_name', 'name', 'self', 'step_fn', 'x']
  + ['pack_as_original_structure', 'tangent_space', 'x_event_ndims', 'y']
)


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
    dimensions broadcast against the batch dimensions of the event. An error if
    the bijector takes none.

  As for every TFP bijector, a result is cached for as long as it is alive, and
  the same tensor with a condition of the same value gets the same result. So
  the gradient of `log_prob(x)` with respect to a sample `x` is `None`: the
  cache has the latent that `x` was made of. Ask for that of `tf.identity(x)`.
  A call with `training=True` is always computed, and so is one with a
  `tf.Variable` as condition.
  """

  # Whether `forward` is latent -> data. It is not for a component.
  _is_generative = False

  # What results depend on, beside the event. A bijector that ignores one of the
  # two leaves it out: to hand it a condition is then an error.
  _takes = frozenset(['training', 'condition'])

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

  def _shape_after(self, shape, direction):
    """Returns the shape of what a pass in `direction` makes of `shape`.

    Args:
      shape: `tf.TensorShape`, of at least `forward_min_event_ndims` dimensions;
        those before the event are batch.
      direction: 'forward' or 'inverse'.

    Raises:
      ValueError: If events cannot have this shape.
    """
    del direction
    return shape

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
      x, kwargs = self._convert(x, 'x'), self._canonical(kwargs)
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
      y, kwargs = self._convert(y, 'y'), self._canonical(kwargs)
      self._check_direction('inverse', kwargs)
      x, ildj = self._inverse_and_log_det(y, **kwargs)
      return x, _sum_over_event(ildj, event_ndims, self.inverse_min_event_ndims)

  def _forward(self, x, **kwargs):
    self._check_direction('forward', kwargs)
    y, fldj = self._forward_and_log_det(x, **kwargs)
    one_pass.keep_log_det(self, 'forward', x, -fldj, kwargs)
    return y

  def _inverse(self, y, **kwargs):
    self._check_direction('inverse', kwargs)
    x, ildj = self._inverse_and_log_det(y, **kwargs)
    one_pass.keep_log_det(self, 'inverse', y, ildj, kwargs)
    return x

  def _forward_log_det_jacobian(self, x, **kwargs):
    self._check_direction('forward', kwargs)
    return self._forward_and_log_det(x, **kwargs)[1]

  def _inverse_log_det_jacobian(self, y, **kwargs):
    self._check_direction('inverse', kwargs)
    return self._inverse_and_log_det(y, **kwargs)[1]

  def _forward_event_shape(self, shape):
    return self._checked_shape_after(shape, 'forward')

  def _inverse_event_shape(self, shape):
    return self._checked_shape_after(shape, 'inverse')

  def _checked_shape_after(self, shape, direction):
    if shape.rank is None:
      return shape
    if shape.rank < self.forward_min_event_ndims:
      raise ValueError(
        f'{self.name}: an event must have at least '
        f'{self.forward_min_event_ndims} dimensions, got shape {shape}.'
      )
    return self._shape_after(shape, direction)

  # The public methods arrive here: one place to check what users hand in.

  def _call_forward(self, x, name, **kwargs):
    x, kwargs = self._convert(x, 'x'), self._canonical(kwargs)
    if kwargs.get('training') and not self._is_generative:
      one_pass.forget(self, 'forward', x)
    return super()._call_forward(x, name, **kwargs)

  def _call_inverse(self, y, name, **kwargs):
    y, kwargs = self._convert(y, 'y'), self._canonical(kwargs)
    if kwargs.get('training') and self._is_generative:
      one_pass.forget(self, 'inverse', y)
    return super()._call_inverse(y, name, **kwargs)

  def _call_forward_log_det_jacobian(self, x, event_ndims, name, **kwargs):
    return super()._call_forward_log_det_jacobian(
      self._convert(x, 'x'), event_ndims, name, **self._canonical(kwargs)
    )

  def _call_inverse_log_det_jacobian(self, y, event_ndims, name, **kwargs):
    return super()._call_inverse_log_det_jacobian(
      self._convert(y, 'y'), event_ndims, name, **self._canonical(kwargs)
    )

  def _canonical(self, kwargs):
    """Returns keyword arguments that are equal where they mean the same."""
    training = kwargs.get('training', False)
    if not isinstance(training, bool):
      raise TypeError(f'`training` must be a Python bool, got {training!r}.')
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    if not training:
      kwargs.pop('training', None)
    if 'condition' in kwargs:
      condition = kwargs['condition']
      if 'condition' not in self._takes:
        raise ValueError(
          f'{self.name} takes no `condition`, got one of shape '
          f'{getattr(condition, "shape", condition)}.'
        )
      kwargs['condition'] = one_pass.snapshot(condition)
      if training and isinstance(condition, tf.Variable):
        raise TypeError(
          '`condition` must be a tensor or an array where `training` is True, '
          f'got {condition!r}: read it first, with `tf.convert_to_tensor`.'
        )
    return kwargs

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
    self._shape_after(value.shape, {'x': 'forward', 'y': 'inverse'}[name])
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
      TypeError: If `bijectors` is empty, holds something else, or holds flows
        that `training` and `condition` cannot reach.
      ValueError: If `event_ndims` is negative or not an int, or a bijector
        changes the rank of an event.
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
    for bijector in bijectors:
      check_part(bijector)
      if bijector.forward_event_ndims(event_ndims) != event_ndims:
        raise ValueError(
          f'`bijectors` must keep the rank of an event, {event_ndims}; got '
          f'{bijector!r}.'
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

  @property
  def _takes(self):
    return frozenset().union(*map(takes, self._bijectors))

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

  def _shape_after(self, shape, direction):
    for bijector in self._bijectors[:: 1 if direction == 'forward' else -1]:
      shape = getattr(bijector, f'{direction}_event_shape')(shape)
    return shape

  def _forward_event_shape_tensor(self, shape):
    for bijector in self._bijectors:
      shape = bijector.forward_event_shape_tensor(shape)
    return shape

  def _inverse_event_shape_tensor(self, shape):
    for bijector in reversed(self._bijectors):
      shape = bijector.inverse_event_shape_tensor(shape)
    return shape


def takes(bijector):
  """Returns what a `tfb.Bijector` depends on beside the event.

  Args:
    bijector: `tfb.Bijector`, such as a `FlowBijector` or a composition of them.

  Returns:
    A frozenset of the strings 'training' and 'condition', of which it may hold
    none, one or both.
  """
  if isinstance(bijector, FlowBijector):
    return bijector._takes
  flows = (m for m in bijector.submodules if isinstance(m, FlowBijector))
  return frozenset().union(*(flow._takes for flow in flows))


def check_part(bijector):
  """Raises unless `bijector` can be a part of a `FlowBijector`.

  Args:
    bijector: `tfb.Bijector`.

  Raises:
    TypeError: If it holds `FlowBijector`s that `training` or `condition` would
      not reach.
  """
  if isinstance(bijector, one_pass.INVERT):
    check_part(bijector.bijector)
  elif isinstance(bijector, one_pass.CHAIN):
    for part in bijector.bijectors:
      check_part(part)
  elif not isinstance(bijector, FlowBijector) and takes(bijector):
    raise TypeError(
      f'`training` and `condition` cannot reach the flows within {bijector!r}: '
      'use `tfb.Chain` and `tfb.Invert` to put bijectors together.'
    )


def forward_and_log_det(bijector, x, event_ndims, **kwargs):
  """Returns `forward(x)` and its log-det, of any bijector and in one pass.

  Args:
    bijector: `tfb.Bijector` that `check_part` accepts.
    x: `Tensor`.
    event_ndims: `int`, how many rightmost dimensions of `x` are one event.
    **kwargs: `training`, `condition`: for the `FlowBijector`s that depend on
      them, inside `tfb.Chain` and `tfb.Invert` too.

  Returns:
    y: `Tensor`.
    fldj: `Tensor` of shape `x.shape[:-event_ndims]`, in nats.
  """
  return _value_and_log_det(bijector, x, event_ndims, 'forward', kwargs)


def inverse_and_log_det(bijector, y, event_ndims, **kwargs):
  """Returns `inverse(y)` and its log-det; see `forward_and_log_det`."""
  return _value_and_log_det(bijector, y, event_ndims, 'inverse', kwargs)


def _value_and_log_det(bijector, value, event_ndims, direction, kwargs):
  if isinstance(bijector, FlowBijector):
    kwargs = {k: v for k, v in kwargs.items() if k in takes(bijector)}
    method = getattr(bijector, f'{direction}_and_log_det')
    return method(value, event_ndims, **kwargs)
  if isinstance(bijector, one_pass.INVERT):
    opposite = {'forward': 'inverse', 'inverse': 'forward'}[direction]
    return _value_and_log_det(
      bijector.bijector, value, event_ndims, opposite, kwargs
    )
  if isinstance(bijector, one_pass.CHAIN) and takes(bijector):
    parts = list(bijector.bijectors)
    total = 0.0
    for part in reversed(parts) if direction == 'forward' else parts:
      value, log_det = _value_and_log_det(
        part, value, event_ndims, direction, kwargs
      )
      event_ndims = getattr(part, f'{direction}_event_ndims')(event_ndims)
      total += log_det
    return value, total
  result = getattr(bijector, direction)(value)
  log_det = getattr(bijector, f'{direction}_log_det_jacobian')
  return result, _of_batch(log_det(value, event_ndims), value, event_ndims)


def nested_kwargs(bijector, **kwargs):
  """Returns keyword arguments for the methods of any bijector.

  Args:
    bijector: `tfb.Bijector`, compositions included.
    **kwargs: `training`, `condition`.

  Returns:
    A dict: for a `FlowBijector` those of `kwargs` that it depends on; for a
    composition such dicts by the names of its parts, as TFP takes them.

  Raises:
    TypeError: If `bijector` holds `FlowBijector`s that TFP cannot reach.
    ValueError: If the names of its parts do not tell them apart, or are those
      of TFP's own arguments.
  """
  if isinstance(bijector, FlowBijector):
    return {k: v for k, v in kwargs.items() if k in takes(bijector)}
  if not takes(bijector):
    return {}
  if isinstance(bijector, one_pass.INVERT):
    return nested_kwargs(bijector.bijector, **kwargs)
  if not hasattr(bijector, 'bijectors'):
    raise TypeError(
      f'`training` and `condition` cannot reach the flows within {bijector!r}: '
      'use `tfb.Chain` and `tfb.Invert` to put bijectors together.'
    )
  by_name = {}
  for part in tf.nest.flatten(bijector.bijectors):
    nested = nested_kwargs(part, **kwargs)
    if by_name.setdefault(part.name, nested) != nested:
      raise ValueError(
        f'Parts of {bijector.name!r} that need different arguments have the '
        f'same name, {part.name!r}: give each a name of its own.'
      )
    if nested and part.name in _RESERVED_NAMES:
      raise ValueError(
        f'A part of {bijector.name!r} has the name {part.name!r}, which is an '
        "argument of TFP's methods: give it another name."
      )
  return {name: nested for name, nested in by_name.items() if nested}


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
