"""AffineCoupling: the layer that Real NVP is made of."""

import collections.abc
import inspect
import math

import numpy as np
import tensorflow as tf

from tfp_realnvp import flow_bijector

__all__ = ['AffineCoupling']


class AffineCoupling(flow_bijector.FlowBijector):
  """Scales and shifts part of its input by functions of the rest.

  - Forward:  `y = b x + (1 - b) (x exp(log_scale(b x)) + shift(b x))`  (eq. 9)
  - Inverse:  `x = b y + (1 - b) (y - shift(b y)) exp(-log_scale(b y))`
  - Forward log-det: `sum((1 - b) log_scale(b x))` over the event

  The event shape is `[H, W, C]` or `[D]`, leading dimensions are batch. `b` is
  the mask. One that varies over the last dimension only (`channel_mask`) splits
  it: the network sees the channels that are kept and gives shift and log-scale
  of the others (eq. 7). With any other (`checkerboard_mask`), the network sees
  the whole event, zero where `b` is False, and what it gives where `b` is True,
  which must be finite, is not used.

  #### Examples

  ```python
  network = keras.Sequential([
      keras.layers.Dense(64, activation='relu'), keras.layers.Dense(2)])
  coupling = AffineCoupling(network, mask=channel_mask((2,)))
  dist = tfd.TransformedDistribution(
      tfd.MultivariateNormalDiag([0., 0.]), tfb.Invert(coupling))
  ```
  """

  def __init__(
    self,
    shift_and_log_scale_fn,
    mask,
    validate_args=False,
    dtype=tf.float32,
    name='affine_coupling',
  ):
    """Initializes AffineCoupling.

    Args:
      shift_and_log_scale_fn: Callable, the network, from `[N, H, W, K]` or
        `[N, K]` (all batch dimensions are made one) to a pair: shift and
        log-scale, each of the shape of what it changes; or to one tensor that
        holds both, shift first, along the last dimension. It is called with
        `training=` and, if the flow is given a condition, with `condition=`,
        `[N, size]`, if it has such arguments or `**kwargs`. It must be a Keras
        layer or model, or a `tf.Module`, if it has variables, which then are
        the bijector's; those of a Keras network that is not built yet are there
        after the first call. What Keras has frozen is not trainable here.
      mask: Boolean, True where the input passes through unchanged. `[D]` for
        vectors, `[H, W, 1]`, `[1, 1, C]` or `[H, W, C]` for images; or, for
        images of any size, a function from the event shape `(H, W, C)` to one
        of these, such as `checkerboard_mask`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `shift_and_log_scale_fn` is not callable, or `mask` is not
        boolean.
      ValueError: If `mask` has another rank, or keeps all or nothing.
    """
    parameters = dict(locals())
    if not callable(shift_and_log_scale_fn):
      raise TypeError(
        '`shift_and_log_scale_fn` must be callable, got '
        f'{shift_and_log_scale_fn!r}.'
      )
    if not callable(mask):
      mask = _check_mask(mask, (1, 3))
      if mask.all() or not mask.any():
        raise ValueError(
          f'`mask` must keep a part and change a part, got all {mask.any()}: '
          f'{mask!r}.'
        )
    with tf.name_scope(name) as name:
      self._network = shift_and_log_scale_fn
      self._takes = _arguments(shift_and_log_scale_fn)
      self._network_variables = _KerasVariables(shift_and_log_scale_fn)
      # With which values of `training` the network has been called.
      self._called_with = set()
      self._mask = mask
      is_split = not callable(mask) and mask.size == mask.shape[-1]
      self._channel_partition = (
        _ChannelPartition(mask.ravel()) if is_split else None
      )
      super().__init__(
        forward_min_event_ndims=3 if callable(mask) else mask.ndim,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def shift_and_log_scale_fn(self):
    """The network."""
    return self._network

  @property
  def mask(self):
    """The mask, or the function that makes it from an event shape."""
    return self._mask

  def _forward_and_log_det(self, x, training=False, condition=None):
    partition, kept, changed = self._split(x)
    shift, log_scale = self._shift_and_log_scale(kept, training, condition)
    shift, log_scale = partition.fit(shift), partition.fit(log_scale)
    y = partition.join(kept, changed * tf.exp(log_scale) + shift)
    return y, self._sum_over_event(log_scale)

  def _inverse_and_log_det(self, y, training=False, condition=None):
    partition, kept, changed = self._split(y)
    shift, log_scale = self._shift_and_log_scale(kept, training, condition)
    shift, log_scale = partition.fit(shift), partition.fit(log_scale)
    x = partition.join(kept, (changed - shift) * tf.exp(-log_scale))
    return x, -self._sum_over_event(log_scale)

  def _split(self, x):
    """Returns the partition of the event, and the two parts of `x`."""
    mask = self._mask
    if callable(mask):
      mask = _check_mask(mask(tuple(flow_bijector.dims(x)[-3:])), (3,))
      self._check_mask_fits(x.shape[-3:], mask.shape)
    sizes = [None if size == 1 else size for size in mask.shape]
    batch, event = x.shape[: -len(sizes)], x.shape[-len(sizes) :]
    if any(e is None and size is not None for e, size in zip(event, sizes)):
      # What is known at run time only must fit too: 1 would be broadcast.
      x = tf.ensure_shape(x, batch.concatenate(sizes))
    partition = self._channel_partition
    if partition is None:
      partition = _SpatialPartition(mask, x.shape[-1], x.dtype)
    return partition, *partition.split(x)

  def _shift_and_log_scale(self, kept, training, condition):
    """Calls the network on `kept`, all of its batch dimensions made one."""
    ndims = self.forward_min_event_ndims
    batch = flow_bijector.dims(kept)[:-ndims]
    event = flow_bijector.dims(kept)[-ndims:]
    kwargs = {'training': training} if 'training' in self._takes else {}
    if condition is not None:
      condition = flow_bijector.to_tensor(condition, kept.dtype, 'condition')
      self._check_condition(condition.shape, kept.shape[:-ndims])
      size = condition.shape[-1]
      condition = tf.broadcast_to(condition, batch + [size])
      kwargs['condition'] = tf.reshape(condition, [-1, size])
    # Not -1: it is undefined where the event has no elements.
    flat = [math.prod(batch)] + event
    output = self._call_network(tf.reshape(kept, flat), training, kwargs)
    if tf.is_tensor(output) and output.shape.rank and output.shape[-1] % 2 == 0:
      output = tf.split(output, 2, axis=-1)
    if not isinstance(output, (tuple, list)) or len(output) != 2:
      raise ValueError(
        '`shift_and_log_scale_fn` must return shift and log-scale, or both in '
        f'one tensor; got {getattr(output, "shape", output)!r}.'
      )
    return [
      tf.reshape(value, batch + event[:-1] + [value.shape[-1]])
      for value in output
    ]

  def _check_condition(self, shape, batch_shape):
    leading = list(shape)[:-1] if shape.rank else None
    if (
      leading is None
      or len(leading) > batch_shape.rank
      or any(
        None not in (size, batch) and size not in (1, batch)
        for size, batch in zip(reversed(leading), reversed(list(batch_shape)))
      )
    ):
      raise ValueError(
        f'{self.name}: `condition` must have shape [..., K], its leading '
        f'dimensions broadcast against the batch shape {batch_shape}; got '
        f'{shape}.'
      )

  def _sum_over_event(self, log_scale):
    ndims = self.forward_min_event_ndims
    return tf.reduce_sum(log_scale, axis=list(range(-ndims, 0)))

  def _call_network(self, x, training, kwargs):
    """Calls the network; the first time, looks for variables it hides."""
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
        f'{self.name}: the network uses variables that it does not show, '
        f'{[v.name for v in hidden]}, so that they would not be trained or '
        'saved. Pass the Keras layer or model that has them as '
        '`shift_and_log_scale_fn`, or a `tf.Module` with the variables as '
        f'attributes, instead of {self._network!r}.'
      )
    self._called_with.add(training)
    return output

  def _shape_after(self, shape, direction):
    if not callable(self._mask):
      self._check_mask_fits(shape[-self._mask.ndim :], self._mask.shape)
    return shape

  def _check_mask_fits(self, event_shape, mask_shape):
    for size, mask_size in zip(event_shape, mask_shape):
      if None not in (size, mask_size) and mask_size not in (1, size):
        raise ValueError(
          f'{self.name}: `mask` of shape {tuple(mask_shape)} does not fit the '
          f'event shape {tuple(event_shape)}.'
        )


