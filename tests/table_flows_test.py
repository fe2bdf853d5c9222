"""Tests the distributions, their training, and the choice between settings."""

import dataclasses

import numpy as np
import pytest

from tfp_realnvp import diagnostics
from tfp_realnvp import preprocessing
from tfp_realnvp import table_flows
from tfp_realnvp import table_settings

_TINY = table_settings.Settings(
  couplings='affine', num_couplings=2, hidden_size=8, num_steps=20
)


def _rows():
  rng = np.random.default_rng(0)
  return rng.normal(size=[200, 2]) @ [[3.0, 1.0], [0.0, 0.5]] + [10.0, -5.0]


@pytest.mark.parametrize('degrees_of_freedom', [np.inf, 4.0])
def test_couplings_model_whitened_rows(degrees_of_freedom):
  rows = _rows()
  whiten = preprocessing.whitening(rows)
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


def _fit(model_dir, settings):
  rows = _rows()
  whiten = preprocessing.whitening(rows)
  model_dir.mkdir(exist_ok=True)
  return table_flows.fit(
    model_dir, ['a', 'b'], ['b'], whiten, rows[:150], rows[150:], settings
  )


@pytest.mark.slow
def test_the_settings_with_the_best_validation_are_kept(capsys, tmp_path):
  # Without steps that matter, the wrong prior stays wrong.
  good = dataclasses.replace(_TINY, learning_rate=1e-6)
  bad = dataclasses.replace(good, degrees_of_freedom=0.5)
  flow = _fit(tmp_path, {'bad': bad, 'good': good})
  assert flow.columns == ('a', 'b')
  assert flow.dequantized == ('b',)
  assert flow.settings == good
  value = flow.distribution.log_prob(_rows()[150:]).numpy().mean()
  output = capsys.readouterr().out
  assert f"Settings 'good': {value:.3f} nats" in output
  assert "Settings 'bad': " in output


@pytest.mark.slow
def test_flow_of_a_mixture_starts_as_the_mixture(tmp_path):
  rows = _rows()
  rows[::2, 0] += 30.0
  whiten = preprocessing.whitening(rows)
  settings = dataclasses.replace(
    _TINY, couplings='spline', num_components=0, learning_rate=1e-9
  )
  # It would shrink the means by 1 % in each step.
  settings = dataclasses.replace(settings, weight_decay=1e7)
  flow = table_flows.fit(
    tmp_path, ['a', 'b'], [], whiten, rows[:150], rows[150:], {'m': settings}
  )
  assert flow.settings == dataclasses.replace(settings, num_components=2)
  (_, expected, count) = diagnostics.gaussian_mixtures(
    whiten, rows[:150], rows[150:], rows, seed=0
  )
  assert count == 2
  np.testing.assert_allclose(
    flow.distribution.log_prob(rows), expected, atol=1e-4
  )
  again = table_flows.load(tmp_path)
  np.testing.assert_array_equal(
    again.distribution.log_prob(rows), flow.distribution.log_prob(rows)
  )


@pytest.mark.slow
def test_the_weights_with_the_best_validation_are_kept(tmp_path):
  settings = dataclasses.replace(_TINY, learning_rate=0.1, num_steps=200)
  flow = _fit(tmp_path, {'wild': settings})
  metrics = np.genfromtxt(tmp_path / 'wild.csv', delimiter=',', names=True)
  assert len(metrics) == 20
  # Not the last ones: the flow was the best earlier.
  assert metrics['val_loss'].argmin() < 19
  value = flow.distribution.log_prob(_rows()[150:]).numpy().mean()
  np.testing.assert_allclose(-value, metrics['val_loss'].min(), rtol=1e-6)
  again = table_flows.load(tmp_path)
  np.testing.assert_array_equal(
    again.distribution.log_prob(_rows()), flow.distribution.log_prob(_rows())
  )


@pytest.mark.slow
def test_settings_that_diverge_do_not_hide_the_others(tmp_path):
  diverging = dataclasses.replace(_TINY, learning_rate=np.nan, num_steps=40)
  flow = _fit(tmp_path, {'good': _TINY, 'diverging': diverging})
  assert flow.settings == _TINY
  with pytest.raises(
    FloatingPointError, match='was finite .* Lower the learning'
  ):
    _fit(tmp_path / 'other', {'diverging': diverging})


@pytest.mark.slow
def test_noise_is_relative_to_whitened_rows(monkeypatch, tmp_path):
  batches = []
  fit = table_flows.density_estimator.DensityEstimator.fit

  def record(self, rows, **kwargs):
    batches.extend(batch.numpy() for batch in rows.take(40))
    return fit(self, rows, **kwargs)

  monkeypatch.setattr(
    table_flows.density_estimator.DensityEstimator, 'fit', record
  )
  rows = np.repeat([[1.0, 2.0]], 64, axis=0)
  whiten = preprocessing.whitening(_rows())
  settings = dataclasses.replace(_TINY, noise=0.4, num_steps=1)
  table_flows.fit(
    tmp_path, ['a', 'b'], [], whiten, rows, rows, {'noisy': settings}
  )
  noise = np.concatenate(batches) - [1.0, 2.0]
  np.testing.assert_allclose(
    np.cov(noise.T), 0.16 * np.cov(_rows().T), rtol=0.1, atol=0.005
  )
