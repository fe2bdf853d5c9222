"""Tests the data and the scores, and runs the program."""

import dataclasses
import json
import signal
import subprocess
import types

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from examples import train_vectors
from tests import program_testing
from tfp_realnvp import table_flows
from tfp_realnvp import table_settings

tfd = tfp.distributions


def _set_flags(monkeypatch, **changes):
  values = {
    'csv': None,
    'dataset': 'csv',
    'drop_columns': [],
    'drop_missing': False,
    'score': None,
    'seed': 0,
    'separator': None,
  }
  flags = types.SimpleNamespace(**(values | changes))
  monkeypatch.setattr(train_vectors, 'FLAGS', flags)


def test_columns_have_the_names_of_scikit_learn(monkeypatch):
  _set_flags(monkeypatch, dataset='iris', drop_columns=['sepal width (cm)'])
  table = train_vectors.load_table()
  assert [*table.columns] == [
    'sepal length (cm)',
    'petal length (cm)',
    'petal width (cm)',
  ]
  np.testing.assert_array_equal(table.iloc[0], [5.1, 1.4, 0.2])
  _set_flags(monkeypatch, dataset='moons')
  assert train_vectors.load_table().shape == (50_000, 2)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({}, 'must be given together, got --dataset=csv and --csv=None'),
    ({'dataset': 'wine', 'csv': 'a.csv'}, '--dataset=wine and --csv=a.csv'),
    ({'csv': 'no.csv'}, '--csv=no.csv cannot be read'),
    (
      {'dataset': 'wine', 'drop_columns': ['x']},
      "--drop_columns: --dataset=wine has no column 'x'",
    ),
  ],
)
def test_wrong_flags_are_named(changes, message, monkeypatch):
  _set_flags(monkeypatch, **changes)
  with pytest.raises(SystemExit, match=message):
    train_vectors.load_table()


def test_there_must_be_a_training_row_for_each_component(monkeypatch, tmp_path):
  _set_flags(monkeypatch, dataset='wine', dequantize=True, num_components=109)
  message = '--num_components=109 must be at most .* training rows, 108'
  with pytest.raises(SystemExit, match=message):
    train_vectors.train(tmp_path / 'run', train_vectors.load_table())
  assert not (tmp_path / 'run').exists()


def test_scored_rows_have_the_columns_of_the_training_rows(
  monkeypatch, tmp_path
):
  path = tmp_path / 'other.csv'
  path.write_text('name;b;a\nx;2;1\ny;4;3\n')
  _set_flags(monkeypatch, score=str(path), drop_columns=['name', 'weight'])
  other = train_vectors.load_other(['a', 'b'])
  np.testing.assert_array_equal(other, [[1, 2], [3, 4]])
  _set_flags(monkeypatch)
  assert train_vectors.load_other(['a', 'b']).shape == (0, 2)


def test_scores_by_hand(monkeypatch):
  _set_flags(monkeypatch)
  normal = tfd.TransformedDistribution(
    tfd.Normal(tf.zeros([1], tf.float64), 1.0),
    tfp.bijectors.Shift(tf.Variable([0.0], dtype=tf.float64)),
  )
  flow = table_flows.TableFlow(
    columns=('a',),
    dequantized=(),
    distribution=tfd.Independent(normal, 1),
    settings=table_settings.Settings(),
  )
  density = lambda x: -0.5 * np.square(x) - 0.5 * np.log(2 * np.pi)
  other = pd.DataFrame({'a': [0.5, -1.0, 10.0]}, index=[2, 3, 7])
  scores = train_vectors.scores(flow, density([0, 1, -2, 3]), other)
  np.testing.assert_allclose(scores['log_likelihood'], density([0.5, -1, 10]))
  # The row at -1 is as likely as the one at 1.
  np.testing.assert_array_equal(scores['percentile'], [75, 75, 0])
  assert [*scores.index] == [2, 3, 7]
  # Columns that were dequantized are integers again, the same each time.
  samples = flow.sample(5, seed=0)['a']
  flow = dataclasses.replace(flow, dequantized=('a',))
  np.testing.assert_array_equal(flow.sample(5, seed=0)['a'], np.floor(samples))


def test_settings_are_those_of_the_flags(monkeypatch):
  names = [field.name for field in dataclasses.fields(table_settings.Settings)]
  values = dict.fromkeys(names) | {'settings': None, 'noise': 0.1}
  flags = {k: types.SimpleNamespace(value=v) for k, v in values.items()}

  class Flags(dict):
    settings = None

  monkeypatch.setattr(train_vectors, 'FLAGS', Flags(flags))
  small = train_vectors.settings((100, 2))
  assert [*small] == ['regularized', 'moderate', 'flexible', 'mixture']
  for name, settings in small.items():
    assert settings == dataclasses.replace(
      table_settings.SETTINGS[name], noise=0.1
    )
  Flags.settings = 'large'
  assert [*train_vectors.settings((100, 2))] == ['large']


