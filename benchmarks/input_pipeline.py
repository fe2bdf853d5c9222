"""Whether training waits for its input.

    python -m benchmarks.input_pipeline

Compares steps on images that are already in memory with steps on the batches of
the input pipeline of `examples/train.py` (shuffled, flipped, batched and
prefetched), and measures the pipeline when nothing else runs, its start
included. A turn is several steps, in which the pipeline makes as many batches.
"""

from absl import app

from benchmarks import harness

_STEPS = 8
_BATCHES = 1000


def main(argv):
  del argv
  options = {'architecture': 'small', 'steps': _STEPS}
  variants = {
    'step on images in memory': harness.Variant('training_step', options),
    'step on the pipeline': harness.Variant(
      'training_step', options | {'from_pipeline': True}
    ),
    'batch of the pipeline alone': harness.Variant(
      'pipeline', {'batches': _BATCHES}
    ),
  }
  rows = []
  for name, result in harness.measure(variants).items():
    count = _STEPS if 'step' in name else _BATCHES
    seconds = (result.median, min(result.seconds), max(result.seconds))
    rows.append([name, *(1000 * value / count for value in seconds)])
  for row in rows:
    row.append(row[1] / rows[0][1])
  columns = ['variant', 'milliseconds', 'lowest', 'highest', 'time / in memory']
  harness.report('input_pipeline', columns, rows)


if __name__ == '__main__':
  app.run(main)
