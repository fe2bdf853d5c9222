import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import flow_bijector

tfb = tfp.bijectors


class _Double(flow_bijector.FlowBijector):
  """Doubles every element, and counts its passes."""

  def __init__(self, is_generative=False):
    self._is_generative = is_generative
    self.passes = 0
    super().__init__(forward_min_event_ndims=0, dtype=tf.float32, name='double')

  def _forward_and_log_det(self, x, training=False, condition=None):
    self.passes += 1
    return 2 * x, tf.fill(tf.shape(x), np.float32(np.log(2)))

  def _inverse_and_log_det(self, y, training=False, condition=None):
    self.passes += 1
    return y / 2, tf.fill(tf.shape(y), np.float32(-np.log(2)))


def test_pair_sums_the_log_det_over_the_event():
  x = tf.ones([3, 4, 5])
  y, fldj = _Double().forward_and_log_det(x, event_ndims=2)
  np.testing.assert_array_equal(y, 2 * np.ones([3, 4, 5]))
  np.testing.assert_allclose(fldj, [20 * np.log(2)] * 3, rtol=1e-6)
  _, ildj = _Double().inverse_and_log_det(x)
  np.testing.assert_allclose(ildj, np.full([3, 4, 5], -np.log(2)), rtol=1e-6)


def test_value_and_log_det_take_one_pass():
  bijector = _Double()
  x = tf.ones([3])
  y = bijector.forward(x)
  bijector.forward_log_det_jacobian(x)
  bijector.inverse(y)
  bijector.inverse_log_det_jacobian(y)
  assert bijector.passes == 1


@pytest.mark.parametrize('is_generative', [False, True])
def test_a_call_in_training_is_never_answered_from_the_cache(is_generative):
  bijector = _Double(is_generative)
  method = bijector.inverse if is_generative else bijector.forward
  x = tf.ones([3])
  kept = [method(x, training=True) for _ in range(3)]
  assert len(kept) == bijector.passes == 3
  kept += [method(x, training=False), method(x)]
  assert bijector.passes == 4
