import math

import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp import util


def test_dims_are_static_where_they_can_be():
  @tf.function(input_signature=[tf.TensorSpec([None, 3])])
  def function(x):
    first, second = util.dims(x)
    assert tf.is_tensor(first)
    assert second == 3
    return first

  assert function(tf.ones([5, 3])) == 5


def test_assert_all():
  x = tf.constant([[3.0, -1.0], [-2.0, 4.0]])
  np.testing.assert_array_equal(util.assert_all(x > -9, x, '`x` is high'), x)
  with pytest.raises(tf.errors.InvalidArgumentError) as info:
    util.assert_all(x > 0, x, '`x` must be above 0')
  assert 'above 0; the first invalid value is' in str(info.value)
  assert '-1' in str(info.value) and '-2' not in str(info.value)


def test_check_int():
  assert util.check_int(np.int64(3), 'n') == 3
  assert util.check_int(None, 'n', optional=True) is None
  for value in (0, 1.5, True, None, 'a'):
    with pytest.raises(ValueError, match='`n` must be an int of at least 1, g'):
      util.check_int(value, 'n')
  with pytest.raises(ValueError, match='at least 2, or None, got 1'):
    util.check_int(1, 'n', minimum=2, optional=True)


def test_check_positive():
  util.check_positive(0.5, 'bound')
  for value in (0, -1.0, math.inf, math.nan, '1', None):
    with pytest.raises(ValueError, match=f'`bound` must be .* got {value!r}'):
      util.check_positive(value, 'bound')


def test_the_same_int_is_the_same_seed():
  seed = util.stateless_seed(3)
  np.testing.assert_array_equal(util.stateless_seed(3), seed)
  assert np.any(util.stateless_seed(4).numpy() != seed.numpy())
  np.testing.assert_array_equal(util.stateless_seed(seed), seed)


def test_what_is_no_tensor_is_named():
  with pytest.raises(TypeError, match='`x` must be convertible to a float32'):
    util.to_tensor('a', tf.float32, 'x')
