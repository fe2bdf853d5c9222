import json
import types

import numpy as np
import pytest
import tensorflow as tf

from examples import sample_lattice
from tests import program_testing
import tfp_realnvp


def test_observables_by_hand():
  # Two fields of 2 x 2 sites whose means are 1 and -2, one after another.
  chain = np.ones([4, 2, 2, 1]) * np.reshape(
    [1.0, -2.0, 1.0, -2.0], [4, 1, 1, 1]
  )
  found = sample_lattice.observables(chain)
  np.testing.assert_allclose(found['magnetization']['mean'], 1.5)
  np.testing.assert_allclose(found['susceptibility']['mean'], 4 * 2.5)


def _flags(networks):
  return types.SimpleNamespace(
    networks=networks, hidden_channels=3, num_couplings=3, seed=0
  )


@pytest.mark.parametrize('networks', ['residual', 'convolutions'])
def test_flow_respects_the_translations_of_its_masks(monkeypatch, networks):
  monkeypatch.setattr(sample_lattice, 'FLAGS', _flags(networks))
  flow = sample_lattice.build_flow()
  z = np.random.default_rng(0).normal(size=[2, 4, 6, 1]).astype(np.float32)
  for variable in flow.trainable_variables:
    variable.assign_add(tf.random.stateless_normal(variable.shape, [0, 1]) / 4)
  field = flow.forward(z).numpy()
  assert np.abs(field - z).max() > 0.1
  moved = flow.forward(np.roll(z, (1, 1), axis=(1, 2)))
  np.testing.assert_allclose(
    moved, np.roll(field, (1, 1), axis=(1, 2)), atol=1e-5
  )


def test_convolutions_by_hand():
  spec = tfp_realnvp.NetworkSpec(in_channels=1, out_channels=1, name='network')
  network = sample_lattice.Convolutions(spec, hidden=1, seed=0)
  for variable in network.variables:
    variable.assign(tf.zeros_like(variable))
    if variable.shape.rank == 4:  # The sites themselves.
      variable[1, 1].assign(tf.ones(variable.shape[2:]))
  shift, log_scale = network(tf.constant([[[[2.0]], [[-1.0]]]]))
  np.testing.assert_allclose(shift[0, :, 0, 0], [2.0, -1e-4], rtol=1e-5)
  np.testing.assert_allclose(log_scale, np.tanh(shift), rtol=1e-5)


@pytest.mark.slow
def test_flow_and_hmc_agree(tmp_path):
  output = program_testing.run(
    'sample_lattice',
    f'--model_dir={tmp_path}',
    '--side=4',
    '--num_couplings=6',
    '--num_steps=400',
    '--num_batches=3',
    '--num_hundreds=5',
    '--networks=convolutions',
  )
  report = json.loads((tmp_path / 'report.json').read_text())
  assert f'acceptance {report["acceptance"]:.3f}' in output
  assert report['effective_fraction'] > 0.05
  assert report['hmc_R-hat'] < 1.05
  for name, found in report['flow'].items():
    expected = report['hmc'][name]
    error = np.hypot(found['error'], expected['error'])
    assert abs(found['mean'] - expected['mean']) < 4 * error
    assert error < 0.3 * expected['mean']
  assert (tmp_path / 'fields.png').exists()
