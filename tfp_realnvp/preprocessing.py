"""Splits, whitens and dequantizes the rows of tables.

Needs pandas, which `pip install 'tfp_realnvp[examples]'` installs.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import tensorflow_probability as tfp

__all__ = ['affine', 'dequantize', 'split', 'whitening']

tfb = tfp.bijectors


def dequantize(
  table: pd.DataFrame, columns: Sequence[str], seed: int
) -> np.ndarray:
  """Returns the rows, with uniform noise on [0, 1) added to some columns."""
  noise = np.random.default_rng(seed).uniform(size=table.shape)
  return table.to_numpy() + noise * table.columns.isin(columns)


def split(
  rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Shuffles rows and splits them into training (3/5), validation and test."""
  rows = np.random.default_rng(seed).permutation(rows).astype(np.float64)
  fifth = len(rows) // 5
  return rows[2 * fifth :], rows[:fifth], rows[fifth : 2 * fifth]


def whitening(rows: np.ndarray) -> tfb.Bijector:
  """Returns the affine bijector from whitened rows to rows.

  Whitened rows have mean zero and identity covariance.
  """
  mean, scale = rows.mean(0), rows.std(0)
  correlation = np.cov(((rows - mean) / scale).T, bias=True)
  return affine(mean, scale[:, np.newaxis] * np.linalg.cholesky(correlation))


def affine(shift: np.ndarray, scale: np.ndarray) -> tfb.Bijector:
  """Returns the bijector from `x` to `shift + scale x`.

  Args:
    shift: `[D]`.
    scale: Lower triangular matrix, `[D, D]`.
  """
  return tfb.Chain([tfb.Shift(shift), tfb.ScaleMatvecTriL(scale)])
