"""Tests the posterior and the flags, and runs the program."""

import collections
import json
import types

import numpy as np
import pandas as pd
import pytest

from examples import infer_parameters
from tests import program_testing
from tfp_realnvp import posterior_flows


def _set_flags(monkeypatch, **changes):
  values = {
    'drop_columns': [],
    'drop_missing': False,
    'num_simulations': 10,
    'seed': 0,
    'simulations': None,
    'task': None,
  }
  flags = types.SimpleNamespace(**(values | changes))
  monkeypatch.setattr(infer_parameters, 'FLAGS', flags)


@pytest.mark.parametrize(
  'changes, text, message',
  [
    (
      {'task': 'slcp'},
      '1,2\n',
      '--task=slcp and --simulations=.*table.csv',
    ),
    ({}, 3 * '1,2\n', 'must have at least 10 simulations, got 3'),
    (
      {},
      ''.join(f'{i},3\n' for i in range(12)),
      "are constant: 'x'. Leave them out with --drop_columns=x",
    ),
    (
      {},
      ''.join(f'3,{i}\n' for i in range(12)),
      "are constant: 'theta'",
    ),
  ],
)
def test_wrong_simulations_are_named(
  changes, text, message, monkeypatch, tmp_path
):
  path = tmp_path / 'table.csv'
  path.write_text('theta,x\n' + text)
  if text:
    changes = changes | {'simulations': str(path)}
  _set_flags(monkeypatch, **changes)
  with pytest.raises(SystemExit, match=message):
    infer_parameters.load_simulations()


def test_files_may_be_sorted(monkeypatch, tmp_path):
  path = tmp_path / 'table.csv'
  rows = ''.join(f'{i},{10 * i}\n' for i in range(50))
  path.write_text('theta,x\n' + rows)
  _set_flags(monkeypatch, simulations=str(path))
  theta, x = infer_parameters.load_simulations()
  theta, x = theta.to_numpy(), x.to_numpy()
  np.testing.assert_array_equal(np.sort(theta[:, 0]), np.arange(50))
  np.testing.assert_array_equal(x, 10 * theta)
  assert np.ptp(theta[:5]) > 10


def test_observations_have_the_columns_of_the_data(monkeypatch, tmp_path):
  path = tmp_path / 'observation.csv'

  def load(text, flag='observation'):
    path.write_text(text)
    flags = {flag: types.SimpleNamespace(value=str(path))}
    monkeypatch.setattr(infer_parameters, 'FLAGS', flags)
    return infer_parameters.load_rows(flag, ['a', 'b'])

  np.testing.assert_array_equal(load('1,2\n'), [[1, 2]])
  np.testing.assert_array_equal(load('data_1,data_2\n1,2\n'), [[1, 2]])
  np.testing.assert_array_equal(load('b,a\n1,2\n'), [[2, 1]])
  reference = ''.join(f'{i},{-i}\n' for i in range(10))
  np.testing.assert_array_equal(
    load(reference, 'reference'), [[i, -i] for i in range(10)]
  )
  for text in ('1,2\n3,4\n', 5 * '1,2\n1,3\n'):
    with pytest.raises(SystemExit, match='at least 10 rows and no column that'):
      load(text, 'reference')
  for text in ('1,2\n3,4\n', '1,2,3\n'):
    with pytest.raises(
      SystemExit, match=r'one row and 2 columns \(a, b\), got'
    ):
      load(text)
  with pytest.raises(SystemExit, match='must have 2 columns'):
    load('1,2,3\n', 'reference')


def test_errors_come_before_training_and_without_traceback(tmp_path):
  path = tmp_path / 'no.csv'
  output = program_testing.run(
    'infer_parameters',
    '--task=two_moons',
    f'--observation={path}',
    f'--model_dir={tmp_path / "run"}',
    expect=1,
  )
  assert f'--observation={path} cannot be read' in output
  assert 'Traceback' not in output
  assert not (tmp_path / 'run').exists()


