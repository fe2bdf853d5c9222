"""Builds distributions and compiled estimators from presets."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import model_dirs
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.paper import presets
from tfp_realnvp.training import checkpoint_files
from tfp_realnvp.training import density_estimator

tfb = tfp.bijectors
tfd = tfp.distributions

__all__ = [
  'ARCHITECTURE',
  'PRIORS',
  'bijector_kwargs',
  'build_distribution',
  'build_estimator',
  'load_trained',
  'preset_of_flags',
  'vary',
]

# Flags of `train.py` that determine the model. Resuming cannot change them.
ARCHITECTURE = (
  'dataset',
  'image_size',
  'grayscale',
  'conditional',
  'prior',
  'num_scales',
  'num_blocks',
  'hidden_channels',
  'lagged_batch_norm',
)


def vary(preset: presets.Preset, **changes: Any) -> presets.Preset:
  """Returns a copy of a preset with other values.

  Args:
    preset: `Preset`.
    **changes: New values of fields of `Preset` or of its `data`, `training` or
      `networks`; `momentum` and `synchronized` of the batch normalization of
      the flow and of its networks; `lagged_batch_norm`, for the flow only.
      Values of `None` change nothing.
  """
  changes = {name: v for name, v in changes.items() if v is not None}
  lagged = changes.pop('lagged_batch_norm', None)
  norm = _pop_fields(changes, moving_statistics.BatchNormOptions)
  own = _pop_fields(changes, presets.Preset)
  parts = {
    'data': _pop_fields(changes, presets.DataOptions),
    'training': _pop_fields(changes, presets.TrainingOptions),
    'networks': changes,
  }
  if norm:
    changes['batch_norm'] = dataclasses.replace(
      preset.networks.batch_norm, **norm
    )
  if lagged is not None:
    norm['lagged'] = lagged
  parts['batch_norm'] = norm
  for name, options in parts.items():
    if options:
      own[name] = dataclasses.replace(getattr(preset, name), **options)
  return dataclasses.replace(preset, **own)


def _pop_fields(changes: dict[str, Any], kind: type) -> dict[str, Any]:
  """Removes the fields of a dataclass from `changes` and returns them."""
  names = {field.name for field in dataclasses.fields(kind)} & set(changes)
  return {name: changes.pop(name) for name in names}


def build_distribution(
  preset: presets.Preset,
  conditional: bool = False,
  prior: str = 'standard',
  **kwargs: Any,
) -> tfd.Distribution:
  """Builds the distribution of images of a preset, with initial weights.

  Args:
    preset: `Preset`.
    conditional: Whether the flow is conditioned on `condition_feature`.
    prior: Key of `PRIORS`.
    **kwargs: Arguments of `Preset.flow`.

  Returns:
    `tfd.TransformedDistribution`.
  """
  if conditional:
    kwargs['condition_size'] = preset.data.condition_size
  flow = preset.flow(**kwargs)
  base = PRIORS[prior](flow, preset.image_shape)
  return tfd.TransformedDistribution(
    base, flow, validate_args=flow.validate_args
  )


def build_estimator(
  preset: presets.Preset,
  distribution: tfd.Distribution,
  jit_compile: bool = False,
  seed: int | None = None,
  ema_momentum: float | None = None,
) -> density_estimator.DensityEstimator:
  """Builds and compiles the Keras model of a distribution (section 4.1).

  The optimizer is Adam with the defaults of Kingma and Ba (2015), with gradient
  clipping by global norm, L2 regularization of the scale parameters, and loss
  scaling if the networks compute in float16.

  Args:
    preset: `Preset`.
    distribution: Distribution that `build_distribution` returned for `preset`.
    jit_compile: Whether to compile the steps with XLA.
    seed: Seed of the dequantization noise.
    ema_momentum: Momentum of moving averages of the weights, in [0, 1); `None`
      for no averages.

  Raises:
    ValueError: If `ema_momentum` is out of range.
  """
  use_ema = ema_momentum is not None
  if use_ema and not 0 <= ema_momentum < 1:
    raise ValueError(f'`ema_momentum` must be in [0, 1), got {ema_momentum!r}.')
  model = density_estimator.DensityEstimator(
    distribution,
    num_levels=preset.num_levels,
    l2_coefficient=preset.training.l2_coefficient,
    l2_variables=distribution.bijector.scale_parameters,
    seed=seed,
  )
  optimizer = keras.optimizers.Adam(
    preset.training.learning_rate,
    epsilon=1e-8,
    global_clipnorm=preset.training.clip_norm or None,
    use_ema=use_ema,
    ema_momentum=ema_momentum if use_ema else 0.99,
  )
  compute_dtype = getattr(preset.networks, 'compute_dtype', None)
  if compute_dtype is not None and tf.as_dtype(compute_dtype) == tf.float16:
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
  model.compile(optimizer, jit_compile=jit_compile)
  return model


def standard_prior(
  flow: real_nvp_chain.RealNVPChain, image_shape: tuple[int, int, int]
) -> tfd.Distribution:
  """Returns a standard normal distribution of latents."""
  zero, one = tf.zeros([], flow.dtype), tf.ones([], flow.dtype)
  return tfd.Sample(tfd.Normal(zero, one), sample_shape=image_shape)


def learned_prior(
  flow: real_nvp_chain.RealNVPChain, image_shape: tuple[int, int, int]
) -> tfd.Distribution:
  """Returns a normal distribution of latents with learned parameters.

  Each channel of the latents of each scale of the flow has a mean and a
  standard deviation.

  Args:
    flow: `RealNVPChain`.
    image_shape: `(H, W, C)`.
  """
  shapes = [
    z.shape for z in flow.split_latents(tf.zeros(image_shape, flow.dtype))
  ]
  channels = [shape[-1] for shape in shapes]

  def place(values: tf.Tensor) -> tf.Tensor:
    """Broadcasts values of channels to the shape of the latents."""
    values = tf.split(values, channels)
    return flow.merge_latents(
      [tf.broadcast_to(v, shape) for v, shape in zip(values, shapes)]
    )

  loc = tf.Variable(tf.zeros(sum(channels), flow.dtype), name='loc')
  scale = tfp.util.TransformedVariable(
    tf.ones(sum(channels), flow.dtype), tfb.Softplus(), name='scale'
  )
  loc, scale = (
    tfp.util.DeferredTensor(variable, place, shape=image_shape)
    for variable in (loc, scale)
  )
  return tfd.Independent(tfd.Normal(loc, scale), reinterpreted_batch_ndims=3)


PRIORS = {'standard': standard_prior, 'learned': learned_prior}


def bijector_kwargs(condition: Any) -> dict[str, Any]:
  """Returns keyword arguments that pass a condition to a distribution.

  Args:
    condition: `[..., K]`, or `None` for an unconditional flow.
  """
  if condition is None:
    return {}
  return {'bijector_kwargs': {'condition': condition}}


def preset_of_flags(
  dataset: str,
  image_size: int = 64,
  conditional: bool = False,
  prior: str = 'standard',
  grayscale: bool = False,
  **changes: Any,
) -> presets.Preset:
  """Returns the preset for the `ARCHITECTURE` flags of `train.py`.

  Args:
    dataset: Name of a preset.
    image_size: See `presets.preset`.
    conditional: Not used, see `build_distribution`.
    prior: Not used, see `build_distribution`.
    grayscale: Whether the images have one channel, for 'folder' only.
    **changes: See `vary`.
  """
  del conditional, prior
  if grayscale:
    changes['image_shape'] = (image_size, image_size, 1)
  return vary(presets.preset(dataset, image_size), **changes)


def load_trained(
  model_dir: str | os.PathLike[str],
) -> tuple[tfd.Distribution, presets.Preset, dict[str, Any]]:
  """Loads a model that `train.py` trained.

  Args:
    model_dir: The --model_dir of the run.

  Returns:
    The distribution, the `Preset` of the run, and a dict of the `ARCHITECTURE`
    flags of the run and of `data_dir`. The distribution is the final one; that
    of the best evaluation if training has not ended; or that of the newest
    checkpoint if there was no evaluation.

  Raises:
    SystemExit: If there is no run or no checkpoint in `model_dir`, or its files
      are damaged.
  """
  model_dir = pathlib.Path(model_dir)
  try:
    text = (model_dir / 'flags.json').read_bytes()
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} holds no training run: {error}'
    ) from error
  with model_dirs.exit_if_damaged(model_dir / 'flags.json'):
    flags = json.loads(text)
    architecture = {k: v for k, v in flags.items() if k in ARCHITECTURE}
    preset = preset_of_flags(**architecture)
    distribution = build_distribution(
      preset, flags.get('conditional', False), flags.get('prior', 'standard')
    )
  with checkpoint_files.without_wildcards(model_dir) as directory:
    for name in ('final', 'best', ''):
      path = tf.train.latest_checkpoint(os.path.join(directory, name))
      if path is not None:
        break
    else:
      raise SystemExit(f'--model_dir={model_dir} holds no checkpoint.')
    with model_dirs.exit_if_damaged(model_dir / name / os.path.basename(path)):
      status = tf.train.Checkpoint(distribution=distribution).restore(path)
      status.expect_partial().assert_existing_objects_matched()
  return (
    distribution,
    preset,
    {'data_dir': flags.get('data_dir')} | architecture,
  )
