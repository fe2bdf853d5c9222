"""Shows what a training step spends its time on.

    python -m benchmarks.profile_step --architecture=small

The first table is of some steps that TensorFlow's profiler traced: the time of
their kernels by what they do. Kernels overlap and use several threads, so that
shares are of the sum over kernels, which can exceed the time of the step.

The second table is of the step's convolutions, each run alone. The sum over all
is what a step would take that did nothing else.
"""

import collections
import os
import pathlib
import statistics
import tempfile
import time

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import tasks

FLAGS = flags.FLAGS
_NUM_STEPS = 3

# Parts of the names of kernels; the last group with a part that occurs counts.
_GROUPS = {
  'convolution, forward': ('Conv2D',),
  'convolution, gradient of the input': ('Conv2DBackpropInput',),
  'convolution, gradient of the kernel': ('Conv2DBackpropFilter',),
  'batch norm': ('FusedBatchNorm',),
  'ReLU': ('Relu',),
  'sums of activations': ('AddN',),
  'variables': ('VariableOp',),
}


def main(argv):
  del argv
  os.environ.update(harness.ENVIRONMENT)
  options = harness.model_options()
  columns = ['kernels', 'a step', 'milliseconds', 'share']
  harness.report('profile_step', columns, kernel_rows(), options)
  columns = ['convolution', 'input', 'kernel', 'a step', 'milliseconds']
  columns += ['GFLOP/s', 'milliseconds a step']
  harness.report('convolutions', columns, convolution_rows(), options)


def kernel_rows():
  """Returns group, number, milliseconds and share of kernels in a step."""
  import tensorflow as tf

  step = tasks.training_step(**harness.model_options())
  step()
  step()
  with tempfile.TemporaryDirectory() as directory:
    with tf.profiler.experimental.Profile(directory):
      for _ in range(_NUM_STEPS):
        step()
    (path,) = pathlib.Path(directory).rglob('*.xplane.pb')
    milliseconds, counts = _kernels(path)
  total = sum(milliseconds.values())
  return [
    [group, counts[group], value, value / total]
    for group, value in milliseconds.most_common()
  ]


def _kernels(path):
  """Returns milliseconds and numbers of kernels in a step, by group."""
  import tensorflow as tf
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  op_types = set(dir(tf.raw_ops))
  milliseconds, counts = collections.Counter(), collections.Counter()
  space = xplane_pb2.XSpace.FromString(path.read_bytes())
  for plane in space.planes:
    for line in plane.lines:
      for event in line.events:
        # Kernels are called '<name of the op>:<its type>'.
        name = plane.event_metadata[event.metadata_id].name
        kind = name.rpartition(':')[2]
        kind = kind.removeprefix('_MklNative').removeprefix('_Mkl')
        if kind.removeprefix('_Fused').removesuffix('Ex') not in op_types:
          continue
        group = _group(kind)
        milliseconds[group] += event.duration_ps / 1e9 / _NUM_STEPS
        counts[group] += 1 / _NUM_STEPS
  return milliseconds, {group: round(n) for group, n in counts.items()}


def _group(kind):
  groups = [
    group
    for group, names in _GROUPS.items()
    if any(name in kind for name in names)
  ]
  return groups[-1] if groups else 'everything else'


def convolution_rows():
  """Returns what each convolution takes, and all of them, slowest first."""
  from benchmarks import convolutions

  rows = []
  options = harness.model_options()
  distribution = tasks.build_distribution(options['architecture'])
  for convolution in convolutions.convolutions_of(
    distribution, 'training_step', options['batch_size']
  ):
    convolution.run()
    seconds = []
    for _ in range(FLAGS.rounds):
      start = time.perf_counter()
      convolution.run()
      seconds.append(time.perf_counter() - start)
    median, count = statistics.median(seconds), convolution.count
    shapes = convolution.input, convolution.kernel
    rows.append(
      [convolution.kind, *('x'.join(map(str, shape)) for shape in shapes)]
      + [count, 1e3 * median, convolution.operations / median / 1e9]
      + [1e3 * median * count]
    )
  rows.sort(key=lambda row: -row[-1])
  count, total = sum(row[3] for row in rows), sum(row[-1] for row in rows)
  return [*rows, ['all', None, None, count, None, None, total]]


if __name__ == '__main__':
  harness.define_flags()
  app.run(main)
