import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp import pixels


def test_dequantize_replaces_the_fraction_by_noise():
  x = tf.constant([0.0, 3.0, 3.7])
  noise = tf.constant([0.25, 0.5, 0.125])
  np.testing.assert_array_equal(
    pixels.dequantize(x, noise, 8), [0.25, 3.5, 3.125]
  )
  np.testing.assert_array_equal(
    pixels.dequantize(tf.constant([7], tf.uint8), tf.constant([0.5]), 8), [7.5]
  )


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_dequantize_stays_below_the_number_of_levels(dtype):
  almost_one = tf.constant([np.nextafter(dtype.as_numpy_dtype(1), 0)], dtype)
  y = pixels.dequantize(tf.constant([255], tf.uint8), almost_one, 256)
  assert 255 < y[0] < 256


@pytest.mark.parametrize('value', [-0.5, 256.0, np.nan, np.inf])
def test_assert_on_range_shows_the_offending_value(value):
  x = tf.constant([[0.0, 255.9], [value, 1.0]])
  with pytest.raises(
    tf.errors.InvalidArgumentError,
    match=r'`image` must be pixels on \[0, 256\)',
  ) as error:
    tf.function(pixels.assert_on_range)(x, 256, 'image')
  assert str(value).split('.')[0] in str(error.value)


def test_assert_on_range_passes_pixels_on():
  x = tf.constant([0.0, 255.9])
  np.testing.assert_array_equal(pixels.assert_on_range(x, 256), x)
