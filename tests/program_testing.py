"""Helpers that run programs as processes."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

from tfp_realnvp.paper import experiment

ROOT = pathlib.Path(__file__).parent.parent

# Its processes are forked from one that has imported TensorFlow, which takes
# most of the time of a program otherwise.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['tests.program_testing'])


def build(dataset, conditional=False, prior='standard', **changes):
  """Returns the distribution and the preset that flags of `train.py` describe.

  Args:
    dataset: Name of a preset.
    conditional: Whether the flow is conditional.
    prior: Distribution of the latents.
    **changes: Other flags, `dtype` and `validate_args`.
  """
  kwargs = {
    name: changes.pop(name)
    for name in ('dtype', 'validate_args')
    if name in changes
  }
  preset = experiment.preset_of_flags(dataset, **changes)
  distribution = experiment.build_distribution(
    preset, conditional, prior, **kwargs
  )
  return distribution, preset


def command(program, *flags):
  return [sys.executable, f'examples/{program}.py', *flags]


def environment(path=None):
  """Returns the environment of a program, which can import from `path`."""
  paths = [str(ROOT)] + ([] if path is None else [str(path)])
  return os.environ | {
    'PYTHONPATH': os.pathsep.join(paths),
    'TF_CPP_MIN_LOG_LEVEL': '3',
  }


def _main(program, flags, path, output):
  """Runs a program in this process, which was forked for it."""
  with open(output, 'w') as file:
    for number in (1, 2):
      os.dup2(file.fileno(), number)
  os.chdir(ROOT)
  os.environ.update(environment(path))
  # As Python has it when it runs a file.
  sys.path[:0] = [str(ROOT / 'examples'), *([str(path)] if path else [])]
  sys.argv = [f'examples/{program}.py', *flags]
  runpy.run_path(sys.argv[0], run_name='__main__')


def run(program, *flags, expect=0, path=None):
  """Runs a program of examples/ and returns its output.

  Args:
    program: Name of the module.
    *flags: Command line.
    expect: Exit status that the program must have.
    path: Directory of other modules that the program imports.
  """
  with tempfile.TemporaryDirectory() as directory:
    output = pathlib.Path(directory) / 'output'
    process = CONTEXT.Process(target=_main, args=(program, flags, path, output))
    process.start()
    process.join(timeout=600)
    process.kill()
    text = output.read_text()
  assert process.exitcode == expect, text[-3000:]
  return text


def begin(program, *flags, sigint='SIG_DFL', output=subprocess.DEVNULL):
  """Starts a program of examples/ and returns the `subprocess.Popen`.

  Args:
    program: Name of the module.
    *flags: Command line.
    sigint: How it handles Ctrl-C when it starts, however pytest handles it.
    output: Where the output goes.
  """
  path = ROOT / 'tests' / 'programs' / 'with_sigint.py'
  return subprocess.Popen(
    [sys.executable, str(path), sigint, *command(program, *flags)],
    cwd=ROOT,
    env=environment(),
    stdout=output,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for(path, process):
  """Waits until a file exists or the process has ended."""
  deadline = time.time() + 300
  while not path.exists() and process.poll() is None:
    assert time.time() < deadline
    time.sleep(0.01)


def run_program(name, *args, **kwargs):
  """Runs a program of tests/programs with the project on its path.

  Args:
    name: Name of the program.
    *args: Command line.
    **kwargs: Other arguments of `subprocess.run`.

  Returns:
    A `subprocess.CompletedProcess`.
  """
  path = ROOT / 'tests' / 'programs' / f'{name}.py'
  folders = [str(ROOT), str(ROOT / 'examples'), *sys.path]
  search_path = {'PYTHONPATH': os.pathsep.join(folders)}
  return subprocess.run(
    [sys.executable, str(path), *map(str, args)],
    **({'env': environment() | search_path} | kwargs),
  )
