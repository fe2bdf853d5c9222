"""Speed of `log_prob` and `sample`, against peers and their convolutions alone.

    python -m benchmarks.inference --architecture=small

Prints for each method and variant what `benchmarks.training_step` does.
"""

from absl import app

from benchmarks import harness

harness.define_model_flags(architecture='small')


def main(argv):
  del argv
  common = harness.model_options()
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
