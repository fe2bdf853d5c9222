"""Directories of programs (--model_dir), and other flags that they share."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import socket
import threading
from typing import Any

from absl import flags
from absl import logging
import numpy as np

try:
  import fcntl
except ImportError:  # Windows has no such locks.
  fcntl = None

__all__ = [
  'define_flag',
  'define_seed',
  'exit_if_damaged',
  'exit_unless_writable',
  'make_model_dir',
  'reason',
  'replace_file',
  'replace_json',
  'replace_text',
]

_LOCKS = {}  # Open files by their paths. Closing one would unlock it.


def define_flag(help_text: str, name: str = 'model_dir') -> None:
  """Defines the flag of a directory, which must be given and not be empty.

  Args:
    help_text: What the directory is for.
    name: Name of the flag.
  """
  flags.DEFINE_string(name, None, help_text, required=True)
  flags.register_validator(
    name, lambda value: value != '', 'It must name a directory.'
  )


def define_seed(help_text: str) -> None:
  """Defines the flag --seed, which TensorFlow Probability limits to 31 bits.

  Args:
    help_text: What the seed is for.
  """
  flags.DEFINE_integer('seed', 0, help_text, 0, 2**31 - 1)


def make_model_dir(model_dir: pathlib.Path, is_shared: bool = False) -> None:
  """Creates the directory of a run, and locks it until this process ends.

  Args:
    model_dir: Value of --model_dir.
    is_shared: Whether several processes write to it together. Then it is not
      locked.

  Raises:
    SystemExit: If the directory cannot be written, or another process writes to
      it.
  """
  with exit_unless_writable(model_dir):
    model_dir.mkdir(parents=True, exist_ok=True)
    if not is_shared:
      _lock(model_dir)


def _lock(model_dir: pathlib.Path) -> None:
  path = model_dir.resolve() / '.lock'
  if fcntl is None or path in _LOCKS:
    return
  file = path.open('a+')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise SystemExit(
      f'--model_dir={model_dir} is in use by process {file.read()}. Wait until '
      'it ends, or use another --model_dir.'
    ) from error
  except OSError as error:  # Some network file systems have no locks.
    logging.warning('--model_dir=%s cannot be locked: %s', model_dir, error)
  file.truncate(0)
  file.write(f'{os.getpid()} on {socket.gethostname()}')
  file.flush()
  _LOCKS[path] = file


def reason(error: Exception) -> str:
  """Returns the first line of an error, without TensorFlow's operation."""
  line, *_ = str(error).split('\n')
  return line.split('}} ')[-1]


@contextlib.contextmanager
def exit_unless_writable(
  model_dir: pathlib.Path, *errors: type[Exception]
) -> Iterator[None]:
  """Returns a context manager that exits with one line on an `OSError`.

  Args:
    model_dir: Value of --model_dir.
    *errors: Other classes that count as an `OSError`, such as TensorFlow's.
  """
  try:
    yield
  except (OSError, *errors) as error:
    raise SystemExit(
      f'--model_dir={model_dir} cannot be written: {reason(error)}'
    ) from error


@contextlib.contextmanager
def exit_if_damaged(path: pathlib.Path) -> Iterator[None]:
  """Returns a context manager that exits with one line that names the file."""
  try:
    yield
  except Exception as error:  # Readers raise errors of many classes.
    raise SystemExit(
      f'{path} cannot be read: {type(error).__name__}: {reason(error)}'
    ) from error


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file atomically."""
  replace_file(path, text.encode())


def replace_json(path: pathlib.Path, value: Any) -> None:
  """Writes a value, which may contain arrays, as JSON atomically."""
  text = json.dumps(value, indent=2, default=np.ndarray.tolist)
  replace_text(path, text + '\n')


def replace_file(path: pathlib.Path, contents: bytes) -> None:
  """Writes a file atomically, also if several threads write the same one."""
  writer = f'{os.getpid()}.{threading.get_ident()}'
  replacement = path.with_name(f'{path.name}.{writer}')
  try:
    replacement.write_bytes(contents)
    replacement.replace(path)
  finally:
    replacement.unlink(missing_ok=True)
