"""Speed of `log_prob` and `sample`, against peers and their convolutions alone.

    python -m benchmarks.inference --architecture=small

Prints for each method and variant what `benchmarks.training_step` does.
"""

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import tasks

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  'architecture', 'small', sorted(tasks.ARCHITECTURES), 'Which to measure.'
)
flags.DEFINE_integer('batch_size', 64, 'Images per call.', lower_bound=1)


def main(argv):
  del argv
  common = {
    'architecture': FLAGS.architecture,
    'batch_size': FLAGS.batch_size,
  }
  for method in ('log_prob', 'sample', 'sample_and_log_prob'):
    print(f'{method}:')
    variants = {
      'float32': harness.Variant(method, common),
      'float32, XLA': harness.Variant(method, common | {'jit_compile': True}),
      'without oneDNN': harness.Variant(
        method, common, {'TF_ENABLE_ONEDNN_OPTS': '0'}
      ),
      'networks run twice': harness.Variant(method, common | {'twice': True}),
    }
    if method != 'sample_and_log_prob':
      variants['convolutions alone'] = harness.Variant(
        'convolutions', common | {'method': method}
      )
      if harness.has_torch():
        variants['PyTorch'] = harness.Variant(f'pytorch_{method}', common)
    harness.report_speed(
      method,
      harness.measure(variants),
      ['PyTorch', 'networks run twice', 'convolutions alone'],
    )


if __name__ == '__main__':
  app.run(main)
