import json
import sys
import types

import numpy as np
import pandas as pd
import pytest

from examples import sample_target
from tests import program_testing
from tfp_realnvp import sampling


def test_moments_of_weighted_rows_by_hand():
  mean, stddev = sample_target.moments(
    np.array([[0.0], [1.0], [3.0]]), np.array([0.25, 0.25, 0.5])
  )
  np.testing.assert_allclose(mean, [1.75])
  np.testing.assert_allclose(stddev**2, [0.25 + 4.5 - 1.75**2])


def test_shares_of_modes_by_hand():
  modes = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
  x = np.array([[1.0, 0.0], [4.0, 1.0], [6.0, 0.0], [-9.0, -9.0]])
  assert sample_target.mode_shares(x, modes) == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
  'target, size, message',
  [
    ('banana', 3, '--size=3 is for functions of your own'),
    ('bananas', None, "--target=bananas, --size=None: There is no 'bananas'"),
    ('math:sqrt', None, 'number of parameters must be given'),
  ],
)
def test_wrong_flags(monkeypatch, target, size, message):
  flags = types.SimpleNamespace(target=target, size=size)
  monkeypatch.setattr(sample_target, 'FLAGS', flags)
  with pytest.raises(SystemExit, match=message):
    sample_target.load_target()


def test_modules_of_the_current_directory_are_found(monkeypatch, tmp_path):
  (tmp_path / 'my_normal.py').write_text('log_prob = lambda x: -x[:, 0] ** 2\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [*sys.path])
  flags = types.SimpleNamespace(target='my_normal:log_prob', size=2)
  monkeypatch.setattr(sample_target, 'FLAGS', flags)
  target = sample_target.load_target()
  np.testing.assert_allclose(target.log_prob(np.array([[3.0, 1.0]])), [-9])


@pytest.mark.slow
def test_lost_modes_show_in_the_report(tmp_path):
  output = program_testing.run(
    'sample_target',
    '--target=mixture',
    f'--model_dir={tmp_path}',
    '--num_couplings=2',
    '--hidden_size=16',
    '--num_steps=300',
    '--num_batches=2',
    '--num_chains=4',
    '--num_hundreds=2',
  )
  report = json.loads((tmp_path / 'report.json').read_text())
  assert f'log Z {report["log_z"]:.4f}' in output
  assert 'Shares of samples by the nearest mode' in output
  # A flow of one mode or two, whose weights say nothing about the others.
  assert min(report['mode_shares']['flow']) < 0.01
  assert report['log_z'] < -0.3
  assert report['kl_p_q'] > 10 * report['kl_q_p']
  assert report['kl_p_q'] > 1
  # The loss is KL(q || p) - log Z.
  np.testing.assert_allclose(
    report['loss'], report['kl_q_p'] - report['log_z'], atol=0.1
  )
  samples = pd.read_csv(tmp_path / 'samples.csv')
  assert [*samples.columns] == ['x1', 'x2', 'log_weight']
  assert len(samples) == 2000
  mean, _ = sample_target.moments(
    samples[['x1', 'x2']].to_numpy(),
    sampling.normalized_weights(samples['log_weight'].to_numpy()),
  )
  for name, expected in zip(('x1', 'x2'), mean):
    found = report['parameters'][name]['flow, weighted']['mean']
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert (tmp_path / 'corner.png').exists()


@pytest.mark.slow
def test_loss_that_is_not_finite_ends_the_run(tmp_path):
  (tmp_path / 'model_of_mine.py').write_text(
    'import tensorflow as tf\n'
    'def log_prob(x):\n'
    '  return tf.reduce_sum(tf.math.log(x), -1)\n'
  )
  output = program_testing.run(
    'sample_target',
    '--target=model_of_mine:log_prob',
    '--size=2',
    f'--model_dir={tmp_path}',
    '--num_steps=2',
    expect=1,
    path=tmp_path,
  )
  assert 'The loss is nan at step 0' in output
  assert 'Traceback' not in output
