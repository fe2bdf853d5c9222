import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment

tfd = tfp.distributions

# From section 4.1 of the paper, by hand: scales, blocks, channels; data set;
# size of the images; crop, smallest side, flips; lagged statistics (appendix
# E); bits/dim (table 1).
_PAPER = {
  'cifar10': (2, 8, 64, 'cifar10', 32, None, None, True, True, 3.49),
  'imagenet32': (
    *(4, 4, 32, 'downsampled_imagenet/32x32', 32),
    *(None, 32, False, False, 4.28),
  ),
  'imagenet64': (
    *(5, 2, 32, 'downsampled_imagenet/64x64', 64),
    *(None, 64, False, False, 3.98),
  ),
  'lsun_bedroom': (
    *(5, 2, 32, 'lsun/bedroom', 64),
    *(None, 96, True, False, 2.72),
  ),
  'lsun_tower': (5, 2, 32, 'lsun/tower', 64, None, 96, True, False, 2.81),
  'lsun_church_outdoor': (
    *(5, 2, 32, 'lsun/church_outdoor', 64),
    *(None, 96, True, False, 3.08),
  ),
  'celeb_a': (5, 2, 32, 'celeb_a', 64, 148, 64, True, False, 3.02),
}


@pytest.mark.parametrize('name', _PAPER)
def test_preset_is_the_papers(name):
  preset = tfp_realnvp.preset(name)
  assert _PAPER[name] == (
    preset.num_scales,
    preset.networks.num_blocks,
    preset.networks.hidden_channels,
    preset.data.tfds_name,
    preset.image_shape[0],
    preset.data.center_crop,
    preset.data.smallest_side,
    preset.data.flip,
    preset.batch_norm.lagged,
    preset.bits_per_dim,
  )
  assert preset.image_shape == (preset.image_shape[0],) * 2 + (3,)
  assert preset.alpha == 0.05
  assert preset.training.batch_size == 64
  assert preset.training.learning_rate == 1e-3
  assert preset.training.l2_coefficient == 5e-5
  assert preset.num_levels == 256
  assert preset.data.test_split == (
    'test' if name == 'cifar10' else 'validation'
  )


# A preset with little to compute.
_SMALL = tfp_realnvp.Preset(
  image_shape=(4, 4, 1),
  num_levels=17,
  num_scales=1,
  networks=tfp_realnvp.ResidualNetworks(
    num_blocks=1, hidden_channels=2, seed=0
  ),
)


@pytest.mark.parametrize('value', [17.0, 300.0, -1.0, np.nan])
def test_validate_args_checks_that_pixels_are_on_range(value):
  x = np.full([2, 4, 4, 1], 3.0, np.float32)
  x[1, 2, 3, 0] = value
  dist = _SMALL.distribution(validate_args=True)
  assert np.isfinite(dist.log_prob(x[:1]))
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r'must be pixels on \[0, 17\)'
  ):
    dist.log_prob(x)


def test_distribution_in_float64():
  dist = _SMALL.distribution(dtype=tf.float64)
  assert dist.dtype == tf.float64
  x = np.random.default_rng(0).uniform(0, 17, [3, 4, 4, 1])
  log_prob = dist.log_prob(x)
  assert log_prob.dtype == tf.float64
  single = _SMALL.distribution()
  for target, source in zip(single.variables, dist.variables):
    target.assign(tf.cast(source, target.dtype))
  np.testing.assert_allclose(
    single.log_prob(x.astype(np.float32)), log_prob, rtol=1e-5
  )
  assert dist.sample(2, seed=1).dtype == tf.float64


def _narrow(preset):
  """A preset with little to compute; FULL_SIZE=1 leaves it as it is."""
  if os.environ.get('FULL_SIZE'):
    return preset
  return experiment.vary(preset, num_blocks=1, hidden_channels=2)


