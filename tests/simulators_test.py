"""Tests the simulators against their definitions, and files of simulations."""

import numpy as np
import pytest

from tfp_realnvp import simulators


def test_two_moons_is_a_crescent_that_theta_moves():
  rng = np.random.default_rng(0)
  theta = np.tile([[0.3, -0.9]], [20_000, 1])
  x = simulators.two_moons(theta, rng)
  centre = [0.25 - 0.6 / np.sqrt(2), -1.2 / np.sqrt(2)]
  noise = x - centre
  radius = np.linalg.norm(noise, axis=1)
  np.testing.assert_allclose(radius.mean(), 0.1, atol=3e-4)
  np.testing.assert_allclose(radius.std(), 0.01, atol=3e-4)
  angle = np.arctan2(noise[:, 1], noise[:, 0])
  np.testing.assert_allclose(angle.mean(), 0, atol=0.02)
  np.testing.assert_allclose(angle.std(), np.pi / np.sqrt(12), atol=0.02)
  assert np.abs(angle).max() < np.pi / 2
  # Minus both parameters swapped is the other mode.
  other = simulators.two_moons(np.array([[0.9, -0.3]]), _Middle())
  np.testing.assert_allclose(other[0] - [0.1, 0], centre)


class _Middle:
  """Random numbers in the middle of their distributions."""

  def uniform(self, low, high, size):
    return np.full(size, (low + high) / 2)

  def normal(self, mean=0.0, scale=1.0, size=None):
    return np.full(size, mean)


def test_slcp_has_the_moments_of_its_definition():
  rng = np.random.default_rng(0)
  theta = np.tile([[0.5, -2.0, 1.2, -0.8, 0.6]], [20_000, 1])
  x = simulators.slcp(theta, rng)
  assert x.shape == (20_000, 8)
  np.testing.assert_allclose(x.mean(0), 4 * [0.5, -2.0], atol=0.05)
  first, second = 1.44, 0.64
  both = np.tanh(0.6) * first * second
  covariance = np.kron(np.eye(4), [[first**2, both], [both, second**2]])
  np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.06)
  # Where a standard deviation is 0, 1e-6 is left of the variance.
  theta[:, 2] = 0
  first = simulators.slcp(theta, rng)[:, 0]
  np.testing.assert_allclose(first.std(), 1e-3, rtol=0.05)


def test_prior_is_uniform():
  task = simulators.TASKS['slcp']
  theta, x = task.draw(10_000, seed=1)
  assert [*theta.columns] == [f'theta{i}' for i in range(1, 6)]
  assert [*x.columns] == [f'x{i}' for i in range(1, 9)]
  np.testing.assert_allclose(theta.mean(), 0, atol=0.06)
  np.testing.assert_allclose(theta.std(), 6 / np.sqrt(12), atol=0.03)
  assert task.contains(theta.to_numpy()).all()
  np.testing.assert_array_equal(
    simulators.TASKS['two_moons'].contains(
      np.array([[0.5, -0.5], [0.5, 1.1], [-1.1, 0]])
    ),
    [True, False, False],
  )


def test_simulations_of_files(tmp_path):
  table = tmp_path / 'table.csv'
  table.write_text('speed;theta_b;theta_a\n1;2;3\n4;5;6\n7;;9\n')
  theta, x = simulators.read_simulations(str(table), drop_missing=True)
  assert [*theta.columns] == ['theta_b', 'theta_a']
  np.testing.assert_array_equal(theta, [[2, 3], [5, 6]])
  np.testing.assert_array_equal(x, [[1], [4]])
  arrays = tmp_path / 'arrays.npz'
  np.savez(arrays, theta=[[1], [2]], x=[[3.0, 4.0, 0.0], [5.0, 6.0, 0.0]])
  theta, x = simulators.read_simulations(str(arrays), drop_columns=['x3'])
  np.testing.assert_array_equal(theta, [[1], [2]])
  np.testing.assert_array_equal(x, [[3, 4], [5, 6]])
  assert [*x.columns] == ['x1', 'x2']


@pytest.mark.parametrize(
  'arrays, message',
  [
    ({'theta': [[1.0]]}, 'cannot be read as arrays `theta` and `x`: .*x'),
    (
      {'theta': [[1.0]], 'x': [[1.0], [2.0]]},
      r'shapes \[N, D\] and \[N, K\], got \[1, 1\] and \[2, 1\]',
    ),
    ({'theta': [1.0], 'x': [[1.0]]}, r'got \[1\] and \[1, 1\]'),
    (
      {'theta': [[1.0], [2.0]], 'x': [[1.0], [np.nan]]},
      "row 1, column 'x1' is missing or infinite. 1 of 2 rows",
    ),
  ],
)
def test_wrong_arrays_are_named(arrays, message, tmp_path):
  path = tmp_path / 'arrays.npz'
  np.savez(path, **arrays)
  with pytest.raises(SystemExit, match=f'^--simulations={path}.*{message}'):
    simulators.read_simulations(str(path))


@pytest.mark.parametrize('content', [None, b'', b'PK\x03\x04', b'text', 'npy'])
def test_files_without_arrays_are_named(content, tmp_path):
  path = tmp_path / 'arrays.npz'
  if content == 'npy':
    with open(path, 'wb') as file:
      np.save(file, np.zeros(3))
  elif content is not None:
    path.write_bytes(content)
  with pytest.raises(SystemExit, match=f'{path} cannot be read as arrays'):
    simulators.read_simulations(str(path))


@pytest.mark.parametrize('header', ['a,b', 'theta1,theta2'])
def test_tables_need_parameters_and_data(header, tmp_path):
  path = tmp_path / 'table.csv'
  path.write_text(header + '\n1,2\n')
  with pytest.raises(SystemExit, match='names begin with theta, and others'):
    simulators.read_simulations(str(path))
