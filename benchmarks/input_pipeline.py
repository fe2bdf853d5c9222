"""Whether training waits for its input.

    python -m benchmarks.input_pipeline

Compares steps on images that lie ready with steps on those that the pipeline of
`examples/train.py` gives (shuffled, flipped, batched, prefetched), and
what the pipeline takes for a batch when nothing else runs.
"""

from absl import app

from benchmarks import harness


def main(argv):
  del argv
  common = {'architecture': 'small'}
  results = harness.measure(
    {
      'images at hand': harness.Variant('training_step', common),
      'from the pipeline': harness.Variant(
        'training_step', common | {'from_pipeline': True}
      ),
      'pipeline alone': harness.Variant('pipeline'),
    }
  )
  harness.report_speed('input_pipeline', results, ['images at hand'])


if __name__ == '__main__':
  app.run(main)