class _ChannelPartition:
  """The last dimension taken apart by a mask over it."""

  def __init__(self, mask):
    self._kept = np.flatnonzero(mask)
    self._changed = np.flatnonzero(~mask)
    self._order = np.argsort(np.concatenate([self._kept, self._changed]))

  def split(self, x):
    return _take(x, self._kept), _take(x, self._changed)

  def fit(self, value):
    """Checks what the network gives for the part changed."""
    return _check_channels(value, len(self._changed))

  def join(self, kept, changed):
    if self._kept[-1] < self._changed[0]:
      return tf.concat([kept, changed], axis=-1)
    if self._changed[-1] < self._kept[0]:
      return tf.concat([changed, kept], axis=-1)
    return tf.gather(tf.concat([kept, changed], -1), self._order, axis=-1)


class _SpatialPartition:
  """The whole event, with the other part masked out."""

  def __init__(self, mask, num_channels, dtype):
    self._kept = tf.cast(mask, dtype)
    self._num_channels = num_channels

  def split(self, x):
    return x * self._kept, x

  def fit(self, value):
    """Zeros what the network gives for the part kept."""
    return _check_channels(value, self._num_channels) * (1 - self._kept)

  def join(self, kept, changed):
    """The part kept was scaled by 1 and shifted by 0."""
    del kept
    return changed


