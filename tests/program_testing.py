"""Runs the programs of examples/ as a user does, as processes."""

import importlib
import os
import pathlib
import subprocess
import sys

from absl import flags

ROOT = pathlib.Path(__file__).parent.parent


def load(program):
  """Imports a program, to test its parts, without its flags.

  Several programs have flags of one name, and a process can have one of them.
  """
  module = importlib.import_module(program)
  for name in [f.name for f in flags.FLAGS.flags_by_module_dict()[program]]:
    delattr(flags.FLAGS, name)
  return module


def command(program, *flags):
  return [sys.executable, f'examples/{program}.py', *flags]


def environment():
  return os.environ | {'PYTHONPATH': str(ROOT), 'TF_CPP_MIN_LOG_LEVEL': '3'}


def run(program, *flags, expect=0):
  """Runs a program to its end; returns what it printed.

  Args:
    program: Name of a module of examples/.
    *flags: Its command line.
    expect: The exit status it must end with.
  """
  done = subprocess.run(
    command(program, *flags),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == expect, done.stderr[-3000:]
  return done.stdout + done.stderr
