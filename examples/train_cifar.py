"""Trains Real NVP on CIFAR-10, by default with the paper's recipe.

    python examples/train_cifar.py --model_dir=runs/cifar10

or, without a network and in minutes, on the digits that ship with scikit-learn:

    python examples/train_cifar.py --dataset=digits --model_dir=runs/digits

Writes to --model_dir: checkpoints, metrics.csv, TensorBoard summaries, a
picture of samples beside real images every --evaluate_every steps, and the
flags it was started with. Stopped anywhere and started again on the same
directory it goes on where it stopped, to the same weights; on a CPU to the bit,
with --deterministic. At the end it re-estimates the moving statistics of batch
normalization, into final/.

On several devices: --distribute=mirrored (all GPUs of a machine), multi_worker
(started once for each worker, with TF_CONFIG set) or tpu. --batch_size is that
of all together.
"""

import csv
import io
import json
import os
import pathlib
import time

from absl import app
from absl import flags
import keras
import numpy as np
import recipe
import tensorflow as tf

import tfp_realnvp
from tfp_realnvp import visualization

# What the data set decides, unless a flag says otherwise. CIFAR-10: section 4.1
# of the paper.
DEFAULTS = {
  'cifar10': {
    'num_scales': 2,
    'num_blocks': 8,
    'hidden_channels': 64,
    'num_steps': 100_000,
    'evaluate_every': 1_000,
    'cooldown_steps': 0,
  },
  'digits': {
    'num_scales': 2,
    'num_blocks': 2,
    'hidden_channels': 32,
    'num_steps': 400,
    'evaluate_every': 200,
    'cooldown_steps': 200,
  },
}
STRATEGIES = {
  'none': tf.distribute.get_strategy,
  'mirrored': tf.distribute.MirroredStrategy,
  'multi_worker': tf.distribute.MultiWorkerMirroredStrategy,
  'tpu': lambda: tf.distribute.TPUStrategy(
    tf.distribute.cluster_resolver.TPUClusterResolver.connect(FLAGS.tpu)
  ),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum('dataset', 'cifar10', sorted(DEFAULTS), 'What to train on.')
flags.DEFINE_string(
  'data_dir',
  None,
  'Where TFDS keeps CIFAR-10; by default, where it always does.',
)
flags.DEFINE_string('model_dir', None, 'Where to write to.', required=True)
for _name, _help in {
  'num_scales': 'Scales of the architecture.',
  'num_blocks': 'Residual blocks of each network.',
  'hidden_channels': 'Channels within the networks at the first scale.',
  'num_steps': 'Steps of training, altogether.',
  'evaluate_every': 'Steps between evaluations, each with a picture.',
}.items():
  flags.DEFINE_integer(
    _name,
    None,
    f'{_help} By default {DEFAULTS["cifar10"][_name]} for CIFAR-10 '
    f'and {DEFAULTS["digits"][_name]} for digits.',
    lower_bound=1,
  )
flags.DEFINE_integer('checkpoint_every', 500, 'Steps between checkpoints.', 1)
flags.DEFINE_integer('batch_size', 64, 'Images per step.', lower_bound=1)
flags.DEFINE_float('learning_rate', 1e-3, 'Of Adam.', lower_bound=0)
flags.DEFINE_integer(
  'cooldown_steps',
  None,
  'Last steps, over which the learning rate falls linearly to 0. By default '
  'none for CIFAR-10, as in the paper, and 200 for digits.',
  lower_bound=0,
)
flags.DEFINE_float('clip_norm', 100.0, 'Global norm gradients are clipped at.')
flags.DEFINE_float('l2_coefficient', 5e-5, 'L2, on the scale parameters.')
flags.DEFINE_float('momentum', 0.9, 'Of the moving batch statistics.')
flags.DEFINE_boolean(
  'lagged_batch_norm',
  True,
  'Batch normalization as in appendix E of the paper.',
)
flags.DEFINE_enum(
  'compute_dtype',
  'float32',
  ['float32', 'bfloat16', 'float16'],
  'What the networks compute in; float16 with loss scaling.',
)
flags.DEFINE_boolean(
  'recompute_networks',
  False,
  'Whether to compute activations again in the backward pass: less memory.',
)
flags.DEFINE_boolean(
  'jit_compile', False, 'Whether to compile with XLA: faster but on a CPU.'
)
flags.DEFINE_enum(
  'distribute', 'none', sorted(STRATEGIES), 'What to divide batches over.'
)
flags.DEFINE_string('tpu', '', 'Address or name of the TPU.')
flags.DEFINE_boolean(
  'synchronized',
  True,
  'Whether batch statistics are those of all devices together.',
)
flags.DEFINE_boolean(
  'deterministic',
  False,
  'Whether to use only operations that always round alike: slower.',
)
flags.DEFINE_integer('seed', 0, 'Of weights, noise and order of the data.')

_NUM_SAMPLES = 64


def histogram_bits_per_dim(train, test, num_levels):
  """Bits/dim of the baseline that knows each pixel's histogram and no more.

  Args:
    train: Integer images `[N, H, W, C]`, whose levels are counted, plus one.
    test: Integer images `[M, H, W, C]`.
    num_levels: How many levels there are.
  """
  train, test = (images.reshape(len(images), -1) for images in (train, test))
  bits = []
  for pixel, held_out in zip(train.T, test.T):
    counts = 1 + np.bincount(pixel, minlength=num_levels)
    bits.append(-np.log2(counts / counts.sum())[held_out].mean())
  return float(np.mean(bits))


def build_model():
  """Returns the model that the flags describe, compiled."""
  distribution = recipe.build_distribution(
    **architecture(),
    momentum=FLAGS.momentum,
    synchronized=FLAGS.synchronized,
    recompute_networks=FLAGS.recompute_networks,
    compute_dtype=FLAGS.compute_dtype,
    seed=FLAGS.seed,
  )
  model = tfp_realnvp.DensityEstimator(
    distribution,
    num_levels=recipe.NUM_LEVELS[FLAGS.dataset],
    l2_coefficient=FLAGS.l2_coefficient,
    l2_variables=distribution.bijector.scale_parameters,
    seed=FLAGS.seed,
  )
  optimizer = keras.optimizers.Adam(
    FLAGS.learning_rate, epsilon=1e-8, global_clipnorm=FLAGS.clip_norm
  )
  if FLAGS.compute_dtype == 'float16':
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
  model.compile(optimizer, jit_compile=FLAGS.jit_compile)
  return model


def architecture():
  return {name: FLAGS[name].value for name in recipe.ARCHITECTURE}


class Cooldown(keras.callbacks.Callback):
  """Lets the learning rate fall linearly to 0 over the last steps."""

  def __init__(self, learning_rate, num_steps, cooldown_steps):
    super().__init__()
    self._learning_rate = learning_rate
    self._num_steps = num_steps
    self._cooldown_steps = cooldown_steps

  def on_train_batch_begin(self, batch, logs=None):
    left = self._num_steps - int(self.model.step.numpy())
    share = min(1.0, left / self._cooldown_steps) if self._cooldown_steps else 1
    self.model.optimizer.learning_rate = self._learning_rate * share


def prepare_model_dir(model_dir):
  """Makes the directory, keeps the flags of the run; exits if they changed."""
  path = model_dir / 'flags.json'
  values = architecture()
  try:
    model_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
      replace_text(path, json.dumps(values, indent=2))
      return
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} cannot be written: {error}'
    ) from error
  begun = json.loads(path.read_text())
  for name, value in values.items():
    if begun[name] != value:
      raise SystemExit(
        f'--{name}={value}, but the run in --model_dir={model_dir} was begun '
        f'with {begun[name]}. Give that, or another --model_dir.'
      )


