"""What each convolution of a training step takes when it runs alone.

    python -m benchmarks.convolutions --architecture=small

The sum over all is what a step would take that did nothing else.
"""

import os
import statistics
import time

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import tasks

FLAGS = flags.FLAGS
harness.define_model_flags(architecture='small')


def main(argv):
  del argv
  os.environ.update(harness.ENVIRONMENT)
  rows = []
  for call in tasks.convolution_calls(
    FLAGS.architecture, 'training_step', FLAGS.batch_size
  ):
    call.run()
    seconds = []
    for _ in range(FLAGS.rounds):
      start = time.perf_counter()
      call.run()
      seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    rows.append(
      [
        call.kind,
        'x'.join(map(str, call.input)),
        'x'.join(map(str, call.kernel)),
        call.count,
        1e3 * median,
        call.operations / median / 1e9,
        1e3 * median * call.count,
      ]
    )
  rows.sort(key=lambda row: -row[-1])
  total = sum(row[-1] for row in rows)
  rows.append(
    ['all', None, None, sum(row[3] for row in rows), None, None, total]
  )
  columns = ['kind', 'input', 'kernel', 'a step', 'ms', 'GFLOP/s', 'ms a step']
  harness.report('convolutions', columns, rows)


if __name__ == '__main__':
  app.run(main)
