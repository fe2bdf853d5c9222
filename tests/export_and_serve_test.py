"""Trains, exports and serves a model of digits by running the programs."""

import numpy as np
import pytest
import tensorflow as tf

from tests import program_testing
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'digits'
  program_testing.run(
    'train',
    '--dataset=digits',
    f'--model_dir={path}',
    '--num_scales=1',
    '--num_blocks=1',
    '--hidden_channels=2',
    '--num_steps=10',
  )
  return path


@pytest.mark.slow
def test_trained_digits_are_served_as_the_library_answers(model_dir, tmp_path):
  export_dir = tmp_path / 'serving' / '1'
  flags = [f'--model_dir={model_dir}', f'--export_dir={export_dir}']
  output = program_testing.run('export_and_serve', *flags)
  error = float(output.split('difference to the library: ')[1].split()[0][:-1])
  assert error < 1e-5
  assert f'-v "{tmp_path}/serving:/models/real_nvp"' in output
  # The export has the final weights and re-estimated statistics.
  distribution, preset, trained = experiment.load_trained(model_dir)
  assert trained['dataset'] == 'digits'
  test, _ = image_data.load(preset, 'digits').arrays('test')
  served = tf.saved_model.load(str(export_dir)).signatures['log_prob']
  log_prob = distribution.log_prob(test.astype(np.float32) + 0.5)
  np.testing.assert_allclose(
    served(images=tf.constant(test))['log_prob'], log_prob, rtol=1e-5
  )
  # A second export to the same directory fails and changes nothing.
  output = program_testing.run('export_and_serve', *flags, expect=1)
  assert f'--export_dir={export_dir}: `path` must not exist' in output
  assert (export_dir / 'saved_model.pb').exists()


@pytest.mark.slow
def test_several_draws(model_dir, tmp_path):
  flags = [f'--model_dir={model_dir}', f'--export_dir={tmp_path / "1"}']
  output = program_testing.run(
    'export_and_serve', *flags, '--num_draws=2', '--num_images=50'
  )
  assert 'bits/dim of 50 held-out images' in output


@pytest.mark.slow
def test_directory_without_a_run_is_named(tmp_path):
  flags = [f'--model_dir={tmp_path}', f'--export_dir={tmp_path / "1"}']
  output = program_testing.run('export_and_serve', *flags, expect=1)
  assert f'--model_dir={tmp_path} holds no training run' in output
