import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp.bijectors import mask


def test_checkerboard_keeps_odd_sums_as_the_paper_does():
  expected = [[0, 1, 0], [1, 0, 1]]
  value = mask.checkerboard_mask((2, 3, 5))
  assert value.dtype == bool
  np.testing.assert_array_equal(value[..., 0], expected)
  np.testing.assert_array_equal(mask.checkerboard_mask((2, 3, 5), 0), ~value)


def test_checkerboard_of_dynamic_size():
  @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
  def dynamic(size):
    return mask.checkerboard_mask((size[0], size[1], 1))

  np.testing.assert_array_equal(
    dynamic([3, 4]), mask.checkerboard_mask((3, 4, 1))
  )


def test_channel_mask_keeps_the_first_half():
  np.testing.assert_array_equal(
    mask.channel_mask((8, 8, 4)), [[[True, True, False, False]]]
  )
  np.testing.assert_array_equal(
    mask.channel_mask((5,)), [True, True, False, False, False]
  )
  np.testing.assert_array_equal(
    mask.channel_mask((5,), parity=0), [False, False, True, True, True]
  )


def test_errors_name_the_argument_and_show_the_value():
  with pytest.raises(ValueError, match=r'`event_shape`.*can be split.*8, 8, 1'):
    mask.channel_mask((8, 8, 1))
  with pytest.raises(ValueError, match=r'`event_shape`.*None'):
    mask.channel_mask((None,))
  with pytest.raises(ValueError, match='`parity` must be 0 or 1, got 2'):
    mask.channel_mask((4,), parity=2)
  with pytest.raises(ValueError, match='`parity` must be 0 or 1, got 2'):
    mask.checkerboard_mask((4, 4, 1), parity=2)
  with pytest.raises(ValueError, match=r'`event_shape` must be \(H, W, C\)'):
    mask.checkerboard_mask((4, 4))
  for event_shape in (None, 4, np.int64(4), '444', (2.5, 4, 1), (True, 4, 1)):
    with pytest.raises(ValueError, match='`event_shape` must'):
      mask.checkerboard_mask(event_shape)
    with pytest.raises(ValueError, match='`event_shape` must'):
      mask.channel_mask(event_shape)
  with pytest.raises(ValueError, match='`parity` must be 0 or 1'):
    mask.channel_mask((4,), parity=np.array([0, 1]))
