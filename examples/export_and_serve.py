"""Exports a model that train_cifar.py trained, and asks it as a server would.

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
import recipe
import tensorflow as tf

import tfp_realnvp

FLAGS = flags.FLAGS
flags.DEFINE_string('model_dir', None, 'Of train_cifar.py.', required=True)
flags.DEFINE_string(
  'export_dir',
  None,
  'Where to export to: <base>/<version> for TensorFlow Serving.',
  required=True,
)
flags.DEFINE_string('data_dir', None, 'Where TFDS keeps CIFAR-10.')
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
_, export_dir, images, answers = sys.argv
signature = tf.saved_model.load(export_dir).signatures['log_prob']
batches = np.array_split(np.load(images), len(np.load(images)) // 100 + 1)
log_prob = [signature(images=tf.constant(b))['log_prob'] for b in batches]
alone = not {'tfp_realnvp', 'tensorflow_probability'} & set(sys.modules)
np.savez(answers, log_prob=np.concatenate(log_prob), alone=alone)
"""


def served_log_prob(export_dir, images):
  """Asks the SavedModel in a process of its own, with TensorFlow alone."""
  with tempfile.TemporaryDirectory() as folder:
    question, answer = f'{folder}/images.npy', f'{folder}/answers.npz'
    np.save(question, images)
    subprocess.run(
      [sys.executable, '-c', _SERVER, export_dir, question, answer], check=True
    )
    answers = np.load(answer)
    assert answers['alone']
    return answers['log_prob']


def library_log_prob(distribution, images):
  """What the library itself says of pixels in the middle of their bins."""
  log_prob = tf.function(distribution.log_prob)
  batches = np.array_split(images, len(images) // 100 + 1)
  return np.concatenate([log_prob(b.astype(np.float32) + 0.5) for b in batches])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  distribution, trained = recipe.load_trained(pathlib.Path(FLAGS.model_dir))
  _, images = recipe.load_images(trained['dataset'], FLAGS.data_dir)
  images = images[: FLAGS.num_images]
  try:
    tfp_realnvp.export_saved_model(
      distribution,
      FLAGS.export_dir,
      num_levels=recipe.NUM_LEVELS[trained['dataset']],
      num_draws=FLAGS.num_draws,
    )
  except (OSError, ValueError) as error:
    raise SystemExit(f'--export_dir={FLAGS.export_dir}: {error}') from error
  served = served_log_prob(FLAGS.export_dir, images)
  bits = tfp_realnvp.bits_per_dim(served.mean(), distribution.event_shape)
  print(f'Served: {bits:.3f} bits/dim of {len(images)} held-out images.')
  if FLAGS.num_draws is None:
    library = library_log_prob(distribution, images)
    error = np.max(np.abs(served - library) / np.abs(library))
    print(f'Largest relative difference to the library: {error:.1e}.')
  base = pathlib.Path(FLAGS.export_dir).absolute().parent
  request = {'signature_name': 'sample'}
  request['inputs'] = {'number': 4, 'temperature': 1.0, 'seed': 0}
  print(f"""
docker run -p 8501:8501 -e MODEL_NAME=real_nvp \\
  -v "{base}:/models/real_nvp" tensorflow/serving
curl http://localhost:8501/v1/models/real_nvp:predict \\
  -d '{json.dumps(request)}'""")


if __name__ == '__main__':
  app.run(main)
