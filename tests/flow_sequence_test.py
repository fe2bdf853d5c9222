import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp.bijectors import flow_sequence

tfb = tfp.bijectors
tfd = tfp.distributions


def test_sequence_applies_the_first_bijector_first():
  norm = tfp_realnvp.BatchNormBijector(2, epsilon=1e-9)
  norm.statistics.variance.assign([0.25, 0.25])  # Doubles.
  sequence = flow_sequence.FlowSequence(
    [tfb.Shift(1.0), norm, tfb.Square()], event_ndims=1
  )
  y, fldj = sequence.forward_and_log_det(tf.constant([[1.0, 2.0]]))
  np.testing.assert_allclose(y, [[16.0, 36.0]])
  expected = 2 * np.log(2) + np.log(2 * 4) + np.log(2 * 6)
  np.testing.assert_allclose(fldj, [expected], rtol=1e-6)
  x, ildj = sequence.inverse_and_log_det(y)
  np.testing.assert_allclose(x, [[1.0, 2.0]])
  np.testing.assert_allclose(ildj, -fldj)


def test_a_log_det_that_is_the_same_for_all_is_that_of_each():
  sequence = flow_sequence.FlowSequence([tfb.Scale(2.0)], event_ndims=1)
  _, fldj = sequence.forward_and_log_det(tf.ones([5, 3]))
  np.testing.assert_allclose(fldj, np.full([5], np.log(8)), rtol=1e-6)
