"""Tests the data, the baselines and the figure, and runs the program."""

from matplotlib import figure
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from examples import train_vectors
from tests import flow_testing
from tests import program_testing

tfb = tfp.bijectors
tfd = tfp.distributions


def test_split_parts_the_rows():
  rows = np.arange(20.0).reshape(10, 2)
  parts = train_vectors.split(rows, seed=0)
  assert [len(part) for part in parts] == [6, 2, 2]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts), axis=0), rows)


def test_whitening_by_hand():
  # The columns have variances 1 and 4, and covariance 1.
  rng = np.random.default_rng(0)
  rows = rng.normal(size=[50, 2]) @ [[1.0, 1.0], [0.0, np.sqrt(3)]] + [5, -5]
  whiten = train_vectors.whitening(rows)
  white = whiten.inverse(rows).numpy()
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(2), atol=1e-12)
  with pytest.raises(SystemExit, match='Column 2 is constant'):
    train_vectors.whitening(np.stack([rows[:, 0], np.ones(50)], axis=1))
  with pytest.raises(SystemExit, match='linear functions of others'):
    train_vectors.whitening(np.stack([rows[:, 0], rows[:, 0]], axis=1))


def test_gaussian_by_hand_and_mixture():
  rng = np.random.default_rng(0)
  # Two clusters far from each other, with a standard deviation of 100.
  rows = 100 * rng.normal(size=[300, 2]) + 3000 * rng.integers(2, size=[300, 1])
  parts = train_vectors.split(rows, 0)
  whiten = train_vectors.whitening(parts[0])
  gaussian, best, count = train_vectors.gaussian_mixtures(
    whiten, *parts, seed=0
  )
  expected = tfd.MultivariateNormalTriL(
    parts[0].mean(0), np.linalg.cholesky(np.cov(parts[0].T, bias=True))
  ).log_prob(parts[2])
  np.testing.assert_allclose(gaussian, np.mean(expected), rtol=1e-4)
  assert count == 2
  # The entropy of one cluster, and of the choice between the two.
  one = -np.log(2 * np.pi) - 1 - 2 * np.log(100) - np.log(2)
  np.testing.assert_allclose(best, one, atol=0.3)


def test_lines_of_the_grid_are_bent_by_the_flow():
  flow = flow_testing.randomize(
    flow_testing.chain(
      (2,), num_couplings=2, hidden_units=(4,), dtype=tf.float64
    )
  )
  base = flow_testing.isotropic_normal([2], tf.float64)
  distribution = tfd.TransformedDistribution(base, flow)
  rows = distribution.sample(40, seed=[0, 1]).numpy()
  picture = train_vectors.draw_mapping(distribution, rows, num_lines=3)
  assert isinstance(picture, figure.Figure)
  data, latents, samples, prior = picture.axes
  assert len(latents.lines) == len(data.lines) == 6
  for straight, bent in zip(prior.lines, samples.lines):
    straight = straight.get_xydata()
    assert min(np.ptp(straight, axis=0)) == 0
    np.testing.assert_allclose(
      bent.get_xydata(), flow.forward(straight), rtol=1e-9
    )
  points = lambda axes: np.array(axes.collections[0].get_offsets())
  np.testing.assert_allclose(points(data), rows)
  np.testing.assert_allclose(points(latents), flow.inverse(rows), rtol=1e-9)
  np.testing.assert_allclose(
    points(samples), flow.forward(points(prior)), rtol=1e-9
  )


@pytest.mark.slow
def test_csv_of_two_columns(tmp_path):
  rng = np.random.default_rng(0)
  rows = rng.normal(size=[200, 2]) * [1, 50] + [7, 0]
  table = tmp_path / 'table.csv'
  np.savetxt(table, rows, delimiter=',', header='a,b')
  output = program_testing.run(
    'train_vectors',
    '--dataset=csv',
    f'--csv={table}',
    f'--model_dir={tmp_path / "run"}',
    '--num_steps=300',
    '--num_couplings=2',
    '--noise=0',
    '--degrees_of_freedom=inf',
  )
  result = output.split('in nats: Real NVP ')[1]
  flow, gaussian = float(result.split()[0]), float(result.split()[5][:-1])
  entropy = np.log(2 * np.pi) + 1 + np.log(50)
  assert abs(-gaussian - entropy) < 0.3
  # The data are Gaussian, so the flow can match the Gaussian.
  assert abs(flow - gaussian) < 0.3
  picture = tf.io.read_file(str(tmp_path / 'run' / 'mapping.png'))
  assert tf.io.decode_png(picture).shape[:2] == [800, 800]
  assert (tmp_path / 'run' / 'model.weights.h5').exists()


@pytest.mark.parametrize(
  'text, message',
  [
    (None, 'cannot be read'),
    ('a,b\n1,2\n', 'must have at least 10 rows and 2 columns'),
    ('a,b\n' + 9 * '1,2\n' + '3,x\n', 'line 11, column 2 is not a finite'),
    ('a,b\n' + 9 * '1,2\n' + '3\n', 'cannot be read'),
  ],
)
def test_wrong_tables_are_named(text, message, tmp_path):
  path = tmp_path / 'table.csv'
  if text is not None:
    path.write_text(text)
  with pytest.raises(SystemExit, match=f'--csv={path}.*{message}'):
    train_vectors.load_rows('csv', str(path))
