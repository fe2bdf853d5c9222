"""Checks the models that examples share."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import program_testing
import tfp_realnvp
from tfp_realnvp.paper import experiment

tfd = tfp.distributions

_SMALL = {'num_blocks': 1, 'hidden_channels': 2}


def test_flags_change_the_preset():
  distribution, preset = program_testing.build('imagenet32', **_SMALL)
  assert preset.num_scales == 4
  assert preset.networks == tfp_realnvp.ResidualNetworks(**_SMALL)
  assert distribution.event_shape == (32, 32, 3)
  folder, _ = program_testing.build('folder', image_size=16, **_SMALL)
  assert len(folder.bijector.split_latents(tf.zeros([16, 16, 3]))) == 3


def _networks(spec):
  return lambda x: tf.zeros([*x.shape[:-1], 2 * spec.out_channels])


def test_vary_replaces_only_what_changes():
  # A function is not a dataclass whose fields could be replaced.
  preset = dataclasses.replace(
    tfp_realnvp.preset('digits'), networks=_networks, batch_norm=None
  )
  varied = experiment.vary(preset, num_scales=1, num_blocks=None)
  assert varied == dataclasses.replace(preset, num_scales=1)
  distribution = experiment.build_distribution(varied)
  assert distribution.log_prob(tf.ones([2, 8, 8, 1])).shape == (2,)
  preset = tfp_realnvp.preset('digits')
  varied = experiment.vary(preset, lagged_batch_norm=False)
  assert varied.networks is preset.networks
  assert varied.batch_norm == tfp_realnvp.BatchNormOptions(lagged=False)


@pytest.mark.parametrize('prior', ['standard', 'learned'])
def test_one_distribution_is_built(prior, monkeypatch):
  built = []
  build = tfd.TransformedDistribution

  def count(*args, **kwargs):
    built.append(build(*args, **kwargs))
    return built[-1]

  monkeypatch.setattr(tfd, 'TransformedDistribution', count)
  distribution, _ = program_testing.build('digits', prior=prior, **_SMALL)
  assert [id(d) for d in built] == [id(distribution)]


@pytest.mark.parametrize('num_scales', [1, 2, 3])
def test_learned_prior_by_hand(num_scales):
  distribution, _ = program_testing.build(
    'digits', prior='learned', num_scales=num_scales, **_SMALL
  )
  prior, flow = distribution.distribution, distribution.bijector
  loc, scale = prior.trainable_variables
  num_channels = {1: 1, 2: 2 + 2, 3: 2 + 4 + 4}[num_scales]
  assert loc.shape == scale.shape == (num_channels,)
  z = tf.random.stateless_normal([3, 8, 8, 1], [0, 1])
  # At the start it is the standard normal one.
  expected = -0.5 * tf.reduce_sum(z**2 + np.log(2 * np.pi), [1, 2, 3])
  np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-5)
  # All latents of a channel of a scale have the same location and scale.
  rng = np.random.default_rng(0)
  for variable in (loc, scale):
    variable.assign(rng.normal(size=variable.shape))
  for moment, values in (
    (prior.mean(), loc.numpy()),
    (prior.stddev(), np.log1p(np.exp(scale.numpy()))),
  ):
    found = [z[0, 0] for z in flow.split_latents(moment)]
    np.testing.assert_allclose(np.concatenate(found), values, rtol=1e-5)
    for latent in flow.split_latents(moment):
      np.testing.assert_array_equal(
        latent, np.broadcast_to(latent[0, 0], latent.shape)
      )


@pytest.mark.parametrize('prior', ['standard', 'learned'])
def test_dtype_and_validate_args_reach_every_part(prior):
  distribution, _ = program_testing.build(
    'digits', prior=prior, dtype=tf.float64, validate_args=True, **_SMALL
  )
  x = np.full([2, 8, 8, 1], 16.5)
  assert distribution.log_prob(x).dtype == tf.float64
  assert {v.dtype for v in distribution.trainable_variables} == {tf.float64}
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r'must be pixels on \[0, 17\)'
  ):
    distribution.log_prob(x + 1)


def test_learned_prior_is_trained_and_saved_along(tmp_path):
  build = lambda: program_testing.build(
    'digits', prior='learned', num_scales=1, **_SMALL
  )[0]
  distribution = build()
  x = tf.random.stateless_uniform([4, 8, 8, 1], [0, 1], maxval=17)
  with tf.GradientTape() as tape:
    loss = -tf.reduce_mean(distribution.log_prob(x))
  prior = distribution.distribution.trainable_variables
  for gradient in tape.gradient(loss, prior):
    assert np.abs(gradient).min() > 0
  assert {id(v) for v in prior} <= {
    id(v) for v in distribution.trainable_variables
  }
  for variable in prior:
    variable.assign(variable + 0.5)
  path = tf.train.Checkpoint(distribution=distribution).save(
    str(tmp_path / 'ckpt')
  )
  restored = build()
  tf.train.Checkpoint(distribution=restored).restore(path).expect_partial()
  np.testing.assert_array_equal(restored.log_prob(x), distribution.log_prob(x))


def test_directory_without_a_run_is_named(tmp_path):
  with pytest.raises(SystemExit, match=f'--model_dir={tmp_path} holds no tra'):
    experiment.load_trained(tmp_path)
  (tmp_path / 'flags.json').write_text('{"dataset": "digits"}')
  with pytest.raises(SystemExit, match='holds no checkpoint'):
    experiment.load_trained(tmp_path)


@pytest.mark.parametrize(
  'contents, message',
  [
    ('{"dataset": ', 'JSONDecodeError: Expecting value'),
    ('[]', "AttributeError: 'list' object has no attribute 'items'"),
    ('{}', 'TypeError: .* missing 1 required positional argument'),
    ('{"dataset": "digits", "num_scales": 0}', 'ValueError: `num_scales` must'),
    (b'\xff', 'UnicodeDecodeError'),
  ],
)
def test_flags_that_are_damaged_are_named(contents, message, tmp_path):
  path = tmp_path / 'flags.json'
  if isinstance(contents, str):
    contents = contents.encode()
  path.write_bytes(contents)
  with pytest.raises(SystemExit, match=f'^{path} cannot be read: {message}'):
    experiment.load_trained(tmp_path)


@pytest.mark.parametrize('momentum', [-0.1, 1.0, np.nan])
def test_averages_of_weights_need_a_momentum_below_1(momentum):
  distribution, preset = program_testing.build('digits', **_SMALL)
  with pytest.raises(ValueError, match=r'`ema_momentum` must be in \[0, 1\)'):
    experiment.build_estimator(preset, distribution, ema_momentum=momentum)


def test_best_model_stands_for_a_run_that_has_not_ended(tmp_path):
  flags = {'dataset': 'digits', 'num_scales': 1, **_SMALL}
  model = tfp_realnvp.DensityEstimator(program_testing.build(**flags)[0])
  model.compile()
  (tmp_path / 'flags.json').write_text(json.dumps(flags))
  for place in ('', 'best', 'final'):
    model.trainable_variables[0].assign_add(
      tf.ones_like(model.trainable_variables[0])
    )
    tfp_realnvp.Checkpoints(model, tmp_path / place).save()
    distribution, *_ = experiment.load_trained(str(tmp_path))
    np.testing.assert_array_equal(
      distribution.trainable_variables[0], model.trainable_variables[0]
    )
  (path,) = (tmp_path / 'final').glob('*.data-*')
  path.write_bytes(b'')
  with pytest.raises(SystemExit, match='final/ckpt-0 cannot be read: [^\\n]*$'):
    experiment.load_trained(tmp_path)


@pytest.mark.parametrize('place', ['', 'best', 'final'])
def test_run_is_loaded_from_a_directory_of_any_name(place, tmp_path):
  model_dir = tmp_path / 'run[1]*'
  flags = {'dataset': 'digits', 'num_scales': 1, **_SMALL}
  model = tfp_realnvp.DensityEstimator(program_testing.build(**flags)[0])
  model.compile()
  tfp_realnvp.Checkpoints(model, model_dir / place).save()
  (model_dir / 'flags.json').write_text(json.dumps(flags))
  distribution, _, found = experiment.load_trained(model_dir)
  assert found == flags | {'data_dir': None}
  for variable, saved in zip(
    distribution.variables, model.distribution.variables, strict=True
  ):
    np.testing.assert_array_equal(variable, saved)
