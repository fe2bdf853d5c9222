"""How the cost of a training step grows with what it is made of.

    python -m benchmarks.scaling

Starts from the small architecture and changes one thing at a time. Image sizes
are compared at the same number of pixels a step, so that fixed costs count
equally; 'per pixel' is the time of a step by its pixels, as a ratio to that of
the first row of its kind.
"""

from absl import app

from benchmarks import harness


def main(argv):
  del argv
  pixels = 64 * 32**2
  kinds = {
    'image size': [
      {'image_size': size, 'batch_size': pixels // size**2}
      for size in (16, 32, 64, 128)
    ],
    'blocks': [{'num_blocks': blocks} for blocks in (1, 2, 4, 8)],
    'scales': [{'num_scales': scales} for scales in (1, 2, 3, 4, 5)],
    'batch size': [{'batch_size': size} for size in (1, 4, 16, 64, 256)],
  }
  columns = ['kind', 'value', 'seconds', 'per pixel', 'per step of the value']
  rows = []
  for kind, options in kinds.items():
    results = harness.measure(
      {
        str(list(option.values())[0]): harness.Variant(
          'training_step', {'architecture': 'small'} | option
        )
        for option in options
      }
    )
    per_pixel = {}
    last = None
    for (value, result), option in zip(results.items(), options):
      size = option.get('image_size', 32)
      count = option.get('batch_size', 64)
      per_pixel[value] = result.median / (count * size**2)
      slope = last and (result.median - last[1]) / (int(value) - last[0])
      last = int(value), result.median
      first = next(iter(per_pixel.values()))
      rows.append([kind, value, result.median, per_pixel[value] / first, slope])
  harness.report('scaling', columns, rows)


if __name__ == '__main__':
  app.run(main)
