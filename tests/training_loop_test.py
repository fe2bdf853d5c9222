"""Trains a small model of digits, in this process."""

import csv
import dataclasses
import re
import sys

import numpy as np
import pytest
import tensorflow_probability as tfp

from tests import flow_testing
from tests import signal_testing
import tfp_realnvp
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import training_loop

tfd = tfp.distributions


@pytest.fixture
def stop():
  with signal_testing.stop_on_signal() as stop:
    yield stop


@pytest.fixture(scope='module')
def images():
  preset = experiment.vary(
    tfp_realnvp.preset('digits'), batch_size=16, learning_rate=0.1
  )
  data = image_data.load(preset, 'digits')
  return dataclasses.replace(
    data, train=data.train.take(64), test=data.test.take(32)
  )


def _model(images, ema_momentum=None):
  flow = flow_testing.two_couplings(
    images.preset.image_shape,
    num_scales=1,
    norm=images.preset.batch_norm,
    logit_transform=tfp_realnvp.LogitTransform(images.preset.num_levels),
    seed=0,
  )
  base = flow_testing.isotropic_normal(images.preset.image_shape)
  distribution = tfd.TransformedDistribution(base, flow)
  return experiment.build_estimator(
    images.preset, distribution, seed=0, ema_momentum=ema_momentum
  )


def _run(images, model, model_dir, stop):
  """Trains, and returns the bits/dim of each evaluation by its step."""
  schedule = training_loop.Schedule(
    num_steps=6, evaluate_every=2, cooldown_steps=2
  )
  loop = training_loop.TrainingLoop(model, images, model_dir, schedule, stop)
  loop.run()
  assert loop.step == 6
  rows = csv.DictReader((model_dir / 'metrics.csv').read_text().splitlines())
  return {int(row['step']): float(row['test_bits_per_dim']) for row in rows}


def _saved(images, ema_momentum, directory):
  """Returns the step and the bits/dim of the newest checkpoint."""
  model = _model(images, ema_momentum)
  assert tfp_realnvp.Checkpoints(model, directory).restore()
  metrics = model.evaluate(images.batches('test'), verbose=0, return_dict=True)
  return int(model.step.numpy()), metrics['bits_per_dim']


def _check_lines(output, rows, model_dir, on_terminal):
  """Checks what is printed before the first step and at evaluations."""
  lines = output.splitlines()
  assert lines[0] == (
    '64 images to train on and 32 held out, of shape (8, 8, 1).'
  )
  assert re.fullmatch(
    rf'[\d,]+ parameters\. Writing to --model_dir={model_dir}\.', lines[1]
  )
  assert lines[2] == 'Starting at step 0 of 6.'
  for step, value in rows.items():
    pattern = (
      rf'Step {step}: train .*, test {value:.3f} bits/dim, .* s per step'
    )
    assert re.search(pattern, output)
  assert ('Steps 3 to 4 of 6:' in lines) == bool(on_terminal)
  assert ('\x08' in output) == bool(on_terminal)  # Keras's progress bar.
  assert on_terminal or len(lines) == 8


@pytest.mark.slow
@pytest.mark.parametrize('ema_momentum, on_terminal', [(None, 0), (0.8, 1)])
def test_saved_models_are_those_that_were_evaluated(
  ema_momentum, on_terminal, images, tmp_path, stop, capsys, monkeypatch
):
  monkeypatch.setattr(sys.stdout, 'isatty', lambda: on_terminal)
  model = _model(images, ema_momentum)
  rows = _run(images, model, tmp_path, stop)
  assert list(rows) == [2, 4, 6]
  best = min(rows, key=rows.get)
  step, value = _saved(images, ema_momentum, tmp_path / 'best')
  assert step == best
  np.testing.assert_allclose(value, rows[best], rtol=1e-6)
  step, final = _saved(images, ema_momentum, tmp_path / 'final')
  assert step == 6
  output = capsys.readouterr().out
  assert f'Step 6: test bits/dim {final:.3f} (non-finite: 0 of 32' in output
  assert f'best during training {value:.3f} at step {best};' in output
  _check_lines(output, rows, tmp_path, on_terminal)
  # The newest checkpoint has the weights and the statistics of training.
  step, newest = _saved(images, ema_momentum, tmp_path)
  assert step == 6
  assert abs(newest / rows[6] - 1) > 1e-3


def test_numbers_of_steps_are_checked():
  with pytest.raises(ValueError, match='`evaluate_every` must be .* got 0'):
    training_loop.Schedule(num_steps=1, evaluate_every=0)
  with pytest.raises(ValueError, match='`num_steps`, 2; got 50'):
    training_loop.Schedule(num_steps=2, evaluate_every=1, cooldown_steps=50)
