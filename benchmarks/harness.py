"""Measures variants against each other: one process each, taking turns.

A machine is never equally fast for long. What is compared therefore alternates,
round by round, and only ratios of medians of one run are worth quoting. Each
variant has a process of its own, with its own environment, threads and memory;
while one works the others wait.
"""

import dataclasses
import datetime
import importlib
import importlib.metadata
import importlib.util
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
flags.DEFINE_integer('rounds', 7, 'How often each variant takes its turn.', 1)
flags.DEFINE_string(
  'output_dir', 'runs/benchmarks', 'Where to write <name>.json to.'
)

# oneDNN's kernels are TensorFlow's default on recent CPUs only.
ENVIRONMENT = {
  'TF_ENABLE_ONEDNN_OPTS': '1',
  'TF_CPP_MIN_LOG_LEVEL': '3',
  'ABSL_MIN_LOG_LEVEL': '3',
}


def define_model_flags(architecture):
  """Defines --architecture, with a default, and --batch_size."""
  names = sorted(tasks.ARCHITECTURES)
  flags.DEFINE_enum('architecture', architecture, names, 'Which to measure.')
  flags.DEFINE_integer('batch_size', 64, 'Images at once.', lower_bound=1)


def model_options():
  """What `define_model_flags` was given, as arguments of a task."""
  return {'architecture': FLAGS.architecture, 'batch_size': FLAGS.batch_size}


@dataclasses.dataclass
class Variant:
  """What one process does.

  Attributes:
    task: Name of a function of `benchmarks.tasks`; it prepares, and returns a
      function of no arguments that does once what is measured.
    options: Arguments of the task.
    environment: Environment variables of the process.
  """

  task: str
  options: dict = dataclasses.field(default_factory=dict)
  environment: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Result:
  """What was measured of a variant; times in seconds, memory in MiB."""

  seconds: list[float]
  build: float  # Of imports, model and data.
  first: float  # Of the first call, which traces and compiles.
  base_memory: float  # Of the process before the first call.
  peak_memory: float  # Of the process after all calls.

  @property
  def median(self):
    return statistics.median(self.seconds)


class Worker:
  """A process that runs a variant when told to."""

  def __init__(self, variant):
    context = multiprocessing.get_context('spawn')
    self._pipe, pipe = context.Pipe()
    self._process = context.Process(target=_work, args=(pipe, variant))
    environment = dict(os.environ)
    os.environ.update(ENVIRONMENT | variant.environment)
    try:
      self._process.start()
    finally:
      os.environ.clear()
      os.environ.update(environment)
    pipe.close()

  def call(self):
    """Runs the variant once; returns seconds and the peak memory in MiB."""
    self._pipe.send(None)
    return self.wait()

  def wait(self):
    """Returns the same of what the process is at, at first of the building."""
    try:
      return self._pipe.recv()
    except EOFError:
      raise SystemExit('A variant died; its error is above.') from None

  def close(self):
    self._pipe.close()
    self._process.join()


def _work(pipe, variant):
  start = time.perf_counter()
  run = getattr(tasks, variant.task)(**variant.options)
  while True:
    pipe.send((time.perf_counter() - start, _memory()))
    try:
      pipe.recv()
    except EOFError:
      return
    start = time.perf_counter()
    run()


def _memory():
  """The most memory that this process ever held, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(variants, rounds=None):
  """Measures variants by turns.

  Args:
    variants: Dictionary from names to `Variant`s.
    rounds: How often each takes its turn, after a first call and one more that
      are not counted; by default --rounds.

  Returns:
    Dictionary from names to `Result`s.
  """
  workers, results = {}, {}
  try:
    for name, variant in variants.items():
      workers[name] = Worker(variant)
      build, base = workers[name].wait()
      first, peak = workers[name].call()
      workers[name].call()
      results[name] = Result([], build, first, base, peak)
    for _ in range(FLAGS.rounds if rounds is None else rounds):
      for name, worker in workers.items():
        seconds, peak = worker.call()
        results[name].seconds.append(seconds)
        results[name].peak_memory = peak
  finally:
    for worker in workers.values():
      worker.close()
  return results


def report(name, columns, rows):
  """Prints a table, and writes it as JSON with a description of the machine.

  Args:
    name: Name of the benchmark.
    columns: Names of the columns.
    rows: Lists of their values.
  """
  cells = [columns] + [[_format(value) for value in row] for row in rows]
  widths = [max(map(len, column)) for column in zip(*cells)]
  for first, *rest in cells:
    aligned = [cell.rjust(width) for cell, width in zip(rest, widths[1:])]
    print('  '.join([first.ljust(widths[0]), *aligned]))
  path = pathlib.Path(FLAGS.output_dir) / f'{name}.json'
  path.parent.mkdir(parents=True, exist_ok=True)
  content = {
    'benchmark': name,
    'machine': _machine(),
    'rows': [dict(zip(columns, row)) for row in rows],
  }
  path.write_text(json.dumps(content, indent=2) + '\n')
  print(f'Written to {path}.')


def report_speed(name, results, references):
  """Reports times, and speed as a ratio to that of references of the same run.

  Args:
    name: Name of the benchmark.
    results: What `measure` returned.
    references: Names of the results to compare with; those not there are left
      out.
  """
  references = [reference for reference in references if reference in results]
  columns = ['variant', 'seconds', 'lowest', 'highest', 'first call']
  columns += [f'speed / {reference}' for reference in references]
  rows = []
  for variant, result in results.items():
    row = [variant, result.median, min(result.seconds), max(result.seconds)]
    row.append(result.first)
    row += [results[r].median / result.median for r in references]
    rows.append(row)
  report(name, columns, rows)


def _format(value):
  if isinstance(value, float):
    return f'{value:.3f}' if value < 100 else f'{value:.0f}'
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


def has_torch():
  return importlib.util.find_spec('torch') is not None
