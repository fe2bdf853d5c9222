"""Tests what the figures show."""

from matplotlib import figure
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
from tfp_realnvp import figures

tfd = tfp.distributions


def test_lines_of_the_grid_are_bent_by_the_flow():
  flow = flow_testing.randomize(
    flow_testing.chain(
      (2,), num_couplings=2, hidden_units=(4,), dtype=tf.float64
    )
  )
  base = flow_testing.isotropic_normal([2], tf.float64)
  distribution = tfd.TransformedDistribution(base, flow)
  rows = distribution.sample(40, seed=[0, 1]).numpy()
  picture = figures.mapping(distribution, rows, num_lines=3)
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


def test_corner_shows_samples_below_and_the_reference_above():
  rng = np.random.default_rng(0)
  samples = rng.normal(size=[500, 3]) + [0, 10, 20]
  picture = figures.corner(
    samples, ['a', 'b', 'c'], samples + [0, 1, 0], labels=('flow', 'NUTS')
  )
  assert picture.get_suptitle() == 'flow (blue), NUTS (orange)'
  panels = np.reshape(picture.axes, [3, 3])
  assert panels[2, 1].get_xlabel() == 'b'
  assert panels[2, 0].get_ylabel() == 'c'

  def peak(axes):
    (mesh,) = axes.collections
    x, y = mesh.get_coordinates()[:-1, :-1].reshape(-1, 2).T
    weights = np.ravel(np.nan_to_num(np.ma.filled(mesh.get_array(), 0)))
    return np.average(x, weights=weights), np.average(y, weights=weights)

  np.testing.assert_allclose(peak(panels[2, 1]), [10, 20], atol=0.3)
  np.testing.assert_allclose(peak(panels[0, 1]), [11, 0], atol=0.3)
  assert len(panels[1, 1].patches) == 2
  picture = figures.corner(samples, 'abc')
  assert picture.get_suptitle() == 'samples (blue)'
  panels = np.reshape(picture.axes, [3, 3])
  assert not panels[0, 1].axison
  assert len(panels[1, 1].patches) == 1
  assert len(figures.corner(samples[:, :1], 'a').axes) == 1


def test_rank_histograms_have_the_counts_and_the_band():
  ranks = np.array([[0, 9], [0, 5], [3, 4], [9, 9]])
  picture = figures.rank_histograms(ranks, 9, ['a', 'b'], num_bins=5)
  heights = lambda axes: [bar.get_height() for bar in axes.containers[0]]
  assert heights(picture.axes[0]) == [2, 1, 0, 0, 1]
  assert heights(picture.axes[1]) == [0, 0, 2, 0, 2]
  (first, *_, last) = picture.axes[0].containers[0]
  assert first.get_x() <= 0 <= 1 <= first.get_x() + first.get_width()
  assert last.get_x() <= 8 <= 9 <= last.get_x() + last.get_width()
  band = next(p for p in picture.axes[0].patches if p.get_width() == 1)
  # Of 4 ranks, 4 are in a bin with probability 1 / 625, 3 with 16 / 625.
  assert (band.get_y(), band.get_height()) == (0, 3)


def test_lattice_fields_are_far_apart_and_have_their_means():
  rng = np.random.default_rng(0)
  samples = rng.normal(size=[40, 2, 4, 4, 1])
  picture = figures.lattice_fields(
    samples, samples[:20] + 1, num_fields=2, labels=('flow', 'HMC')
  )
  means, *panels = picture.axes[:5]
  # A column of the first set, then the next; later the second set.
  flat = samples[..., 0].reshape(80, 4, 4)
  for axes, field in zip(
    panels, (flat[0], flat[40], flat[0] + 1, flat[20] + 1)
  ):
    np.testing.assert_array_equal(axes.images[0].get_array(), field)
  assert [axes.get_ylabel() for axes in panels] == ['flow', '', 'HMC', '']
  names = [text.get_text() for text in means.get_legend().get_texts()]
  assert names == ['flow', 'HMC']
  first, second = (patch.get_xy() for patch in means.patches)
  center = lambda steps: np.average(steps[:, 0], weights=steps[:, 1])
  np.testing.assert_allclose(center(second) - center(first), 1, atol=0.1)
