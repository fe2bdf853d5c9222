r"""Exports a model that train.py trained and queries it as a server would.

    python examples/export_and_serve.py --model_dir=runs/digits \
      --export_dir=runs/digits_serving/1

Writes a SavedModel to --export_dir. A second process that imports only
TensorFlow and NumPy loads it and computes `log_prob` of held-out images. This
program compares the results with the library's, and prints a command that
starts TensorFlow Serving and an example request.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

from collections.abc import Iterable
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import model_dirs
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment

tfd = tfp.distributions

FLAGS = flags.FLAGS

_SERVER = """
import signal
import sys
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # No traceback on Ctrl-C.
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


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  model_dirs.define_flag('The --model_dir of train.py.')
  model_dirs.define_flag(
    'Directory to write the SavedModel to, <base>/<version> for TensorFlow '
    'Serving.',
    'export_dir',
  )
  flags.DEFINE_string(
    'data_dir', None, 'The --data_dir of train.py (default: that of the run).'
  )
  flags.DEFINE_integer(
    'num_draws',
    None,
    'Number of noise draws that log_prob averages over (default: no noise, the '
    'middle of each bin).',
    lower_bound=1,
  )
  flags.DEFINE_integer(
    'num_images', 1000, 'Number of held-out images to query.', 1
  )


def served_log_prob(
  export_dir: str, inputs: dict[str, np.ndarray]
) -> np.ndarray:
  """Queries the SavedModel in a process that imports only TensorFlow."""
  with tempfile.TemporaryDirectory() as folder:
    questions, answers = f'{folder}/questions.npz', f'{folder}/answers.npz'
    np.savez(questions, **inputs)
    done = subprocess.run(
      [sys.executable, '-c', _SERVER, export_dir, questions, answers],
      stderr=subprocess.PIPE,
      text=True,
    )
    if done.returncode:
      *_, reason = ['', *done.stderr.splitlines()]
      raise SystemExit(
        f'--export_dir={export_dir} is written, but the process that queries '
        f'it ended with status {done.returncode}: {reason}'
      )
    answers = np.load(answers)
    assert answers['alone']
    return answers['log_prob']


def library_log_prob(
  distribution: tfd.Distribution, batches: Iterable[Any]
) -> np.ndarray:
  """Computes `log_prob` of the middle of each bin with the library."""

  @tf.function
  def log_prob(images: Any, condition: Any = None) -> tf.Tensor:
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


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  model_dir = pathlib.Path(FLAGS.model_dir)
  distribution, preset, trained = experiment.load_trained(model_dir)
  conditional = trained.get('conditional', False)
  data_dir = FLAGS.data_dir or trained['data_dir']
  test = image_data.load(
    preset, trained['dataset'], data_dir, conditional, model_dir
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
      condition_size=preset.data.condition_size if conditional else None,
    )
    served = served_log_prob(FLAGS.export_dir, inputs)
  except (OSError, ValueError, tf.errors.OpError) as error:
    reason = model_dirs.reason(error)
    raise SystemExit(f'--export_dir={FLAGS.export_dir}: {reason}') from error
  bits = tfp_realnvp.bits_per_dim(served.mean(), distribution.event_shape)
  print(f'Served: {bits:.3f} bits/dim of {len(images)} held-out images.')
  if FLAGS.num_draws is not None:
    print(
      f'This has {FLAGS.num_draws} draws of noise. The bits/dim of train.py '
      'have one draw; more draws give fewer bits/dim.'
    )
  else:
    print(
      'This is the density at the middle of each bin, without noise. It is not '
      'comparable with the bits/dim of train.py, which are an upper bound for '
      'integers; those of an export with --num_draws=1 are.'
    )
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
  define_flags()
  app.run(main)
