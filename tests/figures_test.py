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
