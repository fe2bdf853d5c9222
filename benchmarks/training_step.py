"""Speed of a training step, against peers and against its convolutions alone.

    python -m benchmarks.training_step --architecture=small

Prints for each variant the median and the spread of the time of a step, and how
many times as fast it is as each reference of the same run: the PyTorch module
(where torch is installed), and the couplings that run their network twice.
"""

from absl import app
from absl import flags

from benchmarks import harness

FLAGS = flags.FLAGS
harness.define_model_flags(architecture='small')
flags.DEFINE_boolean('bfloat16', False, 'Whether to measure bfloat16 as well.')


def main(argv):
  del argv
  common = harness.model_options()

  def step(**options):
    return harness.Variant('training_step', common | options)

  variants = {
    'float32': step(),
    'float32, XLA': step(jit_compile=True),
    'float32, recomputed': step(recompute=True),
  }
  if FLAGS.bfloat16:
    variants['bfloat16'] = step(compute_dtype='bfloat16')
    variants['bfloat16, XLA'] = step(compute_dtype='bfloat16', jit_compile=True)
  variants['without oneDNN'] = harness.Variant(
    'training_step', common, {'TF_ENABLE_ONEDNN_OPTS': '0'}
  )
  variants['networks run twice'] = step(twice=True)
  variants['convolutions alone'] = harness.Variant(
    'convolutions', common | {'method': 'training_step'}
  )
  if harness.has_torch():
    variants['PyTorch'] = harness.Variant('pytorch_training_step', common)
  harness.report_speed(
    'training_step',
    harness.measure(variants),
    ['PyTorch', 'networks run twice', 'convolutions alone'],
  )


if __name__ == '__main__':
  app.run(main)
