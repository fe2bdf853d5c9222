"""The signatures of a SavedModel that serves a distribution."""

from collections.abc import Callable
import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import pixels
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.training import likelihood

tfd = tfp.distributions

__all__ = ['Signatures']


class Signatures:
  """Functions from named tensors to named tensors, which check their inputs."""

  def __init__(
    self,
    distribution: tfd.Distribution,
    num_levels: int | None,
    noise: tf.Variable | None,
    max_samples: int,
  ):
    """Initializes Signatures.

    Args:
      distribution: See `export_saved_model`.
      num_levels: See `export_saved_model`.
      noise: `[num_draws] + event_shape`, the dequantization noise that
        `log_prob` averages over; `None` for the middle of the bins.
      max_samples: See `export_saved_model`.
    """
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
    """Returns the concrete function of every signature, by name.

    Args:
      condition_size: Size of the condition, an input of all, or `None`.
    """
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
    """Returns `log_prob` and `bits_per_dim` of data."""
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
    """Returns `latents` of data."""
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
    """Returns the data that `latents` are of."""
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
    """Returns new data."""
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

  def _checked(
    self, function: Callable, specs: dict[str, tf.TensorSpec]
  ) -> Callable:
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

  def _mean_log_prob(
    self, x: tf.Tensor, condition: tf.Tensor | None
  ) -> tf.Tensor:
    """Returns the logarithm of the mean density over the draws of noise."""
    noise = tf.convert_to_tensor(self._noise)

    def add(k: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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

  def _log_prob(
    self, x: tf.Tensor, noise: tf.Tensor | float, condition: tf.Tensor | None
  ) -> tf.Tensor:
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


def _check(value: tf.Tensor, valid: tf.Tensor, message: str) -> tf.Tensor:
  """Returns `value`, after a check at run time that all of it is `valid`."""
  offending = tf.boolean_mask(tf.reshape(value, [-1]), tf.reshape(~valid, [-1]))
  return _assert(value, tf.reduce_all(valid), f'{message}, got', offending)


def _assert(
  value: tf.Tensor, holds: tf.Tensor, message: str, shown: Any
) -> tf.Tensor:
  # The result depends on the check, so nothing is computed from a bad value.
  with tf.control_dependencies([tf.debugging.Assert(holds, [message, shown])]):
    return tf.identity(value)