class Reports:
  """Writes metrics.csv, TensorBoard summaries and pictures of samples."""

  def __init__(self, model_dir, step, is_chief):
    """Takes up metrics.csv as it was at `step`, where training goes on."""
    self._model_dir = model_dir
    self._is_chief = is_chief
    self._rows = []
    path = model_dir / 'metrics.csv'
    if path.exists():
      rows = csv.DictReader(path.read_text().splitlines())
      self._rows = [row for row in rows if int(row['step']) <= step]
    before = float(self._rows[-1]['seconds']) if self._rows else 0
    self._start = time.time() - before
    if is_chief:
      self._writer = tf.summary.create_file_writer(str(model_dir))

  @property
  def step(self):
    """The step of the last row."""
    return int(self._rows[-1]['step']) if self._rows else 0

  def write(self, step, metrics, model, real):
    """Adds a row, with the seconds since the beginning, and a picture.

    Args:
      step: `int`.
      metrics: Dict of floats.
      model: `DensityEstimator`.
      real: Images to draw samples beside.
    """
    row = {'step': step, **metrics, 'seconds': time.time() - self._start}
    self._rows.append(row)
    if not self._is_chief:
      return
    text = io.StringIO()
    table = csv.DictWriter(text, row, extrasaction='ignore')
    table.writeheader()
    table.writerows(self._rows)
    replace_text(self._model_dir / 'metrics.csv', text.getvalue())
    picture = real_and_samples(model, real)
    path = str(samples_path(self._model_dir, step))
    tf.io.write_file(path, tf.io.encode_png(picture))
    with self._writer.as_default(step=step):
      for name, value in row.items():
        tf.summary.scalar(name, value)
      tf.summary.image('real_and_samples', picture[np.newaxis])


