"""Runs the programs of examples/ as a user does, as processes."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


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
