"""The models that the programs beside this module train and use."""

import dataclasses
import json
import os

import image_data
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import checkpoints

tfb = tfp.bijectors
tfd = tfp.distributions

# The flags of training that say what a model is: a run cannot change them.
ARCHITECTURE = (
  'dataset',
  'image_size',
  'conditional',
  'prior',
  'num_scales',
  'num_blocks',
  'hidden_channels',
  'lagged_batch_norm',
)


def build_distribution(
  dataset,
  image_size=64,
  conditional=False,
  prior='standard',
  num_scales=None,
  num_blocks=None,
  hidden_channels=None,
  lagged_batch_norm=None,
  **kwargs,
):
  """Returns Real NVP on the images of a data set, and its preset.

  Args:
    dataset: One of `image_data.NAMES`.
    image_size: `int`, side of the images of a folder.
    conditional: Whether the flow has the condition that the preset names.
    prior: Key of `PRIORS`.
    num_scales: See `tfp_realnvp.RealNVPChain`; `None` for the preset's.
    num_blocks: The same.
    hidden_channels: The same.
    lagged_batch_norm: The same.
    **kwargs: Others of `RealNVPChain`.

  Returns:
    distribution: `tfd.TransformedDistribution`.
    preset: `tfp_realnvp.Preset`, with what was asked for.
  """
  changes = {
    'num_scales': num_scales,
    'num_blocks': num_blocks,
    'hidden_channels': hidden_channels,
    'lagged_batch_norm': lagged_batch_norm,
  }
  preset = dataclasses.replace(
    image_data.preset(dataset, image_size),
    **{name: value for name, value in changes.items() if value is not None},
  )
  if conditional:
    kwargs['condition_size'] = preset.condition_size
  distribution = preset.distribution(**kwargs)
  base = PRIORS[prior](distribution.bijector, preset.image_shape)
  distribution = tfd.TransformedDistribution(
    base, distribution.bijector, validate_args=distribution.validate_args
  )
  return distribution, preset


def standard_prior(flow, image_shape):
  """Returns the standard normal distribution of latents."""
  zero, one = tf.zeros([], flow.dtype), tf.ones([], flow.dtype)
  return tfd.Sample(tfd.Normal(zero, one), sample_shape=image_shape)


def learned_prior(flow, image_shape):
  """Returns a normal distribution of latents that is learned with the flow.

  It has a location and a scale for each channel of the latents of each scale.

  Args:
    flow: `RealNVPChain`.
    image_shape: `(H, W, C)`.
  """
  shapes = [
    z.shape for z in flow.split_latents(tf.zeros(image_shape, flow.dtype))
  ]
  channels = [shape[-1] for shape in shapes]

  def place(values):
    """Gives each latent the value of its channel."""
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


def bijector_kwargs(condition):
  """Returns what a distribution's methods take for a condition, or `None`."""
  if condition is None:
    return {}
  return {'bijector_kwargs': {'condition': condition}}


def load_trained(model_dir):
  """Returns what `train.py` left in a directory.

  Args:
    model_dir: `pathlib.Path`, the program's --model_dir.

  Returns:
    distribution: With the weights of the end of training, or of its newest
      checkpoint.
    preset: `tfp_realnvp.Preset`.
    flags: The flags that say what the model is, as a dict.
  """
  try:
    flags = json.loads((model_dir / 'flags.json').read_text())
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} holds no training run: {error}'
    ) from error
  with checkpoints.without_wildcards(model_dir) as directory:
    path = tf.train.latest_checkpoint(
      os.path.join(directory, 'final')
    ) or tf.train.latest_checkpoint(directory)
    if path is None:
      raise SystemExit(f'--model_dir={model_dir} holds no checkpoint.')
    distribution, preset = build_distribution(**flags)
    checkpoint = tf.train.Checkpoint(distribution=distribution)
    checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
  return distribution, preset, flags