def replace_text(path, text):
  """Writes a file so that it is the old one or the new one at any time."""
  replacement = path.with_name(f'{path.name}.{os.getpid()}')
  replacement.write_text(text)
  replacement.replace(path)


def real_and_samples(model, real):
  """Returns a picture of real images, left, and samples, right."""
  samples = model.distribution.sample(len(real), seed=[FLAGS.seed, 0])
  num_levels = recipe.NUM_LEVELS[FLAGS.dataset]
  zoom = max(1, 32 // real.shape[1])
  grids = [
    visualization.image_grid(
      visualization.to_uint8(images, num_levels), zoom=zoom
    )
    for images in (real, samples)
  ]
  return visualization.side_by_side(*grids)


def samples_path(model_dir, step):
  return model_dir / f'samples-{step:07d}.png'


def evaluate(model, test):
  """Returns the metrics on held-out images, each named test_...."""
  metrics = model.evaluate(test, batch_size=100, verbose=0, return_dict=True)
  return {f'test_{name}': value for name, value in metrics.items()}


def train(model, train_images, test_images, checkpoints, reports):
  """Trains up to --num_steps, with a report every --evaluate_every."""
  every, end = FLAGS.evaluate_every, FLAGS.num_steps
  cooldown = Cooldown(FLAGS.learning_rate, end, FLAGS.cooldown_steps)
  train_images = tf.constant(train_images)
  while True:
    step = checkpoints.step
    if step > reports.step and (step % every == 0 or step == end):
      # Those of training first: evaluation begins by setting them to 0.
      metrics = model.get_metrics_result()
      metrics = {f'train_{k}': float(v) for k, v in metrics.items()}
      metrics |= evaluate(model, test_images)
      reports.write(step, metrics, model, test_images[:_NUM_SAMPLES])
    if step >= end:
      return
    until = min((step // every + 1) * every, end)
    batches = recipe.training_batches(
      train_images,
      FLAGS.batch_size,
      flip=FLAGS.dataset == 'cifar10',
      seed=FLAGS.seed,
      start=step,
    )
    model.fit(
      batches,
      steps_per_epoch=until - step,
      shuffle=False,
      callbacks=[cooldown, checkpoints],
    )
    checkpoints.save()


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  for name, value in DEFAULTS[FLAGS.dataset].items():
    if FLAGS[name].value is None:
      FLAGS[name].value = value
  strategy = STRATEGIES[FLAGS.distribute]()
  keras.utils.set_random_seed(FLAGS.seed)
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  model_dir = pathlib.Path(FLAGS.model_dir)
  prepare_model_dir(model_dir)
  train_images, test_images = recipe.load_images(FLAGS.dataset, FLAGS.data_dir)
  try:
    with strategy.scope():
      model = build_model()
  except ValueError as error:
    raise SystemExit(f'The flags do not go together: {error}') from error
  checkpoints = tfp_realnvp.Checkpoints(
    model, model_dir, FLAGS.checkpoint_every
  )
  try:
    checkpoints.restore(epoch_steps=FLAGS.evaluate_every)
    reports = Reports(model_dir, checkpoints.step, checkpoints.is_chief)
    train(model, train_images, test_images, checkpoints, reports)
  except KeyboardInterrupt:
    checkpoints.save()
    print(f'Stopped at step {checkpoints.step}, and saved.')
    return
  except (FloatingPointError, OSError, ValueError) as error:
    raise SystemExit(str(error)) from error

  step, trained = checkpoints.step, evaluate(model, test_images)
  model.reestimate_statistics(train_images)
  metrics = evaluate(model, test_images)
  tfp_realnvp.Checkpoints(model, model_dir / 'final', max_to_keep=1).save()
  baseline = histogram_bits_per_dim(
    train_images, test_images, recipe.NUM_LEVELS[FLAGS.dataset]
  )
  print(
    f'Step {step}: '
    f'test bits/dim {metrics["test_bits_per_dim"]:.3f} '
    f'(non-finite: {metrics["test_non_finite"]:.0f} of {len(test_images)} '
    f'images), before statistics were re-estimated '
    f'{trained["test_bits_per_dim"]:.3f}; '
    f"each pixel's histogram alone: {baseline:.3f}.\n"
    f'Samples beside real images: {samples_path(model_dir, step)}'
  )


if __name__ == '__main__':
  app.run(main)
