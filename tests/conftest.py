"""Settings and fixtures for all tests."""

import gc
import os
import time

# Each worker of pytest-xdist has one core. TensorFlow must not start before.
if 'PYTEST_XDIST_WORKER' in os.environ:
  os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
  os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')
# Most of the time of a test with XLA is compilation, a third of it LLVM's
# optimization.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import keras
import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers():
  """Seeds Python, NumPy and TensorFlow, which initialize Keras's layers."""
  keras.utils.set_random_seed(0)


def pytest_collection_finish():
  """Leaves what was imported out of garbage collections: they are then fast."""
  gc.collect()
  gc.freeze()


_last_collection = time.monotonic()


@pytest.fixture(autouse=True)
def _collect_garbage():
  """Collects garbage several times a minute.

  Iterators of tf.data that live on in tracebacks and cycles have a thread that
  tunes them, at intervals that double up to a minute. The garbage collector can
  wait for the end of such an interval.
  """
  global _last_collection
  yield
  if time.monotonic() > _last_collection + 15:
    gc.collect()
    _last_collection = time.monotonic()
