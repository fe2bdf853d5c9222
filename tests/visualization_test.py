import numpy as np
import pytest

from tfp_realnvp import visualization


def test_to_uint8_floors_clips_and_scales():
  np.testing.assert_array_equal(
    visualization.to_uint8(np.array([-3.0, 0.9, 17.2, 255.99, 300.0])),
    [0, 0, 17, 255, 255],
  )
  value = visualization.to_uint8(np.array([0.0, 8.5, 16.9, 20.0]), 17)
  assert value.dtype == np.uint8
  np.testing.assert_array_equal(value, [0, 128, 255, 255])


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


def test_side_by_side():
  left = np.zeros([2, 3, 1], np.uint8)
  right = np.ones([2, 1, 1], np.uint8)
  np.testing.assert_array_equal(
    visualization.side_by_side(left, right, gap=2)[..., 0],
    [[0, 0, 0, 255, 255, 1]] * 2,
  )


def test_errors_name_the_argument_and_show_the_value():
  with pytest.raises(ValueError, match=r'`images` must .* got \(2, 2, 3\)'):
    visualization.image_grid(np.zeros([2, 2, 3]))
  with pytest.raises(ValueError, match='`num_columns` .* got 0, 1 and 1'):
    visualization.image_grid(np.zeros([1, 2, 2, 3]), num_columns=0)
  with pytest.raises(ValueError, match='`images` must be uint8, got float64'):
    visualization.image_grid(np.zeros([1, 2, 2, 3]))
  picture = np.zeros([2, 3, 1], np.uint8)
  with pytest.raises(ValueError, match=r'`left` and `right` .*\(3, 3, 1\)'):
    visualization.side_by_side(picture, np.zeros([3, 3, 1], np.uint8))
  with pytest.raises(ValueError, match='`gap` must be .* got -1'):
    visualization.side_by_side(picture, picture, gap=-1)


def test_nan_is_black():
  np.testing.assert_array_equal(
    visualization.to_uint8(np.array([np.nan, np.inf, -np.inf])), [0, 255, 0]
  )
