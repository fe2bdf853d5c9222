import json
import math
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
from tests import program_testing
from tests import serving_testing
import tfp_realnvp
from tfp_realnvp import saved_model
from tfp_realnvp.training import density_estimator

tfb = tfp.bijectors
tfd = tfp.distributions


def test_requests_in_json_of_the_documentation(tmp_path):
  flow = tfp_realnvp.RealNVPChain.from_bijectors(
    [tfp_realnvp.LogitTransform()], (2, 2, 1)
  )
  model = serving_testing.Served(
    tmp_path, serving_testing.distribution((2, 2, 1), flow)
  )
  text = (pathlib.Path(__file__).parent.parent / 'docs/serving.md').read_text()
  block = text.split('```json\n')[1].split('```')[0]
  lines = [json.loads(line) for line in block.splitlines()]
  requests, responses = lines[::2], lines[1::2]
  assert {r['signature_name'] for r in requests} | {'serving_default'} == set(
    model.signatures
  )
  for request, response in zip(requests, responses):
    function = model.signatures[request['signature_name']]
    specs = function.structured_input_signature[1]
    assert set(specs) == set(request['inputs'])
    # TensorFlow Serving makes tensors of columns by the signature's dtypes.
    inputs = {
      name: tf.constant(request['inputs'][name], spec.dtype)
      for name, spec in specs.items()
    }
    answers = model(request['signature_name'], **inputs)
    expected = response['outputs']  # A single tensor has no name there.
    if len(answers) == 1:
      expected = dict.fromkeys(answers, expected)
    assert set(answers) == set(expected)
    for name, answer in answers.items():
      np.testing.assert_allclose(answer, expected[name], atol=1e-3)


@pytest.mark.slow
def test_variables_are_stored_once(tmp_path):
  dist = serving_testing.distribution(num_scales=2)
  model = serving_testing.Served(tmp_path, dist)
  stored = tf.train.list_variables(f'{model.path}/variables/variables')
  size = sum(math.prod(s) for n, s in stored if n.endswith('VARIABLE_VALUE'))
  assert size == sum(math.prod(v.shape) for v in dist.variables)


@pytest.mark.slow
def test_the_distribution_trains_on(tmp_path):
  dist = serving_testing.distribution((2,), num_couplings=2)
  estimator = density_estimator.DensityEstimator(dist, num_levels=None)
  estimator.compile('adam')
  x = np.random.default_rng(0).normal(size=[8, 2]).astype(np.float32)
  estimator.fit(x, verbose=0)
  before = estimator.predict(x, verbose=0)
  model = serving_testing.Served(tmp_path, dist, num_levels=None)
  for _ in range(2):  # What was exported stays.
    served = model('log_prob', x=x)['log_prob']
    np.testing.assert_allclose(served, before, rtol=1e-5)
    estimator.fit(x, verbose=0)
  assert np.all(estimator.predict(x, verbose=0) != before)


@pytest.mark.slow
def test_export_from_a_mirrored_strategy(tmp_path):
  program_testing.run_program('mirrored_export', tmp_path / '1', check=True)


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
  path = tmp_path / 'model' / '1'

  def fail(module, folder, signatures):
    os.makedirs(folder)
    assert not os.path.basename(os.path.dirname(folder)).isdigit()
    raise KeyboardInterrupt

  monkeypatch.setattr(tf.saved_model, 'save', fail)
  with pytest.raises(KeyboardInterrupt):
    saved_model.export_saved_model(
      serving_testing.distribution((2,), num_couplings=1), path, num_levels=None
    )
  assert os.listdir(tmp_path / 'model') == []


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_at_path(tmp_path):
  result = program_testing.run_program('killed_export', tmp_path / '1')
  assert result.returncode == 9
  (left,) = os.listdir(tmp_path)
  assert left.startswith('.1-')


def test_existing_paths(tmp_path):
  dist = serving_testing.distribution((2,), num_couplings=1)
  export = lambda path: saved_model.export_saved_model(
    dist, path, num_levels=None
  )
  empty = tmp_path / '1'
  empty.mkdir()
  assert export(empty) == empty
  files = sorted(os.listdir(empty))
  assert 'saved_model.pb' in files
  assert os.listdir(tmp_path) == ['1']
  file = tmp_path / 'file'
  file.write_text('mine')
  for path in (empty, file):
    with pytest.raises(ValueError, match=f'`path` must .*{path}'):
      export(path)
  assert file.read_text() == 'mine'
  assert sorted(os.listdir(empty)) == files


