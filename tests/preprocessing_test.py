"""Tests the parts, the whitening and the noise of tables, by hand."""

import numpy as np
import pandas as pd

from tfp_realnvp import preprocessing


def test_noise_stands_on_some_columns():
  table = pd.DataFrame({'a': [1.0] * 1000, 'b': [2.0] * 1000})
  rows = preprocessing.dequantize(table, ['b'], seed=0)
  np.testing.assert_array_equal(rows[:, 0], 1)
  assert rows[:, 1].min() >= 2
  assert rows[:, 1].max() < 3
  assert abs(rows[:, 1].mean() - 2.5) < 0.05
  np.testing.assert_array_equal(
    preprocessing.dequantize(table, [], seed=0), table
  )


def test_split_parts_the_rows():
  rows = np.arange(20.0).reshape(10, 2)
  parts = preprocessing.split(rows, seed=0)
  assert [len(part) for part in parts] == [6, 2, 2]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts), axis=0), rows)


def test_whitening_by_hand():
  # The columns have variances 1 and 4, and covariance 1.
  rng = np.random.default_rng(0)
  rows = rng.normal(size=[50, 2]) @ [[1.0, 1.0], [0.0, np.sqrt(3)]] + [5, -5]
  whiten = preprocessing.whitening(rows)
  white = whiten.inverse(rows).numpy()
  np.testing.assert_allclose(white.mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(2), atol=1e-12)
