import numpy as np
import pytest
import tensorflow as tf

from tests import flow_testing
from tfp_realnvp import visualization


def test_to_uint8_floors_clips_and_scales():
  np.testing.assert_array_equal(
    visualization.to_uint8(np.array([-3.0, 0.9, 17.2, 255.99, 300.0])),
    [0, 0, 17, 255, 255],
  )
  value = visualization.to_uint8(np.array([0.0, 8.5, 16.9, 20.0]), 17)
  assert value.dtype == np.uint8
  np.testing.assert_array_equal(value, [0, 128, 255, 255])


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  'dtype, values, num_levels, expected',
  [
    (bool, [False, True], 2, [0, 255]),
    ('int8', [-128, 0, 127], 256, [0, 0, 127]),
    ('uint8', [0, 255], 1000, [0, 65]),
    ('int16', [-1, 1000, 2**15 - 1], 2**16, [0, 4, 127]),
    ('uint16', [0, 2**16 - 1], 2**16, [0, 255]),
    ('int64', [-5, 3, 20], 17, [0, 48, 255]),
    ('float16', [0.5, 32768.0, 65504.0], 2**16, [0, 128, 255]),
    ('float32', [2**24, 2**25], 2**25 + 1, [128, 255]),
  ],
)
def test_to_uint8_of_every_dtype(dtype, values, num_levels, expected):
  for pixels in (np.array(values, dtype), tf.constant(values, dtype)):
    value = visualization.to_uint8(pixels, num_levels)
    assert value.dtype == np.uint8
    np.testing.assert_array_equal(value, expected)
  bfloat16 = tf.constant([-1.0, 8.5, 16.0], tf.bfloat16)
  np.testing.assert_array_equal(
    visualization.to_uint8(bfloat16, 17), [0, 128, 255]
  )


def test_image_grid_by_hand():
  images = np.array([1, 2, 3], np.uint8).reshape(3, 1, 1, 1)
  np.testing.assert_array_equal(
    visualization.image_grid(images, num_columns=2)[..., 0],
    [
      [255, 255, 255, 255, 255],
      [255, 1, 255, 2, 255],
      [255, 255, 255, 255, 255],
      [255, 3, 255, 255, 255],
      [255, 255, 255, 255, 255],
    ],
  )


def test_image_grid_zooms():
  images = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1)
  np.testing.assert_array_equal(
    visualization.image_grid(images, 1, zoom=2, padding=0)[..., 0],
    [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]],
  )


def test_image_grid_marks_in_red():
  images = np.array([7, 8], np.uint8).reshape(2, 1, 1, 1)
  grid = visualization.image_grid(images, num_columns=2, marked=iter([1]))
  red, white = [255, 0, 0], [255, 255, 255]
  np.testing.assert_array_equal(
    grid,
    [
      [white, white, red, red, red],
      [white, [7, 7, 7], red, [8, 8, 8], red],
      [white, white, red, red, red],
    ],
  )


def test_manifold_by_equation_19():
  latents = np.random.default_rng(0).normal(size=[4, 2, 3])
  points = visualization.manifold(latents, num_angles=8)
  assert points.shape == (8, 8, 2, 3)
  # The four corners of the first quarter are the latents.
  for z, (row, column) in zip(latents, [(0, 0), (2, 0), (0, 2), (2, 2)]):
    np.testing.assert_allclose(points[row, column], z, atol=1e-15)
  z_1, z_2, z_3, z_4 = latents
  for column, row in [(1, 0), (3, 5), (6, 7)]:
    phi, phi_ = column * np.pi / 4, row * np.pi / 4
    z = np.cos(phi) * (np.cos(phi_) * z_1 + np.sin(phi_) * z_2) + np.sin(
      phi
    ) * (np.cos(phi_) * z_3 + np.sin(phi_) * z_4)
    np.testing.assert_allclose(points[row, column], z, rtol=1e-12)
  assert visualization.manifold(latents.astype('f4')).dtype == np.float32


@pytest.mark.parametrize('dtype', [bool, 'uint8', 'int64', 'bfloat16'])
def test_manifold_of_latents_that_are_not_floats(dtype):
  latents = tf.constant([[0, 1], [1, 1], [1, 0], [0, 0]])
  points = visualization.manifold(tf.cast(latents, dtype), num_angles=8)
  assert points.dtype == np.float64
  expected = visualization.manifold(latents.numpy().astype(float), 8)
  np.testing.assert_array_equal(points, expected)
  np.testing.assert_allclose(points[1, 0], [0.5**0.5, 2**0.5])


def test_keep_coarse_replaces_the_finest_scales():
  flow = flow_testing.chain((8, 8, 2), num_scales=3)
  rng = np.random.default_rng(0)
  z, fresh = rng.normal(size=[2, 1, 8, 8, 2]).astype(np.float32)
  results = visualization.keep_coarse(flow, z, fresh)
  assert len(results) == 3
  for i, result in enumerate(results):
    scales = zip(*(flow.split_latents(x) for x in (result, z, fresh)))
    for scale, (found, kept, replaced) in enumerate(scales):
      np.testing.assert_array_equal(found, replaced if scale < i else kept)
  # 100, 50 and 25 % are kept.
  shares = [np.mean(result == z) for result in results]
  assert shares == [1, 0.5, 0.25]


def test_side_by_side():
  left = np.zeros([2, 3, 1], np.uint8)
  right = np.ones([2, 1, 1], np.uint8)
  np.testing.assert_array_equal(
    visualization.side_by_side(left, right, gap=2)[..., 0],
    [[0, 0, 0, 255, 255, 1]] * 2,
  )


def test_nan_is_black():
  np.testing.assert_array_equal(
    visualization.to_uint8(np.array([np.nan, np.inf, -np.inf])), [0, 255, 0]
  )
