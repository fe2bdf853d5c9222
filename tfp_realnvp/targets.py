"""Densities known up to a constant, on vectors of real numbers.

#### References
[1]: Radford Neal. Slice sampling. _Annals of Statistics_, 31(3), 2003.
[2]: Andrew Gelman et al. Bayesian Data Analysis, section 5.5. Third edition,
     2013.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = ['TARGETS', 'Target', 'joint_target', 'load_target']

# Treatment effects on eight schools and their standard errors [2].
_EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
_ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


@dataclasses.dataclass(frozen=True)
class Target:
  """A density known up to a constant.

  Attributes:
    size: Number `D` of real numbers that the density is of.
    log_prob: Function from `[N, D]` to the logarithm of the density, up to a
      constant, `[N]`.
    names: Names of the parameters.
    parameters: Function from `[N, D]` to the parameters with these names,
      `[N, len(names)]`, such as a positive scale instead of its logarithm.
    log_normalizer: Logarithm of the integral of the density, or `None` if it is
      not known.
    modes: Centers of separate modes, `[M, D]`, or `None`.
  """

  size: int
  log_prob: Callable[[tf.Tensor], tf.Tensor]
  names: Sequence[str]
  parameters: Callable[[tf.Tensor], tf.Tensor] = tf.identity
  log_normalizer: float | None = None
  modes: np.ndarray | None = None


def banana() -> Target:
  """Returns a normal distribution that is bent along a parabola.

  `x1 ~ N(0, 1)` and `x2 ~ N(x1^2, 0.5^2)`, without the constant.
  """

  def log_prob(x: tf.Tensor) -> tf.Tensor:
    first, second = tf.unstack(x, axis=-1)
    return -0.5 * (first**2 + 4 * (second - first**2) ** 2)

  return Target(
    2, log_prob, _numbered('x', 2), log_normalizer=float(np.log(np.pi))
  )


def funnel(size: int = 10) -> Target:
  """Returns the funnel of Neal [1].

  `v ~ N(0, 3^2)`, and `size - 1` numbers `x ~ N(0, exp(v))`.

  Args:
    size: Number of parameters.
  """

  def log_prob(x: tf.Tensor) -> tf.Tensor:
    v, rest = x[..., 0], x[..., 1:]
    return tfd.Normal(0.0, 3.0).log_prob(v) + tf.reduce_sum(
      tfd.Normal(0.0, tf.exp(v / 2)[..., tf.newaxis]).log_prob(rest), -1
    )

  names = ['v', *_numbered('x', size - 1)]
  return Target(size, log_prob, names, log_normalizer=0.0)


def mixture() -> Target:
  """Returns six normal distributions on a circle of radius 6."""
  angles = 2 * np.pi * np.arange(6) / 6
  modes = 6 * np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
  distribution = tfd.MixtureSameFamily(
    tfd.Categorical(logits=np.zeros(6, np.float32)),
    tfd.MultivariateNormalDiag(modes, [0.7, 0.7]),
  )
  return Target(
    2,
    distribution.log_prob,
    _numbered('x', 2),
    log_normalizer=0.0,
    modes=modes,
  )


def eight_schools() -> Target:
  """Returns the effects of coaching on tests in eight schools [2].

  `avg_effect ~ N(0, 10^2)`, `stddev ~ LogNormal(5, 1)`,
  `effects ~ N(avg_effect, stddev^2)`, and the measured effects have known
  errors.
  """
  root = tfd.JointDistributionCoroutine.Root

  def model() -> Iterator[Any]:
    mean = yield root(tfd.Normal(0.0, 10.0, name='avg_effect'))
    stddev = yield root(tfd.LogNormal(5.0, 1.0, name='stddev'))
    expand = lambda x: tf.repeat(x[..., tf.newaxis], len(_EFFECTS), axis=-1)
    effects = yield tfd.MultivariateNormalDiag(
      expand(mean), expand(stddev), name='effects'
    )
    yield tfd.MultivariateNormalDiag(effects, _ERRORS, name='measured')

  joint = tfd.JointDistributionCoroutine(model)
  return joint_target(joint.experimental_pin(measured=_EFFECTS))


def joint_target(pinned: Any) -> Target:
  """Returns the posterior of a joint distribution.

  The parameters become a vector of real numbers by the default bijectors of
  their distributions, so that a positive one is given by its logarithm or the
  inverse of its softplus.

  Args:
    pinned: `tfp.experimental.distributions.JointDistributionPinned`, which
      `joint.experimental_pin(data=...)` returns.

  Raises:
    ValueError: If the shape of a parameter is not known.
  """
  constrain = pinned.experimental_default_event_space_bijector()
  shapes = tf.nest.flatten(pinned.event_shape)
  if not all(shape.is_fully_defined() for shape in shapes):
    raise ValueError(f'The shapes of the parameters must be known: {shapes}.')
  real_shapes = constrain.inverse_event_shape(pinned.event_shape)
  flat_shapes = tf.nest.flatten(real_shapes)
  sizes = [shape.num_elements() for shape in flat_shapes]
  bijector = tfb.Chain(
    [
      constrain,
      tfb.Restructure(tf.nest.pack_sequence_as(real_shapes, range(len(sizes)))),
      tfb.JointMap(
        [
          tfb.Reshape(event_shape_out=shape, event_shape_in=[size])
          for shape, size in zip(flat_shapes, sizes)
        ]
      ),
      tfb.Split(sizes),
    ]
  )

  def log_prob(x: tf.Tensor) -> tf.Tensor:
    log_det = bijector.forward_log_det_jacobian(x, event_ndims=1)
    return pinned.unnormalized_log_prob(bijector.forward(x)) + log_det

  def parameters(x: tf.Tensor) -> tf.Tensor:
    parts = tf.nest.flatten(bijector.forward(x))
    batch = tf.shape(x)[:-1]
    return tf.concat(
      [
        tf.reshape(part, tf.concat([batch, [shape.num_elements()]], 0))
        for part, shape in zip(parts, shapes)
      ],
      axis=-1,
    )

  names = []
  for name, shape in zip(_part_names(pinned.event_shape), shapes):
    count = shape.num_elements()
    names += _numbered(name, count) if shape.rank else [name]
  return Target(sum(sizes), log_prob, names, parameters)


def load_target(path: str, size: int | None) -> Target:
  """Loads a target from a Python module.

  Args:
    path: 'module:name'. The name is that of a function like `Target.log_prob`,
      of a `Target`, or of a `JointDistributionPinned`.
    size: Number of parameters of a function; `None` for others.

  Raises:
    ValueError: If there is no such target, or `size` is missing or not needed.
  """
  module, _, name = path.partition(':')
  try:
    found = getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(f'There is no {path!r}: {error}') from error
  is_function = callable(found) and not hasattr(found, 'unnormalized_log_prob')
  if is_function != (size is not None):
    raise ValueError(
      f'The number of parameters must be given for a function, and for nothing '
      f'else, got {size} for {path!r}, {found!r}.'
    )
  if is_function:
    util.check_int(size, 'size', minimum=2)
    shape = tf.convert_to_tensor(found(tf.zeros([3, size]))).shape
    if shape != [3]:
      raise ValueError(
        f'{path!r} must return a number for each row, [N]; of [3, {size}] '
        f'numbers it returns shape {shape}.'
      )
    return Target(size, found, _numbered('x', size))
  if isinstance(found, Target):
    return found
  if not hasattr(found, 'unnormalized_log_prob'):
    raise ValueError(
      f'{path!r} is neither a function nor a JointDistributionPinned, but '
      f'{found!r}.'
    )
  return joint_target(found)


def _part_names(structure: Any) -> list[str]:
  """Returns the names of the parts of a flat structure, or their numbers."""
  if isinstance(structure, Mapping):
    return sorted(structure)
  fields = getattr(structure, '_fields', None)
  count = len(tf.nest.flatten(structure))
  return list(fields) if fields else _numbered('part', count)


def _numbered(name: str, count: int) -> list[str]:
  return [f'{name}{i}' for i in range(1, count + 1)]


TARGETS = {
  'banana': banana,
  'eight_schools': eight_schools,
  'funnel': funnel,
  'mixture': mixture,
}
