"""Tests what the module sets, and what all programs have in common."""

import ast
import os
import signal
import subprocess
import sys

import pytest

from tests import program_testing

_EXAMPLES = program_testing.ROOT / 'examples'
# Bazel makes an empty __init__.py.
_MODULES = {_EXAMPLES / 'quiet_start.py', _EXAMPLES / '__init__.py'}
_PROGRAMS = sorted({*_EXAMPLES.glob('*.py')} - _MODULES)


@pytest.fixture
def start(tmp_path):
  """Returns a function that runs code as a program, after the import."""
  # It stands in for TensorFlow, whose C++ code writes to this file.
  stand_in = 'import os; os.write(2, b"I0000\\n")'
  (tmp_path / 'tensorflow.py').write_text(stand_in)

  def run(code, *flags, sigint='default_int_handler'):
    code = f"""
import os
import signal
signal.signal(signal.SIGINT, signal.{sigint})
import quiet_start
import tensorflow
{code}
"""
    environment = {'PYTHONPATH': f'{tmp_path}{os.pathsep}{_EXAMPLES}'}
    return subprocess.run(
      [sys.executable, '-c', code, *flags],
      env=environment,
      capture_output=True,
      text=True,
    )

  return run


@pytest.mark.parametrize('path', _PROGRAMS, ids=lambda path: path.stem)
def test_every_program_imports_it_first(path):
  _, first, *_ = ast.parse(path.read_text()).body
  assert ast.unparse(first) == (
    "if __name__ == '__main__':\n    import quiet_start"
  )


@pytest.mark.parametrize('path', _PROGRAMS, ids=lambda path: path.stem)
def test_help_shows_the_docstring_as_it_is(path):
  text = path.read_text()
  # A backslash at the end of a line must not join it to the next.
  assert ast.get_docstring(ast.parse(text), clean=False) in text


@pytest.mark.parametrize(
  'flags, expected, messages',
  [
    ([], '3 -1', 'ERROR:tensorflow:b\n'),
    (['--model_dir=v'], '3 -1', 'ERROR:tensorflow:b\n'),
    (
      ['--verbosity=1'],
      'None 1',
      'I0000\nWARNING:tensorflow:a\nERROR:tensorflow:b\n',
    ),
    (
      ['-v', '0'],
      'None 0',
      'I0000\nWARNING:tensorflow:a\nERROR:tensorflow:b\n',
    ),
  ],
)
def test_only_verbosity_asks_for_messages(flags, expected, messages, start):
  code = """
import logging
from absl import app
from absl import flags
flags.DEFINE_string('model_dir', None, '')
level = os.environ.get('TF_CPP_MIN_LOG_LEVEL')
logging.basicConfig()
logger = logging.getLogger('tensorflow')
logger.warning('a')
logger.error('b')
app.run(lambda _: print(level, flags.FLAGS.verbosity))
"""
  done = start(code, *flags)
  assert done.stdout == f'{expected}\n'
  assert done.stderr == messages


def test_errors_are_still_printed(start):
  done = start('raise SystemExit("An error.")')
  assert (done.returncode, done.stderr) == (1, 'An error.\n')


def test_ctrl_c_ends_the_program_without_a_traceback(start):
  code = 'os.kill(os.getpid(), signal.SIGINT); print("ignored")'
  done = start(code)
  assert done.returncode == -signal.SIGINT
  assert (done.stdout, done.stderr) == ('', '')
  assert start(code, sigint='SIG_IGN').stdout == 'ignored\n'


@pytest.mark.slow
def test_an_error_is_all_that_a_program_prints(tmp_path):
  environment = program_testing.environment()
  del environment['TF_CPP_MIN_LOG_LEVEL']
  done = subprocess.run(
    program_testing.command('draw_figures', f'--model_dir={tmp_path}'),
    cwd=program_testing.ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert line.startswith(f'--model_dir={tmp_path} holds no training run')