def _check_mask(mask, ndims):
  """Returns the mask, a NumPy array unless it is a symbolic tensor."""
  if not tf.is_tensor(mask) or tf.executing_eagerly():
    mask = np.asarray(mask)
  if tf.as_dtype(mask.dtype) != tf.bool:
    raise TypeError(f'`mask` must be boolean, got {mask.dtype}: {mask!r}.')
  if len(mask.shape) not in ndims:
    raise ValueError(
      f'`mask` must have {" or ".join(map(str, ndims))} dimensions, got shape '
      f'{mask.shape}.'
    )
  return mask


def _check_channels(value, num_channels):
  if value.shape[-1] != num_channels:
    raise ValueError(
      'Each output of `shift_and_log_scale_fn` must have as many channels as '
      f'it changes, {num_channels}; got shape {value.shape}.'
    )
  return value


def _take(x, indices):
  """`tf.gather` on the last axis; neighbours are sliced, which is faster."""
  first, last = indices[0], indices[-1]
  if last - first + 1 == len(indices):
    return x[..., first : last + 1]
  return tf.gather(x, indices, axis=-1)


def _arguments(network):
  """Which of `training` and `condition` a network takes."""
  # Keras layers and models take theirs in `call`.
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
  """The variables of a Keras network, as they are when asked for.

  Keras 3 layers are no `tf.Module`s: `tf.Module` finds their variables here.
  """

  def __init__(self, network):
    self._network = network

  def __len__(self):
    return len(self._variables())

  def __getitem__(self, index):
    return self._variables()[index]

  def _variables(self):
    if isinstance(self._network, tf.Module):
      return []
    return [_synced(v) for v in getattr(self._network, 'variables', ())]


def _synced(variable):
  """Returns the `tf.Variable` of a Keras variable, frozen if that is."""
  value = getattr(variable, 'value', variable)
  if value.trainable != variable.trainable:
    for component in _components(value):
      component._trainable = variable.trainable
  return value


def _components(variable):
  """The variables of all replicas that a `tf.Variable` is made of."""
  return getattr(variable, 'values', [variable])
