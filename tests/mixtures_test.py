"""Tests mixtures of Gaussians and the base distributions that start as one."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import mixtures

tfd = tfp.distributions


def _clusters(count):
  rng = np.random.default_rng(0)
  centers = 10.0 * rng.integers(2, size=[count, 1])
  return centers + rng.normal(size=[count, 2]) @ [[1.0, 0.5], [0.0, 0.3]]


def test_validation_rows_choose_the_number_of_components(monkeypatch):
  monkeypatch.setattr(mixtures, 'NUM_COMPONENTS', (1, 2, 64, 200))
  rows = _clusters(300)
  fitted = mixtures.fit(rows[:200], rows[200:], seed=0)
  assert fitted.n_components == 2
  np.testing.assert_allclose(np.sort(fitted.means_[:, 0]), [0, 10], atol=0.2)
  fitted = mixtures.fit(rows[:200], rows[200:], seed=0, num_components=5)
  assert fitted.n_components == 5


def test_base_starts_as_the_fitted_mixture_and_trains():
  rows = _clusters(300)
  fitted = mixtures.fit(rows, rows, seed=0, num_components=2)
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  base = mixtures.base(
    tfd.Sample(tfd.Normal(zero, one), [2]),
    fitted.weights_,
    fitted.means_,
    fitted.covariances_,
  )
  with tf.GradientTape() as tape:
    log_prob = base.log_prob(rows)
  np.testing.assert_allclose(log_prob, fitted.score_samples(rows))
  gradients = tape.gradient(log_prob, base.trainable_variables)
  assert [*map(np.shape, gradients)] == [(2, 2), (2, 3), (2,)]
  # EM ends where the likelihood is stationary in all parameters.
  for gradient in gradients:
    np.testing.assert_allclose(gradient, tf.zeros_like(gradient), atol=0.1)
  samples = base.sample(20_000, seed=[0, 0])
  mean, cov = np.mean(samples, 0), np.cov(samples, rowvar=False)
  np.testing.assert_allclose(mean, rows.mean(0), atol=0.2)
  np.testing.assert_allclose(cov, np.cov(rows.T), rtol=0.05)


def test_components_are_affine_images_of_the_prior():
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  cov = np.array([[[4.0, 2.0], [2.0, 2.0]]])
  base = mixtures.base(
    tfd.Sample(tfd.StudentT(4 * one, zero, one), [2]),
    np.ones(1),
    np.array([[1.0, -1.0]]),
    cov,
  )
  # scale = [[2, 0], [1, 1]]
  x = np.array([[1.0, -1.0], [3.0, 2.0]])
  standard = [[0.0, 0.0], [1.0, 2.0]]
  expected = tfd.StudentT(4 * one, zero, one).log_prob(standard)
  np.testing.assert_allclose(
    base.log_prob(x), np.sum(expected, -1) - np.log(2.0)
  )


def test_more_components_than_rows_are_an_error():
  rows = _clusters(5)
  with pytest.raises(ValueError, match='n_components = 6, n_samples = 5'):
    mixtures.fit(rows, rows, seed=0, num_components=6)
