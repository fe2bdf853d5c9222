"""Measures variants against each other: one process each, taking turns.

The speed of a machine changes with time. Variants that are compared therefore
alternate, round by round, and only ratios of medians of one run are worth
quoting. Each variant has its own process, with its own environment, threads and
memory; while one works the others wait.
"""

from concurrent import futures
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import statistics
import time

from absl import flags

from benchmarks import tasks

FLAGS = flags.FLAGS

# TensorFlow itself chooses oneDNN's kernels on recent CPUs only.
ENVIRONMENT = {
  'TF_ENABLE_ONEDNN_OPTS': '1',
  'TF_CPP_MIN_LOG_LEVEL': '3',
  'ABSL_MIN_LOG_LEVEL': '3',
}


def define_flags():
  """Defines the flags of `measure` and `report`."""
  flags.DEFINE_enum(
    'architecture', 'small', sorted(tasks.ARCHITECTURES), 'Model to measure.'
  )
  flags.DEFINE_integer('batch_size', 64, 'Number of images at once.', 1)
  flags.DEFINE_integer('rounds', 7, 'Number of turns of each variant.', 1)
  define_output_flag()


def define_output_flag():
  """Defines the flag of `report`."""
  flags.DEFINE_string(
    'output_dir', 'runs/benchmarks', 'Directory to write <name>.json to.'
  )


@dataclasses.dataclass(frozen=True)
class Variant:
  """What one process does.

  Attributes:
    task: Name of a function of `module`. It prepares, and returns the function
      whose calls are measured.
    options: Arguments of the task. Those of `benchmarks.tasks` also get
      --architecture and --batch_size.
    environment: Environment variables of the process.
    packages: Names of the optional packages that it needs.
    peer: Name of the variant that does the same in PyTorch, at the same
      precision and compiled if this one is; or `None`.
    turn: Least length of a turn in seconds. A turn has at least one call.
    module: Module of the task.
  """

  task: str
  options: dict = dataclasses.field(default_factory=dict)
  environment: dict = dataclasses.field(default_factory=dict)
  packages: tuple[str, ...] = ()
  peer: str | None = None
  turn: float = 0.5
  module: str = 'benchmarks.tasks'


@dataclasses.dataclass
class Result:
  """What was measured of a variant; times in seconds, memory in MiB.

  Attributes:
    build: Time of imports, model and data.
    first: Time of the first call, which traces and compiles.
    before: Memory of the process before the first call.
    peak: Largest memory of the process.
    seconds: Time of a call, for each turn.
  """

  build: float
  first: float
  before: float
  peak: float
  seconds: list[float] = dataclasses.field(default_factory=list)

  @property
  def median(self):
    return statistics.median(self.seconds)


class Worker:
  """A process that calls a variant's function when told to."""

  def __init__(self, variant):
    context = multiprocessing.get_context('spawn')
    self._pipe, pipe = context.Pipe()
    options = variant.options
    if variant.module == tasks.__name__:
      options = model_options() | options
    self._process = context.Process(
      target=_work, args=(pipe, variant.module, variant.task, options)
    )
    environment = dict(os.environ)
    os.environ.update(ENVIRONMENT | variant.environment)
    try:
      self._process.start()
    finally:
      os.environ.clear()
      os.environ.update(environment)
    pipe.close()

  def take_turn(self, least=0.0):
    """Calls for `least` seconds, at least once.

    Args:
      least: Least length of the turn in seconds.

    Returns:
      The seconds of a call, and the largest memory of the process in MiB.
    """
    self._pipe.send(least)
    return self.wait()

  def wait(self):
    """Waits for the turn, or at first for building; returns the same."""
    try:
      return self._pipe.recv()
    except EOFError:
      raise SystemExit('A variant died; its error is above.') from None

  def close(self):
    self._pipe.close()
    self._process.join()


def _work(pipe, module, task, options):
  start = time.perf_counter()
  run = getattr(importlib.import_module(module), task)(**options)
  pipe.send((time.perf_counter() - start, _peak_memory()))
  while True:
    try:
      least = pipe.recv()
    except EOFError:
      return
    calls, elapsed, start = 0, 0.0, time.perf_counter()
    while not calls or elapsed < least:
      run()
      calls += 1
      elapsed = time.perf_counter() - start
    pipe.send((elapsed / calls, _peak_memory()))


def _peak_memory():
  """Returns the largest memory that this process ever had, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def model_options():
  """Returns --architecture and --batch_size as arguments of a task."""
  return {'architecture': FLAGS.architecture, 'batch_size': FLAGS.batch_size}


def measure(variants):
  """Measures variants by turns, after two calls each that are not counted.

  Args:
    variants: Dictionary from names to `Variant`s.

  Returns:
    Dictionary from names to `Result`s, with --rounds turns each.
  """
  workers, results = {}, {}
  try:
    for name, variant in variants.items():
      worker = workers[name] = Worker(variant)
      build, before = worker.wait()
      first, peak = worker.take_turn()
      worker.take_turn()
      results[name] = Result(build, first, before, peak)
    for _ in range(FLAGS.rounds):
      for name, worker in workers.items():
        seconds, peak = worker.take_turn(variants[name].turn)
        results[name].seconds.append(seconds)
        results[name].peak = peak
  finally:
    for worker in workers.values():
      worker.close()
  return results


def processes(count=None):
  """Returns a pool of processes that start afresh."""
  return futures.ProcessPoolExecutor(
    count, multiprocessing.get_context('spawn')
  )


def alone(function, *args, **kwargs):
  """Calls a function in a process of its own: libraries do not share one."""
  with processes(1) as pool:
    return pool.submit(function, *args, **kwargs).result()


def report(name, columns, rows, options):
  """Prints a table, and writes it as JSON with a description of the machine.

  Args:
    name: Name of the table and of its file.
    columns: Names of the columns.
    rows: Lists of their values.
    options: Dictionary of what was chosen, which is written as well.
  """
  cells = [columns] + [[_format(value) for value in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  print(f'{name}:')
  for first, *rest in cells:
    aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
    print('  '.join([first.ljust(widths[0]), *aligned]))
  path = pathlib.Path(FLAGS.output_dir) / f'{name}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {
    'benchmark': name,
    'options': options,
    'machine': _machine(),
    'rows': [dict(zip(columns, row)) for row in rows],
  }
  path.write_text(json.dumps(content, indent=2) + '\n')
  print(f'Written to {path}.')


def _format(value):
  if isinstance(value, float):
    return f'{value:.4g}' if value < 1000 else f'{value:.0f}'
  return '' if value is None else str(value)


def _machine():
  versions = {}
  for package in ('tensorflow', 'tensorflow-probability', 'keras', 'torch'):
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  cpu = platform.processor()
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  if cpuinfo.exists():
    for line in cpuinfo.read_text().splitlines():
      if line.startswith('model name'):
        cpu = line.split(':')[1].strip()
        break
  return {
    'cpu': cpu,
    'cores': os.cpu_count(),
    'date': datetime.date.today().isoformat(),
    'python': platform.python_version(),
    **versions,
  }
