"""What the first training step takes: building, tracing, compiling.

    python -m benchmarks.first_step --architecture=cifar10 --batch_size=2

With `--batch_size=2`, the step itself takes little.
"""

from absl import app

from benchmarks import harness

harness.define_model_flags(architecture='cifar10')


def main(argv):
  del argv
  common = harness.model_options()
  variants = {
    name: harness.Variant('training_step', common | options)
    for name, options in {
      'float32': {},
      'recomputed': {'recompute': True},
      'bfloat16': {'compute_dtype': 'bfloat16'},
      'XLA': {'jit_compile': True},
    }.items()
  }
  results = harness.measure(variants, rounds=1)
  rows = [
    [name, result.build, result.first, result.median]
    for name, result in results.items()
  ]
  columns = ['variant', 'imports and building', 'first step', 'a later step']
  harness.report('first_step', columns, rows)


if __name__ == '__main__':
  app.run(main)
