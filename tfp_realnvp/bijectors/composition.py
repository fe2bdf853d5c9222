"""Passes `training` and `condition` to flows inside TFP's compositions."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.bijectors import one_pass

tfb = tfp.bijectors

__all__ = [
  'check_part',
  'forward_and_log_det',
  'inverse_and_log_det',
  'nested_kwargs',
  'takes',
]

# Keyword arguments of the methods of TFP's compositions. The same methods take
# arguments for a part by its name, which must therefore be a different one.
_RESERVED_NAMES = frozenset(
  ['argument', 'backward_compat', 'dtype', 'event_ndims', 'fn_name', 'forward']
  + ['forward_name', 'input', 'inverse_name', 'name', 'self', 'step_fn', 'x']
  + ['pack_as_original_structure', 'tangent_space', 'x_event_ndims', 'y']
)


def takes(module: tf.Module) -> frozenset[str]:
  """Returns which of `training` and `condition` a module depends on.

  Args:
    module: `tfb.Bijector` or `tfd.Distribution` that is a `FlowBijector` or may
      contain some.

  Returns:
    A frozenset with none, one or both of 'training' and 'condition'.
  """
  if _is_flow(module):
    return module._takes
  flows = filter(_is_flow, module.submodules)
  return frozenset().union(*(flow._takes for flow in flows))


def check_part(bijector: tfb.Bijector) -> None:
  """Checks that a `FlowBijector` can pass arguments on to `bijector`.

  Args:
    bijector: `tfb.Bijector`.

  Raises:
    TypeError: If it contains `FlowBijector`s that `training` and `condition`
      cannot reach.
  """
  if isinstance(bijector, one_pass.INVERT):
    check_part(bijector.bijector)
  elif isinstance(bijector, one_pass.CHAIN):
    for part in bijector.bijectors:
      check_part(part)
  elif not _is_flow(bijector) and takes(bijector):
    raise _unreachable(bijector)


def forward_and_log_det(
  bijector: tfb.Bijector, x: tf.Tensor, event_ndims: int, **kwargs: Any
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns `forward(x)` and its log-det for any bijector.

  Each `FlowBijector` runs once, also inside `tfb.Chain` and `tfb.Invert`.

  Args:
    bijector: `tfb.Bijector` that `check_part` accepts.
    x: `Tensor`.
    event_ndims: Number of rightmost dimensions of `x` that form an event.
    **kwargs: `training` and `condition`, passed to the `FlowBijector`s that
      depend on them.

  Returns:
    y: `Tensor`.
    fldj: `Tensor` of shape `x.shape[:-event_ndims]`, in nats.
  """
  return _value_and_log_det(bijector, x, event_ndims, 'forward', kwargs)


def inverse_and_log_det(
  bijector: tfb.Bijector, y: tf.Tensor, event_ndims: int, **kwargs: Any
) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns `inverse(y)` and its log-det; see `forward_and_log_det`."""
  return _value_and_log_det(bijector, y, event_ndims, 'inverse', kwargs)


def _value_and_log_det(
  bijector: tfb.Bijector,
  value: tf.Tensor,
  event_ndims: int,
  direction: str,
  kwargs: dict[str, Any],
) -> tuple[tf.Tensor, tf.Tensor]:
  if _is_flow(bijector):
    kwargs = {k: v for k, v in kwargs.items() if k in takes(bijector)}
    method = getattr(bijector, f'{direction}_and_log_det')
    return method(value, event_ndims=event_ndims, **kwargs)
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
  log_det = getattr(bijector, f'{direction}_log_det_jacobian')(
    value, event_ndims
  )
  return result, _broadcast_to_batch(log_det, value, event_ndims)


def nested_kwargs(bijector: tfb.Bijector, **kwargs: Any) -> dict[str, Any]:
  """Returns keyword arguments for TFP's methods of any bijector.

  Args:
    bijector: `tfb.Bijector`.
    **kwargs: `training` and `condition`.

  Returns:
    A dict. For a `FlowBijector`, those of `kwargs` that it depends on. For a
    composition, a dict for each part that needs one, keyed by its name.

  Raises:
    TypeError: If `bijector` contains `FlowBijector`s that TFP cannot pass
      arguments to.
    ValueError: If parts that need different arguments have the same name, or a
      name is an argument of TFP's methods.
  """
  if _is_flow(bijector):
    return {k: v for k, v in kwargs.items() if k in takes(bijector)}
  if not takes(bijector):
    return {}
  if isinstance(bijector, one_pass.INVERT):
    return nested_kwargs(bijector.bijector, **kwargs)
  if not hasattr(bijector, 'bijectors'):
    raise _unreachable(bijector)
  by_name = {}
  for part in tf.nest.flatten(bijector.bijectors):
    nested = nested_kwargs(part, **kwargs)
    if by_name.setdefault(part.name, nested) != nested:
      raise ValueError(
        f'Parts of {bijector.name!r} that need different arguments have the '
        f'same name, {part.name!r}. Give them different names.'
      )
    if nested and part.name in _RESERVED_NAMES:
      raise ValueError(
        f'A part of {bijector.name!r} has the name {part.name!r}, which is an '
        "argument of TFP's methods. Give it another name."
      )
  return {name: nested for name, nested in by_name.items() if nested}


def _unreachable(bijector: tfb.Bijector) -> TypeError:
  return TypeError(
    f'`training` and `condition` cannot reach the flows within {bijector!r}. '
    'Compose bijectors with `tfb.Chain` and `tfb.Invert`.'
  )


def _broadcast_to_batch(
  log_det: tf.Tensor, x: tf.Tensor, event_ndims: int
) -> tf.Tensor:
  """Broadcasts `log_det` to the batch shape of `x`.

  TFP returns a scalar if the Jacobian is constant.
  """
  batch = util.dims(x)[: x.shape.rank - event_ndims]
  if log_det.shape.is_fully_defined() and log_det.shape == batch:
    return log_det
  return log_det + tf.zeros(batch, log_det.dtype)


def _is_flow(module: Any) -> bool:
  return isinstance(module, flow_bijector.FlowBijector)