def test_variants_change_the_parts_too():
  preset = experiment.vary(
    tfp_realnvp.preset('cifar10'),
    num_scales=3,
    hidden_channels=5,
    momentum=0.5,
    lagged_batch_norm=False,
    compute_dtype=None,
  )
  assert preset.num_scales == 3
  assert preset.networks == tfp_realnvp.ResidualNetworks(
    num_blocks=8,
    hidden_channels=5,
    batch_norm=tfp_realnvp.BatchNormOptions(momentum=0.5),
  )
  assert preset.batch_norm == tfp_realnvp.BatchNormOptions(momentum=0.5)
  with pytest.raises(TypeError, match='num_blokcs'):
    experiment.vary(preset, num_blokcs=2)


# The others have the architecture of 'imagenet64'.
@pytest.mark.parametrize('name', ['cifar10', 'imagenet32', 'imagenet64'])
def test_preset_builds_and_latents_of_each_scale(name):
  preset = tfp_realnvp.preset(name)
  flow = preset.distribution().bijector
  latents = flow.split_latents(np.zeros(preset.image_shape, np.float32))
  size = np.prod(preset.image_shape)
  assert [np.size(latent) / size for latent in latents] == {
    2: [0.5, 0.5],
    4: [0.5, 0.25, 0.125, 0.125],
    5: [0.5, 0.25, 0.125, 0.0625, 0.0625],
  }[preset.num_scales]
  # "Until the input of the last recursion is a 4 x 4 x c tensor", but for
  # CIFAR-10, which is halved once.
  assert latents[-1].shape[0] == (16 if name == 'cifar10' else 4)
  # Networks of `num_blocks` blocks, and twice the channels at each scale.
  size = sum(np.size(variable) for variable in flow.trainable_variables)
  assert round(size / 1e6) == {2: 20, 4: 46, 5: 96}[preset.num_scales]


def test_mnist_has_images_of_28_by_28_pixels():
  preset = tfp_realnvp.preset('mnist')
  assert preset.image_shape == (28, 28, 1)
  assert preset.data == tfp_realnvp.DataOptions(
    tfds_name='mnist',
    test_split='test',
    condition_feature='label',
    condition_size=10,
  )
  flow = preset.flow()
  assert flow.bijectors[0].alpha == 1e-6
  latents = flow.split_latents(np.zeros(preset.image_shape))
  # Of 28 by 28 pixels, 14 by 14 and 7 by 7: half, a quarter, and the rest.
  assert [np.size(z) for z in latents] == [392, 196, 196]
  assert [z.shape[0] for z in latents] == [14, 7, 7]


def test_models_of_lsun_differ_in_their_data_alone():
  bedroom = tfp_realnvp.preset('lsun_bedroom')
  for name in ('lsun_tower', 'lsun_church_outdoor'):
    preset = tfp_realnvp.preset(name)
    data = dataclasses.replace(preset.data, tfds_name='lsun/bedroom')
    assert bedroom == dataclasses.replace(
      preset, data=data, bits_per_dim=bedroom.bits_per_dim
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  ['cifar10', 'imagenet32', 'imagenet64', 'lsun_bedroom', 'celeb_a', 'mnist'],
)
def test_preset_trains_and_evaluates_on_its_own_data_set(name, monkeypatch):
  monkeypatch.setattr(image_data, '_responds', lambda url: True)
  preset = _narrow(tfp_realnvp.preset(name))
  conditional = name in ('cifar10', 'celeb_a', 'mnist')
  distribution = experiment.build_distribution(preset, conditional)
  model = experiment.build_estimator(preset, distribution)
  # A graph of so many layers takes longer to make than a few steps.
  model.run_eagerly = True
  before = [v.numpy() for v in model.trainable_variables]
  with tfds.testing.mock_data(num_examples=4):
    data = image_data.load(preset, name, conditional=conditional)
    batches = data.training_batches(4, seed=0)
    model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)
    metrics = model.evaluate(data.batches(), verbose=0, return_dict=True)
  assert model.step.numpy() == 1
  assert metrics['non_finite'] == 0
  # Not far from the 8 bits of uniform pixels, which mock images are made of.
  assert 5 < metrics['bits_per_dim'] < 12
  # Scales start at 0, and their networks get no gradient before they have
  # moved; all else has moved by about the learning rate.
  moved = [
    np.abs(v.numpy() - value).max()
    for v, value in zip(model.trainable_variables, before)
  ]
  assert np.median(moved) > 1e-4
