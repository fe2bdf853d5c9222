import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp
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


@pytest.mark.parametrize(
  'dtype, num_levels, values, expected',
  [
    # The bound, or what lies below it, is beyond the dtype.
    ('int8', 256, [-128, -1, 0, 127], [False, False, True, True]),
    ('int8', 100, [-1, 99, 100, 127], [False, True, False, False]),
    ('int16', 65536, [-(2**15), -1, 0, 2**15 - 1], [False, False, True, True]),
    ('int32', 2**31, [-(2**31), -1, 0, 2**31 - 1], [False, False, True, True]),
    ('int32', 2**40, [-1, 2**31 - 1], [False, True]),
    ('int64', 2**31, [-1, 2**31 - 1, 2**31], [False, True, False]),
    ('uint8', 256, [0, 255], [True, True]),
    ('uint8', 1000, [0, 255], [True, True]),
    ('uint8', 17, [16, 17], [True, False]),
    ('uint16', 65536, [0, 65535], [True, True]),
    ('float16', 65536, [-1, 65504, np.inf], [False, True, False]),
    ('float16', 2049, [2048, 2050], [True, False]),
    ('bfloat16', 257, [255, 256, 258], [True, True, False]),
    ('float32', 2**24 + 1, [2**24, 2**24 + 2], [True, False]),
  ],
)
def test_range_of_every_dtype(dtype, num_levels, values, expected):
  x = tf.constant(values, dtype)
  for is_on_range in (
    pixels.is_on_range,
    tf.function(pixels.is_on_range, jit_compile=True),
  ):
    np.testing.assert_array_equal(is_on_range(x, num_levels), expected)


def test_assert_on_range_of_signed_pixels():
  x = tf.constant([0, 127], tf.int8)
  np.testing.assert_array_equal(pixels.assert_on_range(x, 256), x)
  with pytest.raises(tf.errors.InvalidArgumentError, match=r'value is\D+-7'):
    pixels.assert_on_range(tf.constant([3, -7], tf.int8), 256)


@pytest.mark.parametrize(
  'dtype, largest',
  [
    (tf.float64, 2**50),
    (tf.float32, 2**21),
    (tf.float16, 2**8),
    (tf.bfloat16, 2**5),
  ],
)
def test_number_of_levels_that_a_dtype_can_hold(dtype, largest):
  pixels.check_num_levels(largest, dtype)
  with pytest.raises(
    ValueError,
    match=f'`num_levels` must be at most {largest} for pixels in {dtype.name}: '
    f'.* got {largest + 1}',
  ):
    pixels.check_num_levels(largest + 1, dtype)
  # A logit and its inverse keep the levels apart.
  if dtype != tf.bfloat16:
    logit = tfp_realnvp.LogitTransform(largest, dtype=dtype)
    step = max(1, largest // 1000)
    levels = np.concatenate([[largest - 1], np.arange(0, largest, step)])
    x = pixels.dequantize(tf.constant(levels), tf.constant(0.5, dtype), largest)
    back = logit.inverse(tf.identity(logit.forward(x)))
    np.testing.assert_array_equal(tf.cast(back, tf.int64), levels)
