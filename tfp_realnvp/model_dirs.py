"""Directories that programs write their results to (--model_dir)."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

from absl import flags

__all__ = [
  'define_flag',
  'exit_unless_writable',
  'make_model_dir',
  'replace_text',
]


def define_flag(help_text: str) -> None:
  """Defines the flag --model_dir, which must be given and not be empty.

  Args:
    help_text: What the directory is for.
  """
  flags.DEFINE_string('model_dir', None, help_text, required=True)
  flags.register_validator(
    'model_dir', lambda value: value != '', 'It must name a directory.'
  )


def make_model_dir(model_dir: pathlib.Path) -> None:
  """Creates the directory of a run.

  Args:
    model_dir: Value of --model_dir.

  Raises:
    SystemExit: If the directory cannot be written.
  """
  with exit_unless_writable(model_dir):
    model_dir.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def exit_unless_writable(model_dir: pathlib.Path) -> Iterator[None]:
  """Returns a context manager that exits with one line on an `OSError`."""
  try:
    yield
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} cannot be written: {error}'
    ) from error


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a file atomically."""
  replacement = path.with_name(f'{path.name}.{os.getpid()}')
  replacement.write_text(text)
  replacement.replace(path)