def test_errors_name_the_argument_and_show_the_value(tmp_path):
  dist = serving_testing.distribution((2,), num_couplings=1)
  path = tmp_path / '1'
  with pytest.raises(TypeError, match='`distribution` must be .* got .*Normal'):
    saved_model.export_saved_model(tfd.Normal(0.0, 1.0), path)
  for kwargs, message in (
    (
      {'num_levels': 0},
      '`num_levels` must be an int of at least 1, or None, got 0',
    ),
    ({'num_draws': 1.5}, '`num_draws` must be .* got 1.5'),
    (
      {'max_samples': None},
      '`max_samples` must be an int of at least 1, got None',
    ),
    ({'condition_size': -1}, '`condition_size` must be .* got -1'),
    ({'num_levels': None, 'num_draws': 2}, '`num_draws` is for pixels.*got 2'),
    ({'condition_size': 2}, '`condition_size` is for conditional flows only'),
    ({'seed': 3}, '`seed` is for `num_draws` only, got 3'),
    ({'max_samples': 2**31}, '`max_samples` must fit int32, got 2147483648'),
    (
      {'num_levels': 2**22},
      '`num_levels` must be at most 2097152 for pixels in float32: .*4194304',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      saved_model.export_saved_model(dist, path, **kwargs)
  unknown = tfd.TransformedDistribution(
    tfd.Normal(tf.zeros([3]), 1.0), tfb.Identity()
  )
  with pytest.raises(ValueError, match=r'no batch dimensions, .*\(3,\)'):
    saved_model.export_saved_model(unknown, path)
  conditional = serving_testing.distribution(
    (2,), num_couplings=1, condition_size=2
  )
  with pytest.raises(ValueError, match=r'`condition` must be \[\.\.\., 2\]'):
    saved_model.export_saved_model(conditional, path)
  vector = tfd.TransformedDistribution(
    tfd.MultivariateNormalDiag([0.0, 0.0]), tfb.Identity()
  )
  # Flows that depend on `training` alone, and bijectors that are no flows.
  flow = serving_testing.flow((2,), num_couplings=1)
  chain = serving_testing.distribution((2,), tfb.Chain([tfb.Shift(1.0), flow]))
  inverted = serving_testing.distribution((2,), tfb.Invert(flow))
  for unconditional in (vector, chain, inverted):
    with pytest.raises(ValueError, match='`condition_size` is for .* got 2'):
      saved_model.export_saved_model(unconditional, path, condition_size=2)
  parts = [flow_testing.isotropic_normal((1,))] * 2
  joint = tfd.JointDistributionSequential(parts)
  joint = tfd.TransformedDistribution(joint, tfb.Invert(tfb.Split([1, 1])))
  with pytest.raises(ValueError, match=r'base .* one tensor, got \[Tensor'):
    saved_model.export_saved_model(joint, path)
  pair = tfd.TransformedDistribution(
    tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfb.Split(2)
  )
  with pytest.raises(ValueError, match='known event shape of one .*Tensor'):
    saved_model.export_saved_model(pair, path)
  without_mean = tfd.TransformedDistribution(
    tfd.Cauchy(tf.zeros([]), 1.0), tfb.Identity()
  )
  with pytest.raises(ValueError, match='base .* finite mean, .*Cauchy.* nan'):
    saved_model.export_saved_model(without_mean, path, num_levels=None)
  assert not path.exists()


@pytest.mark.slow
def test_levels_that_do_not_fit_the_flow_are_errors(tmp_path):
  path = tmp_path / '1'
  vectors = serving_testing.distribution((2,), num_couplings=1)
  with pytest.raises(ValueError, match='must be None for flows of v.* got 256'):
    saved_model.export_saved_model(vectors, path)
  digits = serving_testing.distribution(
    (4, 4, 1),
    bijector=serving_testing.two_couplings(
      event_shape=(4, 4, 1), logit_transform=tfp_realnvp.LogitTransform(17)
    ),
  )
  with pytest.raises(ValueError, match='of the LogitTransform, 17, got 256'):
    saved_model.export_saved_model(digits, path)
  assert not path.exists()


@pytest.mark.slow
def test_splines_are_served_as_the_library_answers(tmp_path):
  dist = serving_testing.distribution(
    (3,), num_couplings=2, couplings=tfp_realnvp.SplineCouplings(num_bins=4)
  )
  model = serving_testing.Served(tmp_path, dist, num_levels=None)
  x = np.random.default_rng(0).normal(size=[5, 3]).astype(np.float32)
  served = model('log_prob', x=x)['log_prob']
  np.testing.assert_allclose(served, dist.log_prob(x), rtol=1e-5)
  latents = model('encode', x=x)['latents']
  np.testing.assert_allclose(latents, dist.bijector.inverse(x), atol=1e-5)
  decoded = model('decode', latents=latents)['x']
  np.testing.assert_allclose(decoded, x, atol=1e-4)
