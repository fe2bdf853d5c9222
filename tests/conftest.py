"""Settings and fixtures for all tests."""

import os

# Each worker of pytest-xdist has one core. TensorFlow must not start before.
if 'PYTEST_XDIST_WORKER' in os.environ:
  os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
  os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
# Most of the time of a test with XLA is compilation, a third of it LLVM's
# optimization.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import keras
import pytest
import tensorflow as tf

# tf.data tunes each iterator in a thread, which takes up to a minute to end
# when the iterator is deleted at the wrong moment.
_iterate = tf.data.Dataset.__iter__
_options = tf.data.Options()
_options.autotune.enabled = False
tf.data.Dataset.__iter__ = lambda data: _iterate(data.with_options(_options))


@pytest.fixture(autouse=True)
def _same_random_numbers():
  """Seeds Python, NumPy and TensorFlow, which initialize Keras's layers."""
  keras.utils.set_random_seed(0)
