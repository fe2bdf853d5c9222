"""Peak memory of a training step, with networks recomputed and without.

    python -m benchmarks.memory --architecture=cifar10

Prints for each variant the memory that its process holds before the first step
(libraries, weights, data), and at most while it trains; and the time of a step.
"""

from absl import app
from absl import flags

from benchmarks import harness

FLAGS = flags.FLAGS
harness.define_model_flags(architecture='cifar10')
flags.DEFINE_boolean('jit_compile', False, 'Whether to compile with XLA.')


def main(argv):
  del argv
  common = harness.model_options() | {'jit_compile': FLAGS.jit_compile}
  results = harness.measure(
    {
      'kept': harness.Variant('training_step', common),
      'recomputed': harness.Variant(
        'training_step', common | {'recompute': True}
      ),
    }
  )
  kept = results['kept']
  rows = []
  for name, result in results.items():
    training = result.peak_memory - result.base_memory
    rows.append(
      [
        name,
        result.base_memory,
        result.peak_memory,
        result.peak_memory / kept.peak_memory,
        training / (kept.peak_memory - kept.base_memory),
        result.median,
        result.median / kept.median,
      ]
    )
  columns = [
    'activations',
    'MiB before',
    'MiB at most',
    'at most / kept',
    'training alone / kept',
    'seconds',
    'seconds / kept',
  ]
  harness.report('memory', columns, rows)


if __name__ == '__main__':
  app.run(main)
