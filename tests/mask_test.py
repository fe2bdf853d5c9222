import numpy as np
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
