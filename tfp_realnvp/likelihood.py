"""From data to log-likelihoods, for any distribution that holds flows."""

import tensorflow_probability as tfp

from tfp_realnvp import flow_bijector

tfd = tfp.distributions

__all__ = ['log_prob_kwargs', 'takes']

# These hand the arguments of `log_prob` to what they wrap. Where that is not a
# composite tensor, TFP makes instances of their private base classes.
_TRANSPARENT = tuple(
  wrapper.__bases__[0]
  for wrapper in (tfd.BatchBroadcast, tfd.Independent, tfd.Sample)
)
_TRANSFORMED = tfd.TransformedDistribution.__bases__[0]


def takes(distribution):
  """Returns what the flows within a distribution depend on beside the event.

  Args:
    distribution: `tfd.Distribution`.

  Returns:
    A frozenset of the strings 'training' and 'condition'; see
    `flow_bijector.takes`.
  """
  flows = filter(_is_flow, distribution.submodules)
  return frozenset().union(*map(flow_bijector.takes, flows))


def log_prob_kwargs(distribution, **kwargs):
  """Returns keyword arguments for `distribution.log_prob`.

  Args:
    distribution: `tfd.Distribution`. The flows within may be bijectors of
      `tfd.TransformedDistribution`s, inside `tfb.Chain` and `tfb.Invert` too,
      and these inside one another and inside `tfd.Independent`, `tfd.Sample`
      and `tfd.BatchBroadcast`.
    **kwargs: `training`, `condition`.

  Returns:
    A dict that hands each flow those of `kwargs` that it depends on.

  Raises:
    TypeError: If TFP cannot hand them to a flow, as within `tfd.Mixture`.
    ValueError: If the names of the bijectors of a composition do not tell them
      apart.
  """
  if not takes(distribution):
    return {}
  if isinstance(distribution, _TRANSPARENT):
    return log_prob_kwargs(distribution.distribution, **kwargs)
  default = tfd.TransformedDistribution.__init__.__defaults__[0]
  split = distribution.parameters.get('kwargs_split_fn', default)
  if not isinstance(distribution, _TRANSFORMED) or split is not default:
    flow = next(filter(_is_flow, distribution.submodules))
    raise TypeError(
      f'`training` and `condition` cannot reach {flow.name!r} within '
      f'{distribution!r}: TFP hands them on in tfd.TransformedDistribution '
      '(with the default `kwargs_split_fn`), tfd.Independent, tfd.Sample and '
      'tfd.BatchBroadcast alone. Put the flow outside, such as '
      '`tfd.TransformedDistribution(tfd.Mixture(...), flow)`, or use flows '
      'without batch normalization, dropout and condition.'
    )
  parts = {
    'bijector_kwargs': flow_bijector.nested_kwargs(
      distribution.bijector, **kwargs
    ),
    'distribution_kwargs': log_prob_kwargs(distribution.distribution, **kwargs),
  }
  return {name: nested for name, nested in parts.items() if nested}


def _is_flow(module):
  return isinstance(module, flow_bijector.FlowBijector)
