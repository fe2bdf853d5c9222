"""`StopOnSignal` for tests."""

from collections.abc import Iterator
import contextlib
import signal

from tfp_realnvp.training import callbacks


@contextlib.contextmanager
def stop_on_signal() -> Iterator[callbacks.StopOnSignal]:
  """Yields a `StopOnSignal`, then restores the handlers of the process."""
  numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  before = [signal.signal(n, signal.default_int_handler) for n in numbers]
  try:
    yield callbacks.StopOnSignal()
  finally:
    for number, handler in zip(numbers, before):
      signal.signal(number, handler)
