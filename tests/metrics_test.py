import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.training import metrics

tfd = tfp.distributions


def _floats(results):
  return {name: float(value) for name, value in results.items()}


def test_by_hand():
  found = metrics.LikelihoodMetrics(tfd.MultivariateNormalDiag([0.0, 0.0]))
  ln2 = np.log(2).astype(np.float32)
  log_prob = tf.constant([-2 * ln2, -6 * ln2, np.nan])
  weight = tf.constant([1.0, 3.0, 0.0])
  results = _floats(found.update(log_prob, weight, l2_term=0.5))
  np.testing.assert_allclose(results['bits_per_dim'], (1 + 9) / 4, rtol=1e-6)
  np.testing.assert_allclose(results['loss'], 5 * ln2 + 0.5, rtol=1e-6)
  assert results['non_finite'] == 0
  # A batch that was skipped is counted, and not in the means.
  again = found.update(log_prob, None, l2_term=np.nan, skipped=True)
  again = _floats(again)
  assert again['non_finite'] == 3
  assert again['bits_per_dim'] == results['bits_per_dim']
