import csv
import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp.paper import reports


def test_histogram_baseline_by_hand():
  seen = np.array([0, 0, 1], np.uint8).reshape(3, 1, 1, 1)
  held_out = np.array([0, 1], np.uint8).reshape(2, 1, 1, 1)
  # Add-one counts 3 and 2 of 5.
  expected = -(np.log2(3 / 5) + np.log2(2 / 5)) / 2
  value = reports.histogram_bits_per_dim(seen, held_out, 2)
  np.testing.assert_allclose(value, expected)


def test_best_evaluation(tmp_path, monkeypatch):
  picture = np.zeros([2, 2, 3], np.uint8)
  monkeypatch.setattr(reports, 'real_and_samples', lambda *args: picture)
  report = reports.Reports(tmp_path, 0, True)
  assert np.isnan(report.best()[1])
  values = [np.nan, 3.0, 2.0, np.inf, 2.0, 2.5, 1.0]
  found = []
  for step, value in enumerate(values):
    metrics = {'test_bits_per_dim': value}
    found.append(report.is_best(metrics))
    report.write(step, metrics, None, None)
  assert found == [False, True, True, False, False, False, True]
  assert report.best() == (6, 1.0)
  # A run that goes on from step 5 forgets what came later.
  assert reports.Reports(tmp_path, 5, True).best() == (2, 2.0)


def test_result_is_kept_everywhere(tmp_path, monkeypatch):
  picture = np.zeros([2, 2, 3], np.uint8)
  monkeypatch.setattr(reports, 'real_and_samples', lambda *args: picture)
  report = reports.Reports(tmp_path, 0, True)
  for step in (2, 4):
    report.write(step, {'test_bits_per_dim': 5.0 - step}, None, None)
  report.write_result(4, {'bits_per_dim': 0.5})
  assert json.loads((tmp_path / 'result.json').read_text()) == {
    'step': 4,
    'bits_per_dim': 0.5,
  }
  rows = csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines())
  assert [row['final_bits_per_dim'] for row in rows] == ['', '0.5']
  # The run goes on.
  report = reports.Reports(tmp_path, 4, True)
  report.write(6, {'test_bits_per_dim': 0.75}, None, None)
  report.write_result(6, {'bits_per_dim': 0.25})
  rows = csv.DictReader((tmp_path / 'metrics.csv').read_text().splitlines())
  assert [row['final_bits_per_dim'] for row in rows] == ['', '0.5', '0.25']
  path = max(tmp_path.glob('events*'))
  found = {
    value.tag
    for event in tf.compat.v1.train.summary_iterator(str(path))
    for value in event.summary.value
  }
  assert 'final_bits_per_dim' in found


def test_flags_are_kept_and_those_of_the_model_are_compared(tmp_path):
  prepare = functools.partial(reports.prepare_model_dir, tmp_path / 'run')
  read = lambda: json.loads((tmp_path / 'run' / 'flags.json').read_text())
  prepare({'num_scales': 2}, {'num_scales': 2, 'num_steps': 5})
  assert read() == {'num_scales': 2, 'num_steps': 5}
  prepare({'num_scales': 2}, {'num_scales': 2, 'num_steps': 9})
  assert read() == {'num_scales': 2, 'num_steps': 9}
  with pytest.raises(SystemExit, match='--num_scales=3, but the run'):
    prepare({'num_scales': 3}, {'num_scales': 3, 'num_steps': 7})
  assert read() == {'num_scales': 2, 'num_steps': 9}


def test_files_that_are_damaged_are_named(tmp_path):
  path = tmp_path / 'flags.json'
  path.write_text('{"num_scales": 2')
  with pytest.raises(SystemExit, match=f'^{path} cannot be read: JSONDecodeE'):
    reports.prepare_model_dir(tmp_path, {}, {})
  assert path.read_text() == '{"num_scales": 2'
  path = tmp_path / 'metrics.csv'
  path.write_text('step,loss\nx,2\n')
  with pytest.raises(SystemExit, match=f'^{path} cannot be read: ValueError: '):
    reports.Reports(tmp_path, 0, is_chief=False)


def test_report_that_was_interrupted_is_made_again(tmp_path, monkeypatch):
  def interrupted(*args):
    raise SystemExit

  monkeypatch.setattr(reports, 'real_and_samples', interrupted)
  with pytest.raises(SystemExit):
    reports.Reports(tmp_path, 4, True).write(4, {}, None, None)
  assert reports.Reports(tmp_path, 4, True).step == 0
  picture = np.zeros([2, 2, 3], np.uint8)
  monkeypatch.setattr(reports, 'real_and_samples', lambda *args: picture)
  reports.Reports(tmp_path, 4, True).write(4, {}, None, None)
  assert reports.Reports(tmp_path, 4, True).step == 4
  assert reports.samples_path(tmp_path, 4).exists()
