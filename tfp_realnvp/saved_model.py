"""Export of a distribution as a SavedModel, for serving."""

from collections.abc import Callable
import math
import os
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import pixels
from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.training import likelihood

tfd = tfp.distributions

__all__ = ['export_saved_model']


def export_saved_model(
  distribution: tfd.Distribution,
  path: str | os.PathLike,
  num_levels: int | None = 256,
  num_draws: int | None = None,
  seed: int | None = None,
  condition_size: int | None = None,
  max_samples: int = 1024,
) -> str | os.PathLike:
  """Writes a SavedModel that answers requests with TensorFlow alone.

  Its signatures, for events of shape `E`, such as `[H, W, C]`, and any batch
  size `N`:

  - `log_prob`, also the default: `images [N] + E` to `log_prob [N]`, in nats,
    and `bits_per_dim [N]`;
  - `encode`: `images` to `latents [N] + B`, where `B` is the event shape of the
    base distribution. A `RealNVPChain` also returns `latents_0`, `latents_1`,
    ..., the latents of each scale, finest first;
  - `decode`: `latents` to `images`;
  - `sample`: scalars `number`, `temperature` and `seed` to `images`. The
    deviation of the latents from the mean of the base distribution is
    multiplied by `temperature`. The same seed gives the same images.

  Images are integers on `[0, num_levels)`: uint8 up to 256 levels, int32 up to
  2^31, else int64. `encode`, and `log_prob` without `num_draws`, compute with
  the middle of each bin, `images + 1 / 2`; `decode` and `sample` round down. So
  `decode` undoes `encode` if the flow's rounding errors are below half a level.
  With `num_draws = K`, `log_prob` is

      log(1 / K sum_k p(images + u_k)),

  a tighter bound on the log-likelihood of the integers than one draw gives. The
  noise `u_k` is drawn at export and is the same for every image. With
  `num_levels=None`, data is continuous: it is named `x` instead of `images`,
  has the dtype of the distribution and is used as it is.

  Batch normalization uses the moving statistics at the time of export. The
  SavedModel raises `tf.errors.InvalidArgumentError` for requests of other
  shapes, outside the range, or with NaN or infinity.

  #### Examples

  ```python
  path = export_saved_model(dist, 'models/real_nvp/1')
  model = tf.saved_model.load(path)
  model.signatures['log_prob'](images=images)['bits_per_dim']
  ```

  Args:
    distribution: `tfd.TransformedDistribution` without batch dimensions and
      with a fully known event shape. Its base distribution must have a finite
      mean and a fully known event shape, which may differ from the data's.
    path: Directory to write, which must be empty or not exist; for TensorFlow
      Serving `<base>/<version>`. The model is written beside it and renamed, so
      an error leaves no part of a model there.
    num_levels: `int`, how many values an integer pixel can take; `None` for
      continuous data. At most 2^21 with a float32 distribution, 2^50 with a
      float64 one.
    num_draws: `int`, how many draws of dequantization noise `log_prob`
      averages; each takes a pass through the flow. `None` uses the middle.
    seed: `int`, seed of that noise; 0 by default.
    condition_size: `int`, size `K` of the condition of a conditional flow.
      Every signature then takes `condition [N, K]`; `sample` takes it instead
      of `number` and draws one event for each row.
    max_samples: `int`, the most events that one request to `sample` may draw.

  Returns:
    `path`.

  Raises:
    TypeError: If `distribution` is not a `tfd.TransformedDistribution`.
    ValueError: If an argument is out of range, or `path` is not empty.
  """
  _check_distribution(distribution)
  for name, value in (
    ('num_levels', num_levels),
    ('num_draws', num_draws),
    ('condition_size', condition_size),
    ('max_samples', max_samples),
  ):
    util.check_int(value, name, optional=name != 'max_samples')
  takes_condition = 'condition' in composition.takes(distribution.bijector)
  if condition_size is not None and not takes_condition:
    raise ValueError(
      f'`condition_size` is for conditional flows only, got {condition_size} '
      f'with {distribution.bijector!r}.'
    )
  if num_levels is None and num_draws is not None:
    raise ValueError(
      f'`num_draws` is for pixels only, got {num_draws} with `num_levels` None.'
    )
  if num_draws is None and seed is not None:
    raise ValueError(f'`seed` is for `num_draws` only, got {seed!r} without.')
  if max_samples > tf.int32.max:
    raise ValueError(f'`max_samples` must fit int32, got {max_samples}.')
  target = os.path.abspath(path)
  if os.path.lexists(target) and not (
    os.path.isdir(target) and not os.listdir(target)
  ):
    raise ValueError(
      f'`path` must not exist or be an empty directory, got {path!r}.'
    )
  noise = None
  if num_draws is not None:
    noise = tf.Variable(
      tf.random.stateless_uniform(
        [num_draws, *distribution.event_shape],
        util.stateless_seed(0 if seed is None else seed),
        dtype=distribution.dtype,
      ),
      trainable=False,
      name='noise',
    )
  signatures = _Signatures(distribution, num_levels, noise, max_samples)
  module = tf.Module()
  module.weights = [*distribution.variables]
  module.weights += [] if noise is None else [noise]
  _write(module, target, signatures.traced(condition_size))
  return path


