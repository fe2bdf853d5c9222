"""`StopOnSignal` for tests."""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
from unittest import mock

from tfp_realnvp.training import callbacks


@contextlib.contextmanager
def stop_on_signal() -> Iterator[callbacks.StopOnSignal]:
  """Yields a `StopOnSignal` that raises `SystemExit`.

  Restores the handlers of the process at the end.
  """
  numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  before = [signal.signal(n, signal.default_int_handler) for n in numbers]
  try:
    with mock.patch.object(os, '_exit', sys.exit):
      yield callbacks.StopOnSignal()
  finally:
    for number, handler in zip(numbers, before):
      signal.signal(number, handler)
