"""Pytest fixtures for all tests."""

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers():
  """Seeds Python, NumPy and TensorFlow, which initialize Keras's layers."""
  keras.utils.set_random_seed(0)
