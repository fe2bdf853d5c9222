"""Compares the speed and memory of variants with each other and with PyTorch.

    python -m benchmarks.compare training_step --architecture=small
    python -m benchmarks.compare log_prob sample --variants=float32,PyTorch
    python -m benchmarks.compare vectors_training_step_30 vectors_fit_2

Each argument names a benchmark of `BENCHMARKS`, and gives a table and a JSON
file. The columns are

- the time of a call in seconds: median, lowest and highest of all turns;
- the time to build, and of the first call, which traces and compiles;
- the memory of the process in MiB, before the first call and at most;
- the speed as a ratio to that of the first variant, and to that of the peer:
  the same in PyTorch, at the same precision, compiled if the variant is.

Variants that need a package which is not installed are left out.
"""

import functools
import importlib.util

from absl import app
from absl import flags

from benchmarks import harness

FLAGS = flags.FLAGS

_XLA = {'jit_compile': True}
_BFLOAT16 = {'compute_dtype': 'bfloat16'}
_RECOMPUTED = {'recompute': True}
_LIBRARY = {
  'float32': {},
  'XLA': _XLA,
  'bfloat16': _BFLOAT16,
  'bfloat16 XLA': _BFLOAT16 | _XLA,
  'networks run twice': {'twice': True},
}
_PYTORCH = {
  'PyTorch': {},
  'PyTorch compiled': {'compiled': True},
  'PyTorch bfloat16': {'bfloat16': True},
  'PyTorch bfloat16 compiled': {'bfloat16': True, 'compiled': True},
}
_PEERS = dict(zip(('float32', 'XLA', 'bfloat16', 'bfloat16 XLA'), _PYTORCH))
_WITHOUT_ONEDNN = {'TF_ENABLE_ONEDNN_OPTS': '0'}


def _library(task, variants=_LIBRARY):
  """Returns the library's variants of a task."""
  return {
    name: harness.Variant(task, options, peer=_PEERS.get(name))
    for name, options in variants.items()
  } | {'without oneDNN': harness.Variant(task, environment=_WITHOUT_ONEDNN)}


def _references(task):
  """Returns what a task of the library is compared with."""
  alone = harness.Variant('convolutions_alone', {'method': task})
  return {'convolutions alone': alone} | {
    name: harness.Variant(f'pytorch_{task}', options, packages=('torch',))
    for name, options in _PYTORCH.items()
  }


def _serving(runtime, *packages, **environment):
  """Returns answers to requests, by a runtime that needs some packages."""
  options = {'runtime': runtime}
  return harness.Variant('serving', options, environment, packages)


def _vectors(task, size):
  """Returns a task for vectors of this library and of those installed."""
  variant = functools.partial(harness.Variant, module='benchmarks.vector_tasks')
  variants = {
    'float32': variant(task, {'size': size}),
    'XLA': variant(task, {'size': size, 'jit_compile': True}),
    'FlowJAX': variant(
      f'flowjax_{task}',
      {'size': size},
      packages=('flowjax', 'equinox', 'optax', 'paramax'),
    ),
  }
  for name in ('zuko', 'normflows', 'nflows', 'FrEIA'):
    options = {'library': name, 'size': size}
    variants[name] = variant(f'torch_{task}', options, packages=(name,))
  return variants


def _scaling(option, values):
  """Returns training steps that differ in one option."""
  return {
    f'{option}={value}': harness.Variant('training_step', {option: value})
    for value in values
  }


BENCHMARKS = {
  'training_step': _library(
    'training_step',
    _LIBRARY
    | {'recomputed': _RECOMPUTED, 'recomputed XLA': _RECOMPUTED | _XLA},
  )
  | _references('training_step'),
  'log_prob': _library('log_prob') | _references('log_prob'),
  'sample': _library('sample') | _references('sample'),
  'sample_and_log_prob': _library('sample_and_log_prob'),
  # Whether training waits for its input. In shorter turns, steps would take the
  # batches that the pipeline prepared while other variants had their turn.
  'input_pipeline': {
    'step on images in memory': harness.Variant('training_step', turn=5.0),
    'step on the pipeline': harness.Variant(
      'training_step', {'from_pipeline': True}, turn=5.0
    ),
    'batch of the pipeline alone': harness.Variant('pipeline', turn=5.0),
  },
  # "Frozen" has constants in place of variables, so that kernels are normalized
  # once instead of at every request.
  'serving': {
    'library': _serving('library'),
    'library without oneDNN': _serving('library', **_WITHOUT_ONEDNN),
    'SavedModel': _serving('SavedModel'),
    'SavedModel without oneDNN': _serving('SavedModel', **_WITHOUT_ONEDNN),
    'frozen': _serving('frozen'),
    'frozen without oneDNN': _serving('frozen', **_WITHOUT_ONEDNN),
    'OpenVINO': _serving('OpenVINO', 'openvino'),
    'ONNX Runtime': _serving('ONNX Runtime', 'onnxruntime', 'tf2onnx'),
  },
  # Steps of as many pixels, so that fixed costs count equally.
  'scaling_image_size': {
    f'image_size={size}': harness.Variant(
      'training_step',
      {'image_size': size, 'batch_size': 64 * 32**2 // size**2},
    )
    for size in (16, 32, 64, 128)
  },
  'scaling_num_blocks': _scaling('num_blocks', (1, 2, 4, 8)),
  'scaling_num_scales': _scaling('num_scales', (1, 2, 3, 4, 5)),
  'scaling_batch_size': _scaling('batch_size', (1, 4, 16, 64, 256)),
} | {
  f'vectors_{task}_{size}': _vectors(task, size)
  for task in ('training_step', 'fit', 'log_prob', 'sample')
  for size in (2, 30, 300)
}


def define_flags():
  """Defines the flags. Processes that import the program do not need them."""
  harness.define_flags()
  flags.DEFINE_list('variants', None, 'Variants to compare; all by default.')


def main(argv):
  names = argv[1:]
  if not names or not set(names) <= set(BENCHMARKS):
    raise app.UsageError(f'Name some of {", ".join(BENCHMARKS)}; got {names}.')
  for name in names:
    variants = _selected(BENCHMARKS[name])
    columns, rows = _table(variants, harness.measure(variants))
    harness.report(name, columns, rows, harness.model_options())


def _selected(variants):
  """Returns those of --variants whose packages are installed."""
  names = FLAGS.variants or list(variants)
  if not set(names) <= set(variants):
    raise app.UsageError(
      f'--variants must be some of {", ".join(variants)}; got {names}.'
    )
  return {
    name: variants[name]
    for name in names
    if all(map(importlib.util.find_spec, variants[name].packages))
  }


def _table(variants, results):
  """Returns the columns and rows of a table of results."""
  first = next(iter(results))
  columns = ['variant', 'seconds', 'lowest', 'highest', 'build', 'first call']
  columns += ['MiB before', 'MiB at most', f'speed / {first}', 'speed / peer']
  rows = []
  for name, result in results.items():
    row = [name, result.median, min(result.seconds), max(result.seconds)]
    row += [result.build, result.first, result.before, result.peak]
    for reference in (first, variants[name].peer):
      row.append(
        results[reference].median / result.median
        if reference in results
        else None
      )
    rows.append(row)
  return columns, rows


if __name__ == '__main__':
  define_flags()
  app.run(main)
