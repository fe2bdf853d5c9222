"""Trains, exports and serves a model of digits by running the programs."""

import types

import numpy as np
import pytest
import tensorflow as tf

from examples import export_and_serve
from tests import program_testing
import tfp_realnvp
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets


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
  assert 'It is not comparable with the bits/dim of train.py' in output
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


@pytest.fixture
def main(monkeypatch):
  """Returns a function that runs the program on two images and no model."""

  def run(num_draws=None):
    flags = {'model_dir': 'run', 'export_dir': 'a/1', 'data_dir': None}
    flags |= {'num_draws': num_draws, 'num_images': 2}
    monkeypatch.setattr(
      export_and_serve, 'FLAGS', types.SimpleNamespace(**flags)
    )
    trained = {'dataset': 'digits', 'data_dir': None}
    distribution = types.SimpleNamespace(event_shape=(8, 8, 1))
    loaded = distribution, presets.preset('digits'), trained
    monkeypatch.setattr(experiment, 'load_trained', lambda _: loaded)
    export_and_serve.main([''])

  zeros = lambda *_: np.full([2], -1.0)
  monkeypatch.setattr(export_and_serve, 'served_log_prob', zeros)
  monkeypatch.setattr(export_and_serve, 'library_log_prob', zeros)
  monkeypatch.setattr(tfp_realnvp, 'export_saved_model', lambda *_, **__: None)
  return run


def test_what_the_bits_per_dim_compare_with(main, capsys):
  main()
  output = capsys.readouterr().out
  assert 'without noise. It is not comparable with the bits/dim of tr' in output
  main(num_draws=3)
  output = capsys.readouterr().out
  assert 'This has 3 draws of noise. The bits/dim of train.py have on' in output
  assert 'not comparable' not in output


def test_a_full_disk_is_named(main, monkeypatch):
  def export(*args, **kwargs):
    message = '{{function_node a/b:0}} a/.1-x/part; No space left on device'
    raise tf.errors.ResourceExhaustedError(None, None, message)

  monkeypatch.setattr(tfp_realnvp, 'export_saved_model', export)
  message = '^--export_dir=a/1: a/.1-x/part; No space left on device$'
  with pytest.raises(SystemExit, match=message):
    main()


def test_a_server_that_fails_is_one_line(monkeypatch):
  code = 'raise OSError("No space left.")'
  monkeypatch.setattr(export_and_serve, '_SERVER', code)
  message = '^--export_dir=a/1 is written, but the process .* 1: OSError: No sp'
  with pytest.raises(SystemExit, match=message):
    export_and_serve.served_log_prob('a/1', {'images': np.zeros(2)})


@pytest.mark.slow
def test_directory_without_a_run_is_named(tmp_path):
  flags = [f'--model_dir={tmp_path}', f'--export_dir={tmp_path / "1"}']
  output = program_testing.run('export_and_serve', *flags, expect=1)
  assert f'--model_dir={tmp_path} holds no training run' in output
