"""Export of a distribution as a SavedModel, for serving."""

from collections.abc import Callable
import os
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import signatures
from tfp_realnvp import util
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import logit_transform
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
    num_levels: `int`, how many values an integer pixel can take, as in the
      LogitTransform; `None` for continuous data, such as vectors. At most 2^21
      with a float32 distribution, 2^50 with a float64 one.
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
    ValueError: If an argument is out of range or does not fit the flow, or
      `path` is not empty.
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
  functions = signatures.Signatures(
    distribution, num_levels, noise, max_samples
  )
  traced = functions.traced(condition_size)
  _check_num_levels(distribution, num_levels)
  module = tf.Module()
  module.weights = [*distribution.variables]
  module.weights += [] if noise is None else [noise]
  _write(module, target, traced)
  return path


def _check_distribution(distribution: tfd.Distribution) -> None:
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


def _check_num_levels(
  distribution: tfd.Distribution, num_levels: int | None
) -> None:
  """Raises if the flow shows that its data are not pixels of `num_levels`."""
  modules = distribution.submodules
  expected = {
    module.num_levels
    for module in modules
    if isinstance(module, logit_transform.LogitTransform)
  }
  if num_levels is None or num_levels in expected:
    return
  if expected:
    raise ValueError(
      f'`num_levels` must be that of the LogitTransform, {min(expected)}, got '
      f'{num_levels}.'
    )
  if distribution.event_shape.rank == 1 and any(
    isinstance(module, real_nvp_chain.RealNVPChain) for module in modules
  ):
    raise ValueError(
      '`num_levels` must be None for flows of vectors without a '
      f'LogitTransform, got {num_levels}.'
    )


def _write(
  module: tf.Module, target: str, signatures: dict[str, Callable]
) -> None:
  """Writes a SavedModel, all of it or nothing."""
  parent, name = os.path.split(target)
  os.makedirs(parent, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{name}-', dir=parent) as temporary:
    # A subdirectory, because other users cannot read a temporary directory.
    written = os.path.join(temporary, 'model')
    tf.saved_model.save(module, written, signatures)
    os.rename(written, target)
