import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import factor_out

tfb = tfp.bijectors


def test_first_half_goes_on_and_second_half_is_latent():
  bijector = factor_out.FactorOut(tfb.Scale(tf.constant([2.0, 4.0])))
  x = tf.constant([[1.0, 1.0, 3.0, 5.0]])
  y, fldj = bijector.forward_and_log_det(x)
  np.testing.assert_array_equal(y, [[2.0, 4.0, 3.0, 5.0]])
  np.testing.assert_allclose(fldj, [np.log(8.0)], rtol=1e-6)
  onward, latent = bijector.split(y)
  np.testing.assert_array_equal(onward, [[2.0, 4.0]])
  np.testing.assert_array_equal(latent, [[3.0, 5.0]])
  np.testing.assert_array_equal(bijector.merge(onward, latent), y)


def test_holds_its_bijector():
  inner = tfb.Exp()
  assert factor_out.FactorOut(inner).bijector is inner


def test_a_log_det_that_is_the_same_for_all_is_that_of_each():
  bijector = factor_out.FactorOut(tfb.Scale(2.0))
  _, fldj = bijector.forward_and_log_det(tf.ones([5, 3, 4]))
  np.testing.assert_allclose(fldj, np.full([5, 3], np.log(4)), rtol=1e-6)