def test_without_simulations_there_must_be_a_posterior(monkeypatch, tmp_path):
  names = ('num_simulations', 'max_epochs', 'couplings', 'drop_columns')
  flags = {
    name: types.SimpleNamespace(present=False)
    for name in (*names, 'drop_missing')
  }
  monkeypatch.setattr(infer_parameters, 'FLAGS', flags)
  message = f'--model_dir={tmp_path} has no posterior. Give --task or'
  with pytest.raises(SystemExit, match=message):
    infer_parameters.load(tmp_path)
  flags['max_epochs'] = types.SimpleNamespace(present=True, value=5)
  with pytest.raises(SystemExit, match='--max_epochs=5 needs --task or --sim'):
    infer_parameters.load(tmp_path)


def test_what_to_do_if_nothing_is_finite(monkeypatch, tmp_path):
  def fit(*args):
    raise FloatingPointError('The validation loss is nan.')

  monkeypatch.setattr(posterior_flows, 'fit', fit)
  _set_flags(monkeypatch, couplings='affine', max_epochs=2)
  table = pd.DataFrame({'a': [1.0, 2.0]})
  message = 'The validation loss is nan. Use other --couplings, or leave'
  with pytest.raises(SystemExit, match=message):
    infer_parameters.train(tmp_path, table, table)


def test_a_posterior_that_is_damaged_is_named(monkeypatch, tmp_path):
  path = tmp_path / posterior_flows.DESCRIPTION
  path.write_text('{"theta": ')
  flag = types.SimpleNamespace(present=False)

  class Flags(collections.defaultdict):
    observation = 'observation.csv'

  monkeypatch.setattr(infer_parameters, 'FLAGS', Flags(lambda: flag))
  with pytest.raises(SystemExit, match=f'^{path} cannot be read: JSONDecodeE'):
    infer_parameters.load(tmp_path)


@pytest.mark.slow
def test_program_on_300_simulations(tmp_path):
  observation = tmp_path / 'observation.csv'
  observation.write_text('data_1,data_2\n-0.64,0.16\n')
  reference = tmp_path / 'reference.csv'
  rng = np.random.default_rng(0)
  np.savetxt(reference, rng.normal(size=[150, 2]) + 30, delimiter=',')
  run = tmp_path / 'run'
  output = program_testing.run(
    'infer_parameters',
    '--task=two_moons',
    '--num_simulations=300',
    '--num_samples=200',
    '--max_epochs=30',
    '--couplings=affine',
    f'--observation={observation}',
    f'--reference={reference}',
    f'--model_dir={run}',
  )
  results = json.loads((run / 'results.json').read_text())
  assert '"c2st": 1.0' in output
  # Standardized parameters have 2.84 nats without data.
  assert results['validation_nats'] < 2.7
  assert results['epochs'] <= 30
  assert results['c2st'] == 1  # Nothing is near the reference.
  samples = pd.read_csv(run / 'samples.csv')
  assert [*samples.columns] == ['theta1', 'theta2']
  outside = (samples.abs() > 1).any(axis=1).mean()
  np.testing.assert_allclose(results['share_outside_prior'], outside)
  assert outside < 0.9
  # t2 - t1 is near x2 * sqrt(2).
  difference = (samples['theta2'] - samples['theta1']).mean()
  assert abs(difference - 0.16 * np.sqrt(2)) < 0.4
  for name in ('corner.png', 'ranks.png'):
    assert (run / name).stat().st_size > 1000
  # The posterior is loaded again, and not overwritten.
  flags = [f'--model_dir={run}', f'--observation={observation}']
  program_testing.run('infer_parameters', *flags, '--num_samples=200')
  again = pd.read_csv(run / 'samples.csv')
  pd.testing.assert_frame_equal(again, samples)
  output = program_testing.run(
    'infer_parameters', *flags, '--task=slcp', expect=1
  )
  assert 'has a posterior already' in output


@pytest.mark.slow
def test_program_on_a_file_with_one_parameter(tmp_path):
  rng = np.random.default_rng(0)
  theta = rng.normal(size=[400, 1])
  x = 10 * theta + rng.normal(size=[400, 1])
  np.savez(tmp_path / 'simulations.npz', theta=theta, x=x)
  program_testing.run(
    'infer_parameters',
    f'--simulations={tmp_path / "simulations.npz"}',
    '--max_epochs=2',
    f'--model_dir={tmp_path / "run"}',
  )
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert sorted(results) == [
    'epochs',
    'interrupted',
    'seconds',
    'validation_nats',
  ]
  assert not (tmp_path / 'run' / 'samples.csv').exists()
