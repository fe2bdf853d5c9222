"""How the cost of a training step grows with what it is made of.

    python -m benchmarks.scaling

Starts from the small architecture and changes one thing at a time. Image sizes
are compared at the same number of pixels a step, so that fixed costs count
equally; 'per pixel' is the time of a step by its pixels, as a ratio to that of
the first row of its kind.
"""

from absl import app
from absl import flags

from benchmarks import harness

_PIXELS = 64 * 32**2  # A step of the small architecture.
_KINDS = {
  'image_size': [
    {'image_size': size, 'batch_size': _PIXELS // size**2}
    for size in (16, 32, 64, 128)
  ],
  'num_blocks': [{'num_blocks': blocks} for blocks in (1, 2, 4, 8)],
  'num_scales': [{'num_scales': scales} for scales in (1, 2, 3, 4, 5)],
  'batch_size': [{'batch_size': size} for size in (1, 4, 16, 64, 256)],
}

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum(
  'kind', list(_KINDS), list(_KINDS), 'What to change; by default all, in turn.'
)


def main(argv):
  del argv
  rows = []
  for kind in FLAGS.kind:
    results = harness.measure(
      {
        str(options[kind]): harness.Variant(
          'training_step', {'architecture': 'small'} | options
        )
        for options in _KINDS[kind]
      }
    )
    first = previous = None
    for options, result in zip(_KINDS[kind], results.values()):
      pixels = (
        options.get('batch_size', 64) * options.get('image_size', 32) ** 2
      )
      per_pixel = result.median / pixels
      first = first or per_pixel
      slope = None
      if previous:
        slope = (result.median - previous[1]) / (options[kind] - previous[0])
      previous = options[kind], result.median
      rows.append([kind, *previous, per_pixel / first, slope])
  columns = ['kind', 'value', 'seconds', 'per pixel', 'for each one more']
  harness.report('scaling', columns, rows)


if __name__ == '__main__':
  app.run(main)
