"""Latency of a SavedModel's `log_prob`, against the library and other runtimes.

    python -m benchmarks.serving --architecture=small

Prints for requests of one and of 64 uint8 images: milliseconds a request,
requests a second, and how many times as fast each is as the library called
directly. "Frozen" has constants for variables, so that kernels are normalized
once instead of at every request. OpenVINO and ONNX Runtime, where installed,
read the same SavedModel.
"""

import importlib.util

from absl import app
from absl import flags

from benchmarks import harness
from benchmarks import tasks

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  'architecture', 'small', sorted(tasks.ARCHITECTURES), 'Which to measure.'
)
flags.DEFINE_multi_integer('batch_sizes', [1, 64], 'Images of a request.')

# Per variant the runtime, the packages it needs and its environment.
_WITHOUT = {'TF_ENABLE_ONEDNN_OPTS': '0'}
_VARIANTS = {
  'library': ('library', (), {}),
  'library, without oneDNN': ('library', (), _WITHOUT),
  'SavedModel': ('SavedModel', (), {}),
  'SavedModel, without oneDNN': ('SavedModel', (), _WITHOUT),
  'frozen': ('frozen', (), {}),
  'frozen, without oneDNN': ('frozen', (), _WITHOUT),
  'OpenVINO': ('OpenVINO', ('openvino',), {}),
  'ONNX Runtime': ('ONNX Runtime', ('onnxruntime', 'tf2onnx'), {}),
}


def main(argv):
  del argv
  for batch_size in FLAGS.batch_sizes:
    requests = max(1, 64 // batch_size)  # A turn is long enough to time.
    options = {
      'architecture': FLAGS.architecture,
      'batch_size': batch_size,
      'requests': requests,
    }
    results = harness.measure(
      {
        name: harness.Variant('serving', options | {'runtime': runtime}, env)
        for name, (runtime, packages, env) in _VARIANTS.items()
        if all(map(importlib.util.find_spec, packages))
      }
    )
    rows = [
      [
        name,
        1000 * result.median / requests,
        1000 * min(result.seconds) / requests,
        1000 * max(result.seconds) / requests,
        requests / result.median,
        results['library'].median / result.median,
      ]
      for name, result in results.items()
    ]
    columns = ['variant', 'milliseconds', 'lowest', 'highest', 'requests/s']
    print(f'{batch_size} images a request:')
    harness.report(f'serving_{batch_size}', columns + ['speed / library'], rows)


if __name__ == '__main__':
  app.run(main)
