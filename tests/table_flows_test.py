"""Tests the settings, the distributions and the choice between settings."""

import dataclasses

import numpy as np
import pytest

from tfp_realnvp import table_flows
from tfp_realnvp import tables

_TINY = table_flows.Settings(num_couplings=2, hidden_size=8, num_steps=20)


def _rows():
  rng = np.random.default_rng(0)
  return rng.normal(size=[200, 2]) @ [[3.0, 1.0], [0.0, 0.5]] + [10.0, -5.0]


@pytest.mark.parametrize(
  'num_rows, names',
  [(4999, ('regularized', 'flexible')), (5000, ('large',))],
)
def test_few_rows_have_two_settings(num_rows, names):
  assert table_flows.candidates(num_rows) == names


def test_unknown_couplings_are_named():
  message = r"one of \['affine', 'spline'\], got 'cubic'"
  with pytest.raises(ValueError, match=message):
    table_flows.Settings(couplings='cubic')


@pytest.mark.parametrize('degrees_of_freedom', [np.inf, 4.0])
def test_couplings_model_whitened_rows(degrees_of_freedom):
  rows = _rows()
  whiten = tables.whitening(rows)
  settings = dataclasses.replace(_TINY, degrees_of_freedom=degrees_of_freedom)
  distribution = table_flows.build_distribution(whiten, settings, seed=0)
  flow = distribution.bijector.bijectors[1]
  assert len(flow.trainable_variables) == 2 * 4
  latents = flow.inverse(whiten.inverse(rows))
  jacobian = np.linalg.cholesky(np.cov(rows.T, bias=True))
  expected = (
    distribution.distribution.log_prob(latents)
    + flow.inverse_log_det_jacobian(whiten.inverse(rows), event_ndims=1)
    - np.log(np.diag(jacobian)).sum()
  )
  np.testing.assert_allclose(distribution.log_prob(rows), expected)


def test_the_settings_with_the_best_validation_are_kept(capsys):
  rows = _rows()
  whiten = tables.whitening(rows)
  # Without steps that matter, the wrong prior stays wrong.
  settings = {
    'good': dataclasses.replace(_TINY, learning_rate=1e-6),
    'bad': dataclasses.replace(
      _TINY, learning_rate=1e-6, degrees_of_freedom=0.5
    ),
  }
  for order in (['good', 'bad'], ['bad', 'good']):
    model = table_flows.fit_best(
      whiten, rows[:150], rows[150:], {name: settings[name] for name in order}
    )
    good = table_flows.fit(whiten, rows[:150], rows[150:], settings['good'])
    values = model.predict(rows[150:], verbose=0)
    np.testing.assert_allclose(values, good.predict(rows[150:], verbose=0))
    output = capsys.readouterr().out
    assert f"Settings 'good': {values.mean():.3f} nats" in output
    assert "Settings 'bad': " in output


def test_noise_is_relative_to_whitened_rows(monkeypatch):
  batches = []
  fit = table_flows.density_estimator.DensityEstimator.fit

  def record(self, rows, **kwargs):
    batches.extend(batch.numpy() for batch in rows.take(40))
    return fit(self, rows, **kwargs)

  monkeypatch.setattr(
    table_flows.density_estimator.DensityEstimator, 'fit', record
  )
  rows = np.repeat([[1.0, 2.0]], 64, axis=0)
  whiten = tables.whitening(_rows())
  settings = dataclasses.replace(_TINY, noise=0.4, num_steps=1)
  table_flows.fit(whiten, rows, rows, settings)
  noise = np.concatenate(batches) - [1.0, 2.0]
  np.testing.assert_allclose(
    np.cov(noise.T), 0.16 * np.cov(_rows().T), rtol=0.1, atol=0.005
  )
