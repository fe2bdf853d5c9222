"""Exports a model that train.py trained, and asks it as a server would.

    python examples/export_and_serve.py --model_dir=runs/digits \
      --export_dir=runs/digits_serving/1

Writes a SavedModel to --export_dir. Then a process that imports TensorFlow and
NumPy alone loads it and answers for the held-out images; this program compares
with the library's answers, and prints the command that starts TensorFlow
Serving and a request in its format.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf

import tfp_realnvp
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment

FLAGS = flags.FLAGS
flags.DEFINE_string('model_dir', None, 'Of train.py.', required=True)
flags.DEFINE_string(
  'export_dir',
  None,
  'Where to export to: <base>/<version> for TensorFlow Serving.',
  required=True,
)
flags.DEFINE_string('data_dir', None, 'As for train.py.')
flags.DEFINE_integer(
  'num_draws',
  None,
  'Draws of noise that log_prob is the mean over; by default the middle of '
  'each bin.',
  lower_bound=1,
)
flags.DEFINE_integer('num_images', 1000, 'Held-out images to ask for.', 1)

_SERVER = """
import sys
import numpy as np
import tensorflow as tf
_, export_dir, questions, answers = sys.argv
signature = tf.saved_model.load(export_dir).signatures['log_prob']
inputs = dict(np.load(questions))
count = len(inputs['images'])
log_prob = [
  signature(**{k: tf.constant(v[i : i + 100]) for k, v in inputs.items()})
  for i in range(0, count, 100)
]
alone = not {'tfp_realnvp', 'tensorflow_probability'} & set(sys.modules)
log_prob = np.concatenate([answer['log_prob'] for answer in log_prob])
np.savez(answers, log_prob=log_prob, alone=alone)
"""


def served_log_prob(export_dir, inputs):
  """Asks the SavedModel in a process of its own, with TensorFlow alone."""
  with tempfile.TemporaryDirectory() as folder:
    questions, answers = f'{folder}/questions.npz', f'{folder}/answers.npz'
    np.savez(questions, **inputs)
    subprocess.run(
      [sys.executable, '-c', _SERVER, export_dir, questions, answers],
      check=True,
    )
    answers = np.load(answers)
    assert answers['alone']
    return answers['log_prob']


def library_log_prob(distribution, batches):
  """What the library itself says of pixels in the middle of their bins."""

  @tf.function
  def log_prob(images, condition=None):
    pixels = tf.cast(images, tf.float32) + 0.5
    return distribution.log_prob(
      pixels, **experiment.bijector_kwargs(condition)
    )

  return np.concatenate(
    [
      log_prob(*batch if isinstance(batch, tuple) else (batch,))
      for batch in batches
    ]
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  distribution, preset, trained = experiment.load_trained(
    pathlib.Path(FLAGS.model_dir)
  )
  conditional = trained.get('conditional', False)
  test = image_data.load(
    preset, trained['dataset'], FLAGS.data_dir, conditional
  )
  images, condition = test.arrays('test', FLAGS.num_images)
  inputs = {'images': images}
  if conditional:
    inputs['condition'] = condition
  try:
    tfp_realnvp.export_saved_model(
      distribution,
      FLAGS.export_dir,
      num_levels=preset.num_levels,
      num_draws=FLAGS.num_draws,
      condition_size=preset.condition_size if conditional else None,
    )
  except (OSError, ValueError) as error:
    raise SystemExit(f'--export_dir={FLAGS.export_dir}: {error}') from error
  served = served_log_prob(FLAGS.export_dir, inputs)
  bits = tfp_realnvp.bits_per_dim(served.mean(), distribution.event_shape)
  print(f'Served: {bits:.3f} bits/dim of {len(images)} held-out images.')
  if FLAGS.num_draws is None:
    library = library_log_prob(
      distribution, test.batches('test', limit=FLAGS.num_images)
    )
    error = np.max(np.abs(served - library) / np.abs(library))
    print(f'Largest relative difference to the library: {error:.1e}.')
  base = pathlib.Path(FLAGS.export_dir).absolute().parent
  request = {'signature_name': 'sample'}
  request['inputs'] = {'temperature': 1.0, 'seed': 0}
  if conditional:
    request['inputs']['condition'] = condition[:4].tolist()
  else:
    request['inputs']['number'] = 4
  print(f"""
docker run -p 8501:8501 -e MODEL_NAME=real_nvp \\
  -v "{base}:/models/real_nvp" tensorflow/serving
curl http://localhost:8501/v1/models/real_nvp:predict \\
  -d '{json.dumps(request)}'""")


if __name__ == '__main__':
  app.run(main)