def test_errors_come_before_training_and_without_traceback(tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text('a,b\n' + ''.join(f'{i},{2 * i + 1}\n' for i in range(20)))
  output = program_testing.run(
    'train_vectors',
    '--dataset=csv',
    f'--csv={path}',
    f'--model_dir={tmp_path / "run"}',
    expect=1,
  )
  assert "linear functions of others: 'b' of 'a'" in output
  assert 'Traceback' not in output
  assert not (tmp_path / 'run').exists()


def test_without_a_data_set_there_must_be_a_flow(monkeypatch, tmp_path):
  names = [field.name for field in dataclasses.fields(table_settings.Settings)]
  flags = {
    name: types.SimpleNamespace(present=False)
    for name in ('csv', 'settings', 'dequantize', *names)
  }
  monkeypatch.setattr(train_vectors, 'FLAGS', flags)
  with pytest.raises(SystemExit, match=f'--model_dir={tmp_path} has no flow'):
    train_vectors.load(tmp_path)
  flags['noise'] = types.SimpleNamespace(present=True, value=0.1)
  with pytest.raises(SystemExit, match='--noise=0.1 needs --dataset'):
    train_vectors.load(tmp_path)
  flags['noise'] = types.SimpleNamespace(present=False)
  path = tmp_path / table_flows.DESCRIPTION
  path.write_text('{}')
  with pytest.raises(
    SystemExit, match=f"^{path} cannot be read: KeyError: 'sh"
  ):
    train_vectors.load(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('couplings', ['affine', 'spline'])
def test_csv_of_two_columns(couplings, tmp_path):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=[201, 3]) * [1, 50, 0] + [7, 0, 1]
  rows[3, 0] = np.nan
  rows[:, 1] = np.floor(rows[:, 1])
  table = tmp_path / 'table.csv'
  np.savetxt(table, rows, delimiter=';', header='a;b;c')
  other = tmp_path / 'other.csv'
  other.write_text('b,a\n0,7\n0,\n\n0,27\n')
  output = program_testing.run(
    'train_vectors',
    '--dataset=csv',
    f'--csv={table}',
    f'--score={other}',
    f'--model_dir={tmp_path / "run"}',
    '--drop_columns=c',
    '--drop_missing',
    '--dequantize',
    '--num_steps=300',
    f'--couplings={couplings}',
    '--num_couplings=2',
    '--noise=0',
    '--degrees_of_freedom=inf',
  )
  assert 'Dropped 1 of 201 rows' in output
  assert 'Dropped 1 of 3 rows' in output
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  flow, gaussian = results['log_likelihood'], results['gaussian']
  assert f'in nats: Real NVP {flow:.3f} (' in output
  assert f'Gaussian {gaussian:.3f}, ' in output
  entropy = np.log(2 * np.pi) + 1 + np.log(50)
  assert abs(-gaussian - entropy) < 0.3
  # The data are Gaussian, so the flow can match the Gaussian.
  assert abs(flow - gaussian) < 0.3
  picture = tf.io.read_file(str(tmp_path / 'run' / 'mapping.png'))
  assert tf.io.decode_png(picture).shape[:2] == [800, 800]
  scores = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  assert [*scores['line']] == [2, 5]
  mode = 1 - entropy  # The log-density in the middle of the Gaussian.
  np.testing.assert_allclose(scores['log_likelihood'][0], mode, atol=0.7)
  assert scores['percentile'][0] > 50
  assert scores['percentile'][1] == 0
  # The flow is loaded again, and not overwritten.
  run = f'--model_dir={tmp_path / "run"}'
  output = program_testing.run(
    'train_vectors', '--dataset=moons', run, expect=1
  )
  assert 'has a flow already' in output
  program_testing.run(
    'train_vectors',
    run,
    f'--score={other}',
    '--drop_missing',
    '--num_samples=9',
  )
  again = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  pd.testing.assert_frame_equal(again, scores)
  samples = pd.read_csv(tmp_path / 'run' / 'samples.csv')
  assert [*samples.columns] == ['a', 'b']
  assert samples.shape == (9, 2)
  np.testing.assert_array_equal(samples['b'], np.floor(samples['b']))


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_leaves_the_best_flow(tmp_path):
  process = program_testing.begin(
    'train_vectors',
    '--dataset=wine',
    '--num_steps=10000',
    f'--model_dir={tmp_path}',
    output=subprocess.PIPE,
  )
  program_testing.wait_for(tmp_path / table_flows.DESCRIPTION, process)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=200)
  assert process.returncode == 130
  assert 'the best flow so far' in output
  results = json.loads((tmp_path / 'results.json').read_text())
  assert results['rows'] == 35
  assert f'Real NVP {results["log_likelihood"]:.3f}' in output
