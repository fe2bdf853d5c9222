"""Tests posteriors, their training and their files."""

import keras
import numpy as np
import pandas as pd
import pytest

from tests import flow_testing
from tfp_realnvp import posterior_flows


def _tables(count=50):
  rng = np.random.default_rng(0)
  theta = rng.normal(size=[count, 2]) * [1, 100] + [7, -3]
  x = theta @ [[1, 0, 2], [0, 0.1, 0]] + rng.normal(size=[count, 3])
  return pd.DataFrame(theta, columns=['a', 'b']), pd.DataFrame(x)


def _posterior(theta, x, couplings='affine'):
  return posterior_flows.Posterior(
    posterior_flows.Standardization.of(theta),
    posterior_flows.Standardization.of(x),
    couplings,
  )


def test_standardization_by_hand():
  table = pd.DataFrame({'a': [1.0, 3.0], 'b': [-10.0, 10.0]})
  standardization = posterior_flows.Standardization.of(table)
  assert standardization.columns == ['a', 'b']
  rows = standardization.forward(np.array([[2.0, 20.0]]))
  np.testing.assert_array_equal(rows, [[0, 2]])
  assert rows.dtype == np.float32
  np.testing.assert_array_equal(standardization.inverse(rows), [[2, 20]])


def test_samples_are_those_of_standardized_data_in_the_units_of_theta():
  theta, x = _tables()
  posterior = _posterior(theta, x)
  flow_testing.randomize(posterior.distribution.bijector)
  data = x.iloc[[x[0].argmin(), x[0].argmax()]].to_numpy()
  samples = posterior.sample(20_000, data)
  assert samples.shape == (20_000, 2, 2)
  condition = posterior.x.forward(data)
  expected = posterior.distribution.sample(
    [20_000, 2], seed=[0, 20_000], bijector_kwargs={'condition': condition}
  )
  scale, mean = theta.to_numpy().std(0), theta.to_numpy().mean(0)
  np.testing.assert_allclose(
    samples, expected * scale + mean, rtol=1e-3, atol=1e-3
  )
  # The samples depend on the data.
  assert np.abs(np.diff(samples.mean(0), axis=0) / scale).max() > 0.1


def test_densities_are_those_of_theta_in_its_units():
  theta, x = _tables()
  posterior = _posterior(theta, x)
  flow_testing.randomize(posterior.distribution.bijector)
  edges = [np.linspace(-30, 30, 400), np.linspace(-3000, 3000, 400)]
  grid = np.stack(np.meshgrid(*edges), axis=-1).reshape(-1, 2)
  data = np.tile(x.to_numpy()[:1], [len(grid), 1])
  density = np.exp(posterior.log_prob(grid, data))
  cell = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
  np.testing.assert_allclose(density.sum() * cell, 1, rtol=0.02)


@pytest.mark.parametrize('couplings', ['affine', 'spline'])
def test_posteriors_are_loaded_again(couplings, tmp_path):
  theta, x = _tables()
  posterior = _posterior(theta, x, couplings)
  flow_testing.randomize(posterior.distribution.bijector)
  posterior.save(tmp_path)
  again = posterior_flows.load(tmp_path)
  assert again.theta.columns == ['a', 'b']
  assert again.couplings == couplings
  np.testing.assert_array_equal(
    again.log_prob(theta.to_numpy(), x.to_numpy()),
    posterior.log_prob(theta.to_numpy(), x.to_numpy()),
  )


class _Interrupt(keras.callbacks.Callback):
  """Raises as Ctrl-C does, in the middle of an epoch."""

  def __init__(self, epoch):
    super().__init__()
    self._epoch = epoch

  def on_epoch_begin(self, epoch, logs=None):
    if epoch == self._epoch:
      raise KeyboardInterrupt


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_weights_so_far(monkeypatch):
  theta, x = _tables(568)  # Two whole batches: one compilation.
  fit = posterior_flows.density_estimator.DensityEstimator.fit

  def interrupted(epoch):
    def fit_until(self, *args, callbacks, **kwargs):
      callbacks = [*callbacks, _Interrupt(epoch)]
      return fit(self, *args, callbacks=callbacks, **kwargs)

    monkeypatch.setattr(
      posterior_flows.density_estimator.DensityEstimator, 'fit', fit_until
    )

  posterior = _posterior(theta, x)
  interrupted(2)
  results = posterior_flows.fit(posterior, theta.to_numpy(), x.to_numpy(), 5)
  assert results['interrupted']
  assert results['epochs'] == 2
  validation = posterior.log_prob(theta.to_numpy()[:56], x.to_numpy()[:56])
  nats = -validation.mean() - np.log(theta.to_numpy().std(0)).sum()
  np.testing.assert_allclose(nats, results['validation_nats'], rtol=1e-4)

  interrupted(0)
  with pytest.raises(KeyboardInterrupt):
    posterior_flows.fit(posterior, theta.to_numpy(), x.to_numpy(), 5)


def test_a_validation_loss_that_is_not_finite_is_an_error(monkeypatch):
  def fit(self, *args, callbacks, **kwargs):
    callbacks[-1].best = np.nan

  monkeypatch.setattr(
    posterior_flows.density_estimator.DensityEstimator, 'fit', fit
  )
  theta, x = _tables(20)
  with pytest.raises(FloatingPointError, match='validation loss is nan'):
    posterior_flows.fit(_posterior(theta, x), theta.to_numpy(), x.to_numpy(), 1)