def _check_distribution(distribution):
  """Raises unless `distribution` can be exported."""
  likelihood.check_distribution(distribution)
  # TFP makes instances of a private base class of `TransformedDistribution`.
  if not all(hasattr(distribution, a) for a in ('distribution', 'bijector')):
    raise TypeError(
      '`distribution` must be a tfd.TransformedDistribution, got '
      f'{distribution!r}.'
    )
  base = distribution.distribution
  likelihood.check_event_shape(base, 'the base of `distribution`')
  mean = base.mean().numpy()
  if not np.all(np.isfinite(mean)):
    raise ValueError(
      'the base of `distribution` must have a finite mean, got '
      f'{base!r} with {mean}.'
    )


def _write(module, target, signatures):
  """Writes a SavedModel, all of it or nothing."""
  parent, name = os.path.split(target)
  os.makedirs(parent, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{name}-', dir=parent) as temporary:
    # A subdirectory, because other users cannot read a temporary directory.
    written = os.path.join(temporary, 'model')
    tf.saved_model.save(module, written, signatures)
    os.rename(written, target)


class _Signatures:
  """The functions of the SavedModel, from named tensors to named tensors."""

  def __init__(self, distribution, num_levels, noise, max_samples):
    self._distribution = distribution
    self._likelihood = likelihood.Likelihood(distribution, num_levels)
    self._num_levels = num_levels
    self._noise = noise
    self._max_samples = max_samples
    self._data_name = 'x' if num_levels is None else 'images'
    self._data_dtype = distribution.dtype
    if num_levels is not None:
      dtypes = (tf.uint8, tf.int32, tf.int64)
      self._data_dtype = next(d for d in dtypes if num_levels - 1 <= d.max)

  def traced(self, condition_size: int | None) -> dict[str, Callable]:
    """Returns the concrete function of every signature, by name."""
    events = [None, *self._distribution.event_shape]
    latents = [None, *self._distribution.distribution.event_shape]
    dtype = self._distribution.dtype
    data = {self._data_name: tf.TensorSpec(events, self._data_dtype)}
    condition, number = {}, {'number': tf.TensorSpec([], tf.int32)}
    if condition_size is not None:
      condition = {'condition': tf.TensorSpec([None, condition_size], dtype)}
      number = {}
    draw = {
      'temperature': tf.TensorSpec([], dtype),
      'seed': tf.TensorSpec([], tf.int32),
    }
    result = {}
    for function, specs in (
      (self.log_prob, data),
      (self.encode, data),
      (self.decode, {'latents': tf.TensorSpec(latents, dtype)}),
      (self.sample, number | draw),
    ):
      specs = specs | condition
      traced = tf.function(self._checked(function, specs), autograph=False)
      result[function.__name__] = traced.get_concrete_function(**specs)
    return result | {'serving_default': result['log_prob']}

  def log_prob(
    self, condition: tf.Tensor | None = None, **data: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    (x,) = data.values()
    if self._noise is None:
      result = self._log_prob(x, 0.5, condition)
    else:
      result = self._mean_log_prob(x, condition)
    bits_per_dim = pixels.bits_per_dim(result, self._distribution.event_shape)
    return {'log_prob': result, 'bits_per_dim': bits_per_dim}

  def encode(
    self, condition: tf.Tensor | None = None, **data: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    (x,) = data.values()
    bijector = self._distribution.bijector
    latents = bijector.inverse(
      self._likelihood.dequantize(x, 0.5), **self._bijector_kwargs(condition)
    )
    result = {'latents': latents}
    if isinstance(bijector, real_nvp_chain.RealNVPChain):
      for i, latent in enumerate(bijector.split_latents(latents)):
        result[f'latents_{i}'] = latent
    return result

  def decode(
    self, latents: tf.Tensor, condition: tf.Tensor | None = None
  ) -> dict[str, tf.Tensor]:
    x = self._distribution.bijector.forward(
      latents, **self._bijector_kwargs(condition)
    )
    message = f'`latents` must be of finite `{self._data_name}`'
    x = _check(x, tf.math.is_finite(x), message)
    if self._num_levels is not None:
      x = tf.clip_by_value(tf.floor(x), 0, self._num_levels - 1)
    return {self._data_name: tf.cast(x, self._data_dtype)}

  def sample(
    self,
    temperature: tf.Tensor,
    seed: tf.Tensor,
    number: tf.Tensor | None = None,
    condition: tf.Tensor | None = None,
  ) -> dict[str, tf.Tensor]:
    name = '`number`'
    if number is None:
      name, number = 'the rows of `condition`', tf.shape(condition)[0]
    number = _check(
      number,
      (number >= 0) & (number <= self._max_samples),
      f'{name} must be on [0, {self._max_samples}]',
    )
    temperature = _check(
      temperature, temperature >= 0, '`temperature` must be at least 0'
    )
    base = self._distribution.distribution
    latents = base.sample(number, seed=tf.stack([0, seed]))
    mean = base.mean()
    return self.decode(mean + temperature * (latents - mean), condition)

  def _checked(self, function, specs):
    """Returns `function` with checks of its inputs against `specs`.

    Neither a loaded signature nor TensorFlow Serving checks sizes.
    """

    def checked(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
      for name, value in inputs.items():
        value = tf.ensure_shape(value, specs[name].shape)
        if value.dtype.is_floating:
          finite = tf.math.is_finite(value)
          value = _check(value, finite, f'`{name}` must be finite')
        elif name == 'images' and self._num_levels != 256:  # All of uint8.
          on_range = pixels.is_on_range(value, self._num_levels)
          message = f'`images` must be on [0, {self._num_levels})'
          value = _check(value, on_range, message)
        inputs[name] = value
      rows = [tf.shape(inputs[n])[0] for n in specs if specs[n].shape.rank]
      if len(rows) == 2:
        inputs['condition'] = _assert(
          inputs['condition'],
          rows[0] == rows[1],
          '`condition` must have one row for each event; events and rows are',
          rows,
        )
      return function(**inputs)

    return checked

  def _bijector_kwargs(self, condition: tf.Tensor | None) -> dict[str, Any]:
    given = {} if condition is None else {'condition': condition}
    return composition.nested_kwargs(self._distribution.bijector, **given)

  def _mean_log_prob(self, x, condition):
    """Returns the logarithm of the mean density over the draws of noise."""
    noise = tf.convert_to_tensor(self._noise)

    def add(k, total):
      log_prob = self._log_prob(x, tf.gather(noise, k), condition)
      return k + 1, tf.reduce_logsumexp([total, log_prob], axis=0)

    start = tf.fill([tf.shape(x)[0]], tf.constant(-math.inf, noise.dtype))
    _, total = tf.while_loop(
      lambda k, _: k < noise.shape[0],
      add,
      [0, start],
      parallel_iterations=1,  # Draws in parallel would multiply the memory.
    )
    return total - math.log(noise.shape[0])

  def _log_prob(self, x, noise, condition):
    x = self._likelihood.dequantize(x, noise)
    base, kwargs = self._distribution.distribution, {}
    if condition is not None:
      kwargs['condition'] = condition
    if not hasattr(base, 'sample_shape') or base.batch_shape.rank != 0:
      kwargs = likelihood.log_prob_kwargs(self._distribution, **kwargs)
      return self._distribution.log_prob(x, **kwargs)
    # The log_prob of `tfd.Sample` broadcasts by an op that ONNX does not have.
    bijector, ndims = self._distribution.bijector, x.shape.rank - 1
    kwargs = self._bijector_kwargs(condition)
    latents = bijector.inverse(x, **kwargs)
    ildj = bijector.inverse_log_det_jacobian(x, ndims, **kwargs)
    independent = base.distribution.log_prob(latents)  # [N] + sample_shape
    axes = list(range(1, independent.shape.rank))
    return tf.reduce_sum(independent, axes) + ildj


def _check(value, valid, message):
  """Returns `value`, after a check at run time that all of it is `valid`."""
  offending = tf.boolean_mask(tf.reshape(value, [-1]), tf.reshape(~valid, [-1]))
  return _assert(value, tf.reduce_all(valid), f'{message}, got', offending)


def _assert(value, holds, message, shown):
  # The result depends on the check, so nothing is computed from a bad value.
  with tf.control_dependencies([tf.debugging.Assert(holds, [message, shown])]):
    return tf.identity(value)
