"""What a training step spends its time on.

    python -m benchmarks.profile_step --architecture=small

Traces some steps with TensorFlow's profiler and adds up the kernels by what
they do. Kernels overlap and use several threads: the shares are of the sum over
kernels, which can exceed the time of the step.
"""

import collections
import os
import pathlib
import tempfile

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import tasks

FLAGS = flags.FLAGS
harness.define_model_flags(architecture='small')
_NUM_STEPS = 3

# Parts of the names of kernels, of which the first that occurs decides.
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
  import tensorflow as tf

  step = tasks.training_step(FLAGS.architecture, FLAGS.batch_size)
  step()
  step()
  with tempfile.TemporaryDirectory() as directory:
    with tf.profiler.experimental.Profile(directory):
      for _ in range(_NUM_STEPS):
        step()
    (path,) = pathlib.Path(directory).rglob('*.xplane.pb')
    milliseconds, counts = _kernels(path)
  total = sum(milliseconds.values())
  rows = [
    [group, counts[group], value, value / total]
    for group, value in milliseconds.most_common()
  ]
  columns = ['kernels', 'a step', 'milliseconds', 'share']
  harness.report('profile_step', columns, rows)


def _kernels(path):
  """Milliseconds and number of kernels a step, by group."""
  import tensorflow as tf
  from tensorflow.tsl.profiler.protobuf import xplane_pb2

  op_types = set(dir(tf.raw_ops))
  milliseconds, counts = collections.Counter(), collections.Counter()
  space = xplane_pb2.XSpace.FromString(path.read_bytes())
  for plane in space.planes:
    for line in plane.lines:
      for event in line.events:
        # Kernels are called '<name of the op>:<its type>'.
        _, _, kind = plane.event_metadata[event.metadata_id].name.rpartition(
          ':'
        )
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


if __name__ == '__main__':
  app.run(main)
