"""Export of a distribution as a SavedModel, for serving."""

import math
import os
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import pixels
from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import real_nvp_chain

tfd = tfp.distributions

__all__ = ['export_saved_model']


def export_saved_model(
  distribution,
  path,
  num_levels=256,
  num_draws=None,
  seed=None,
  condition_size=None,
  max_samples=1024,
):
  """Writes a SavedModel that answers requests with TensorFlow alone.

  Its signatures, for events of shape `E`, such as `[H, W, C]`, and any `N`:

  - `log_prob`, also the default: `images [N] + E` to `log_prob [N]`, in nats,
    and `bits_per_dim [N]`;
  - `encode`: `images` to `latents [N] + B`, where `B` is the event shape of the
    base distribution, and for a `RealNVPChain` to `latents_0`, `latents_1`, ...
    of each scale too, finest first;
  - `decode`: `latents` to `images`;
  - `sample`: scalars `number`, `temperature` and `seed` to `images`. What a
    latent deviates from the mean of the base distribution is multiplied by
    `temperature`. The same seed gives the same images.

  Images are integers on `[0, num_levels)`: uint8 up to 256 levels, int32 up to
  2^31, else int64.
  `encode`, and `log_prob` without `num_draws`, take them to the middle of their
  bins, `images + 1 / 2`; `decode` and `sample` round down, so that `decode`
  undoes `encode` if the flow's rounding errors are below half a level. With
  `num_draws = K`,

      log_prob = log(1 / K sum_k p(images + u_k)),

  a tighter bound on the log-likelihood of the integers than `log p` of one
  draw; the noise `u_k` is drawn at export and the same for every image. Data
  that is continuous, `num_levels=None`, is called `x` instead of `images`, is
  of the dtype of the distribution and is used as it is.

  Batch normalization uses the moving statistics as they are at export. Requests
  that are not as described here, or hold NaN or infinity, raise
  `tf.errors.InvalidArgumentError`, within the SavedModel.

  #### Examples

  ```python
  path = export_saved_model(dist, 'models/real_nvp/1')
  model = tf.saved_model.load(path)
  model.signatures['log_prob'](images=images)['bits_per_dim']
  ```

  Args:
    distribution: `tfd.TransformedDistribution` without batch dimensions and
      with a fully known event shape. Its base distribution must have a mean and
      a fully known event shape, which may differ from that of the data.
    path: Where to write to, nothing or an empty directory; for TensorFlow
      Serving `<base>/<version>`. It is there as a whole or not at all: it is
      written beside, and renamed.
    num_levels: `int`, how many values an integer pixel can take; `None` for
      data that is continuous. At most 2^21 with a float32 distribution, 2^50
      with a float64 one.
    num_draws: `int`, how many draws of dequantization noise `log_prob` takes
      the mean of, by as many passes; `None` for none.
    seed: `int`, seed of that noise, by default 0.
    condition_size: `int`, size `K` of the condition of a conditional flow.
      Every signature then takes `condition [N, K]` too, `sample` instead of
      `number`: it draws one event for each row.
    max_samples: `int`, the most events that a request to `sample` may draw.

  Returns:
    `path`.

  Raises:
    TypeError: If `distribution` is no `tfd.TransformedDistribution`.
    ValueError: If an argument is out of range or `path` holds something.
  """
  # `tfd.TransformedDistribution` makes objects of classes that are private.
  if not isinstance(distribution, tfd.Distribution) or not all(
    hasattr(distribution, part) for part in ('distribution', 'bijector')
  ):
    raise TypeError(
      '`distribution` must be a tfd.TransformedDistribution, got '
      f'{distribution!r}.'
    )
  base = distribution.distribution
  for owner, shape in (
    ('`distribution`', distribution.event_shape),
    ('the base of `distribution`', base.event_shape),
  ):
    if not isinstance(shape, tf.TensorShape) or not shape.is_fully_defined():
      raise ValueError(
        f'{owner} must have a fully known event shape of one tensor, got '
        f'{shape}.'
      )
  if distribution.batch_shape.rank != 0:
    raise ValueError(
      '`distribution` must have no batch dimensions, got batch shape '
      f'{distribution.batch_shape}.'
    )
  for name, value in (
    ('num_levels', num_levels),
    ('num_draws', num_draws),
    ('condition_size', condition_size),
    ('max_samples', max_samples),
  ):
    util.check_int(value, name, optional=name != 'max_samples')
  takes = composition.takes(distribution.bijector)
  if condition_size is not None and 'condition' not in takes:
    raise ValueError(
      f'`condition_size` is for conditional flows only, got {condition_size} '
      f'with {distribution.bijector!r}.'
    )
  if num_levels is not None:
    pixels.check_num_levels(num_levels, distribution.dtype)
  elif num_draws is not None:
    raise ValueError(
      f'`num_draws` is for pixels only, got {num_draws} with `num_levels` None.'
    )
  if num_draws is None and seed is not None:
    raise ValueError(f'`seed` is for `num_draws` only, got {seed!r} without.')
  if max_samples > tf.int32.max:
    raise ValueError(f'`max_samples` must fit int32, got {max_samples}.')
  mean = base.mean().numpy()
  if not np.all(np.isfinite(mean)):
    raise ValueError(
      'the base of `distribution` must have a finite mean, got '
      f'{base!r} with {mean}.'
    )
  target = os.path.abspath(path)
  if os.path.lexists(target) and not (
    os.path.isdir(target) and not os.listdir(target)
  ):
    raise ValueError(
      f'`path` must not exist or be an empty directory, got {path!r}.'
    )

  server = _Server(
    distribution, num_levels, num_draws, seed, condition_size, max_samples
  )
  signatures = server.signatures()
  module = tf.Module()
  module.weights = [
    *distribution.variables,
    *([] if num_draws is None else [server.noise]),
  ]
  parent, name = os.path.split(target)
  os.makedirs(parent, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{name}-', dir=parent) as temporary:
    # Within, for the temporary directory itself is closed to other users.
    whole = os.path.join(temporary, 'model')
    tf.saved_model.save(module, whole, signatures)
    os.rename(whole, target)
  return path


class _Server:
  """What the signatures compute: from named tensors to named tensors."""

  def __init__(
    self, distribution, num_levels, num_draws, seed, condition_size, max_samples
  ):
    self._distribution = distribution
    self._num_levels = num_levels
    self._condition_size = condition_size
    self._max_samples = max_samples
    self._data_name = 'x' if num_levels is None else 'images'
    if num_levels is None:
      self._data_dtype = distribution.dtype
    else:
      dtypes = (tf.uint8, tf.int32, tf.int64)
      self._data_dtype = next(d for d in dtypes if num_levels - 1 <= d.max)
    self.noise = num_draws and tf.Variable(
      tf.random.stateless_uniform(
        [num_draws, *distribution.event_shape],
        util.stateless_seed(0 if seed is None else seed),
        dtype=distribution.dtype,
      ),
      trainable=False,
      name='noise',
    )

  def signatures(self):
    """Traces every signature once; returns them by name."""
    events = [None, *self._distribution.event_shape]
    latents = [None, *self._distribution.distribution.event_shape]
    dtype = self._distribution.dtype
    data = {self._data_name: tf.TensorSpec(events, self._data_dtype)}
    condition, number = {}, {'number': tf.TensorSpec([], tf.int32)}
    if self._condition_size is not None:
      spec = tf.TensorSpec([None, self._condition_size], dtype)
      condition, number = {'condition': spec}, {}
    result = {}
    for function, specs in (
      (self.log_prob, data),
      (self.encode, data),
      (self.decode, {'latents': tf.TensorSpec(latents, dtype)}),
      (
        self.sample,
        number
        | {
          'temperature': tf.TensorSpec([], dtype),
          'seed': tf.TensorSpec([], tf.int32),
        },
      ),
    ):
      specs = specs | condition
      traced = tf.function(self._checked(function, specs), autograph=False)
      result[function.__name__] = traced.get_concrete_function(**specs)
    return result | {'serving_default': result['log_prob']}

  def log_prob(self, condition=None, **data):
    kwargs = self._bijector_kwargs(condition)
    (x,) = data.values()
    if self.noise is None:
      result = self._log_prob(self._dequantize(x, 0.5), kwargs)
    else:
      noise = tf.convert_to_tensor(self.noise)

      def add(k, total):
        log_prob = self._log_prob(
          self._dequantize(x, tf.gather(noise, k)), kwargs
        )
        return k + 1, tf.reduce_logsumexp([total, log_prob], axis=0)

      start = tf.fill([tf.shape(x)[0]], tf.constant(-math.inf, noise.dtype))
      _, total = tf.while_loop(
        lambda k, _: k < noise.shape[0],
        add,
        [0, start],
        parallel_iterations=1,  # The memory of one.
      )
      result = total - math.log(noise.shape[0])
    bits_per_dim = pixels.bits_per_dim(result, self._distribution.event_shape)
    return {'log_prob': result, 'bits_per_dim': bits_per_dim}

  def encode(self, condition=None, **data):
    (x,) = data.values()
    bijector = self._distribution.bijector
    latents = bijector.inverse(
      self._dequantize(x, 0.5), **self._bijector_kwargs(condition)
    )
    result = {'latents': latents}
    if isinstance(bijector, real_nvp_chain.RealNVPChain):
      for i, latent in enumerate(bijector.split_latents(latents)):
        result[f'latents_{i}'] = latent
    return result

  def decode(self, latents, condition=None):
    x = self._distribution.bijector.forward(
      latents, **self._bijector_kwargs(condition)
    )
    message = f'`latents` must be of finite `{self._data_name}`'
    x = _check(x, tf.math.is_finite(x), message)
    if self._num_levels is not None:
      x = tf.clip_by_value(tf.floor(x), 0, self._num_levels - 1)
    return {self._data_name: tf.cast(x, self._data_dtype)}

  def sample(self, temperature, seed, number=None, condition=None):
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
    """`function` of inputs that hold to `specs` at run time too.

    Neither a loaded signature nor TensorFlow Serving holds sizes against them.
    """

    def checked(**inputs):
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

  def _bijector_kwargs(self, condition):
    given = {} if condition is None else {'condition': condition}
    return composition.nested_kwargs(self._distribution.bijector, **given)

  def _log_prob(self, x, kwargs):
    base = self._distribution.distribution
    if not hasattr(base, 'sample_shape') or base.batch_shape.rank != 0:
      given = {'bijector_kwargs': kwargs} if kwargs else {}
      return self._distribution.log_prob(x, **given)
    # `tfd.Sample` broadcasts, though there is nothing to, by an op that ONNX
    # lacks.
    bijector, ndims = self._distribution.bijector, x.shape.rank - 1
    latents = bijector.inverse(x, **kwargs)
    ildj = bijector.inverse_log_det_jacobian(x, ndims, **kwargs)
    independent = base.distribution.log_prob(latents)  # [N] + sample_shape
    axes = list(range(1, independent.shape.rank))
    return tf.reduce_sum(independent, axes) + ildj

  def _dequantize(self, x, noise):
    if self._num_levels is None:
      return x
    noise = tf.convert_to_tensor(noise, self._distribution.dtype)
    return pixels.dequantize(x, noise, self._num_levels)


def _check(value, valid, message):
  """Returns `value`, after a check at run time that all of it is `valid`."""
  offending = tf.boolean_mask(tf.reshape(value, [-1]), tf.reshape(~valid, [-1]))
  return _assert(value, tf.reduce_all(valid), f'{message}, got', offending)


def _assert(value, holds, message, shown):
  # The value depends on the check: nothing is computed from a bad one.
  with tf.control_dependencies([tf.debugging.Assert(holds, [message, shown])]):
    return tf.identity(value)
