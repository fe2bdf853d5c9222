"""Tests the settings of flows of tables, and which of them suit a table."""

import pytest

from tfp_realnvp import table_settings


@pytest.mark.parametrize(
  'num_rows, num_columns, names',
  [
    (4999, 10, ('regularized', 'moderate', 'flexible', 'mixture')),
    (5000, 4, ('large',)),
    (5000, 3, ('large_mixture',)),
  ],
)
def test_settings_follow_from_rows_and_columns(num_rows, num_columns, names):
  assert table_settings.candidates(num_rows, num_columns) == names


def test_unknown_couplings_are_named():
  message = r"one of \['affine', 'spline'\], got 'cubic'"
  with pytest.raises(ValueError, match=message):
    table_settings.Settings(couplings='cubic')
