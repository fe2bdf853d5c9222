"""Tests the data and the scores, and runs the program."""

import types

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from examples import train_vectors
from tests import program_testing
import tfp_realnvp

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


def test_scores_by_hand():
  normal = tfd.TransformedDistribution(
    tfd.Normal(tf.zeros([1], tf.float64), 1.0),
    tfp.bijectors.Shift(tf.Variable([0.0], dtype=tf.float64)),
  )
  model = tfp_realnvp.DensityEstimator(
    tfd.Independent(normal, 1), num_levels=None
  )
  density = lambda x: -0.5 * np.square(x) - 0.5 * np.log(2 * np.pi)
  other = pd.DataFrame({'a': [0.5, -1.0, 10.0]}, index=[2, 3, 7])
  scores = train_vectors.score(model, density([0, 1, -2, 3]), other)
  np.testing.assert_allclose(scores['log_likelihood'], density([0.5, -1, 10]))
  # The row at -1 is as likely as the one at 1.
  np.testing.assert_array_equal(scores['percentile'], [75, 75, 0])
  assert [*scores.index] == [2, 3, 7]


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
  result = output.split('in nats: Real NVP ')[1]
  flow, gaussian = float(result.split()[0]), float(result.split()[5][:-1])
  entropy = np.log(2 * np.pi) + 1 + np.log(50)
  assert abs(-gaussian - entropy) < 0.3
  # The data are Gaussian, so the flow can match the Gaussian.
  assert abs(flow - gaussian) < 0.3
  picture = tf.io.read_file(str(tmp_path / 'run' / 'mapping.png'))
  assert tf.io.decode_png(picture).shape[:2] == [800, 800]
  assert (tmp_path / 'run' / 'model.weights.h5').exists()
  scores = pd.read_csv(tmp_path / 'run' / 'scores.csv')
  assert [*scores['line']] == [2, 5]
  mode = 1 - entropy  # The log-density in the middle of the Gaussian.
  np.testing.assert_allclose(scores['log_likelihood'][0], mode, atol=0.7)
  assert scores['percentile'][0] > 50
  assert scores['percentile'][1] == 0
