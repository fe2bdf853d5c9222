"""Trains Real NVP on CIFAR-10, by default with the paper's recipe.

    python examples/train_cifar.py --model_dir=runs/cifar10

or, without a network and in minutes, on the digits that ship with scikit-learn:

    python examples/train_cifar.py --dataset=digits --model_dir=runs/digits

Writes to --model_dir: checkpoints, metrics.csv, TensorBoard summaries, a
picture of samples beside real images every --evaluate_every steps, and the
flags it was started with. Started again on the same directory it goes on where
it stopped.
"""

import csv
import json
import pathlib
import time

from absl import app
from absl import flags
from absl import logging
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import visualization

tfd = tfp.distributions

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
NUM_LEVELS = {'cifar10': 256, 'digits': 17}

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
flags.DEFINE_integer('seed', 0, 'Of weights, noise and order of the data.')

# The flags that a run cannot change once it has begun.
_ARCHITECTURE = (
  'dataset',
  'num_scales',
  'num_blocks',
  'hidden_channels',
  'lagged_batch_norm',
)
_NUM_SAMPLES = 64


def load_digits():
  """Returns scikit-learn's digits: 1,500 train and 297 test, [8, 8, 1]."""
  from sklearn import datasets  # Needed for this data set alone.

  images = datasets.load_digits().images[..., np.newaxis].astype(np.uint8)
  images = np.random.default_rng(0).permutation(images)
  return images[:1500], images[1500:]


def load_cifar10(data_dir):
  """Returns CIFAR-10 through TFDS: train and test images, [32, 32, 3]."""
  import tensorflow_datasets as tfds

  builder = tfds.builder('cifar10', data_dir=data_dir)
  if not builder.is_prepared():
    advice = (
      f'CIFAR-10 is not prepared in --data_dir={builder.data_dir_root}. '
      'Without a network, run `tfds build cifar10` where there is one, copy '
      'the folder here and name it with --data_dir; or train on '
      '--dataset=digits.'
    )
    logging.info('%s Downloading it; TFDS retries for some minutes.', advice)
    try:
      builder.download_and_prepare()
    except Exception as error:  # TFDS lets through what its download raises.
      raise SystemExit(f'{advice} Downloading failed: {error}') from error
  splits = builder.as_dataset(split=['train', 'test'], batch_size=1000)
  return tuple(
    np.concatenate([batch['image'] for batch in split.as_numpy_iterator()])
    for split in splits
  )


def training_data(images, batch_size, flip, seed):
  """Returns endless shuffled batches, horizontally flipped at random."""
  dataset = tf.data.Dataset.from_tensor_slices(images)
  dataset = dataset.shuffle(len(images), seed=seed).repeat()
  if flip:
    dataset = dataset.map(
      lambda image: tf.image.random_flip_left_right(image, seed=seed),
      num_parallel_calls=tf.data.AUTOTUNE,
    )
  return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


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


def build_model(event_shape, num_levels):
  """Returns the model that the flags describe, compiled."""
  flow = tfp_realnvp.RealNVPChain(
    event_shape,
    num_scales=FLAGS.num_scales,
    num_blocks=FLAGS.num_blocks,
    hidden_channels=FLAGS.hidden_channels,
    lagged_batch_norm=FLAGS.lagged_batch_norm,
    momentum=FLAGS.momentum,
    logit_transform=tfp_realnvp.LogitTransform(num_levels),
    recompute_networks=FLAGS.recompute_networks,
    compute_dtype=FLAGS.compute_dtype,
    seed=FLAGS.seed,
  )
  base = tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=event_shape)
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(base, flow),
    num_levels=num_levels,
    l2_coefficient=FLAGS.l2_coefficient,
    l2_variables=flow.scale_parameters,
    seed=FLAGS.seed,
  )
  optimizer = keras.optimizers.Adam(
    FLAGS.learning_rate, epsilon=1e-8, global_clipnorm=FLAGS.clip_norm
  )
  if FLAGS.compute_dtype == 'float16':
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
  model.compile(optimizer, jit_compile=FLAGS.jit_compile)
  optimizer.build(model.trainable_variables)
  return model


class Checkpoints(keras.callbacks.Callback):
  """Saves model and optimizer every so many steps; goes on from the newest."""

  def __init__(self, model, directory, every):
    super().__init__()
    self._optimizer = model.optimizer
    self._every = every
    self._manager = tf.train.CheckpointManager(
      tf.train.Checkpoint(
        distribution=model.distribution, optimizer=model.optimizer
      ),
      directory,
      max_to_keep=3,
    )

  @property
  def step(self):
    return int(self._optimizer.iterations)

  def restore(self):
    path = self._manager.latest_checkpoint
    if path:
      self._manager.checkpoint.restore(path).assert_existing_objects_matched()
      logging.info('Going on from step %d of %s.', self.step, path)

  def save(self):
    self._manager.save(checkpoint_number=self.step)

  def on_train_batch_end(self, batch, logs=None):
    if self.step % self._every == 0:
      self.save()


class Cooldown(keras.callbacks.Callback):
  """Lets the learning rate fall linearly to 0 over the last steps."""

  def __init__(self, learning_rate, num_steps, cooldown_steps):
    super().__init__()
    self._learning_rate = learning_rate
    self._num_steps = num_steps
    self._cooldown_steps = cooldown_steps

  def on_train_batch_begin(self, batch, logs=None):
    optimizer = self.model.optimizer
    left = self._num_steps - int(optimizer.iterations)
    share = min(1.0, left / self._cooldown_steps) if self._cooldown_steps else 1
    optimizer.learning_rate = self._learning_rate * share


def prepare_model_dir(model_dir):
  """Makes the directory, keeps the flags of the run; exits if they changed."""
  path = model_dir / 'flags.json'
  values = {name: FLAGS[name].value for name in _ARCHITECTURE}
  try:
    model_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
      path.write_text(json.dumps(values, indent=2))
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


def evaluate(model, test):
  """Returns the metrics on held-out images, each named test_...."""
  metrics = model.evaluate(test, batch_size=100, verbose=0, return_dict=True)
  return {f'test_{name}': value for name, value in metrics.items()}


def samples_path(model_dir, step):
  return model_dir / f'samples-{step:07d}.png'


def write_metrics(model_dir, writer, step, metrics):
  """Appends a row to metrics.csv and writes TensorBoard scalars."""
  path = model_dir / 'metrics.csv'
  is_new = not path.exists()
  with path.open('a', newline='') as file:
    rows = csv.DictWriter(file, ['step', *metrics])
    if is_new:
      rows.writeheader()
    rows.writerow({'step': step, **metrics})
  with writer.as_default(step=step):
    for name, value in metrics.items():
      tf.summary.scalar(name, value)


def write_samples(model_dir, writer, step, model, real, num_levels):
  """Writes a picture of real images, left, and samples, right."""
  samples = model.distribution.sample(len(real), seed=[FLAGS.seed, 0])
  zoom = max(1, 32 // real.shape[1])
  grids = [
    visualization.image_grid(
      visualization.to_uint8(images, num_levels), zoom=zoom
    )
    for images in (real, samples)
  ]
  picture = visualization.side_by_side(*grids)
  path = str(samples_path(model_dir, step))
  tf.io.write_file(path, tf.io.encode_png(picture))
  with writer.as_default(step=step):
    tf.summary.image('real_and_samples', picture[np.newaxis])


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  for name, value in DEFAULTS[FLAGS.dataset].items():
    if FLAGS[name].value is None:
      FLAGS[name].value = value
  keras.utils.set_random_seed(FLAGS.seed)
  num_levels = NUM_LEVELS[FLAGS.dataset]
  model_dir = pathlib.Path(FLAGS.model_dir)
  prepare_model_dir(model_dir)
  if FLAGS.dataset == 'digits':
    train, test = load_digits()
  else:
    train, test = load_cifar10(FLAGS.data_dir)
  try:
    model = build_model(train.shape[1:], num_levels)
  except ValueError as error:
    raise SystemExit(f'The flags do not go together: {error}') from error
  checkpoints = Checkpoints(model, str(model_dir), FLAGS.checkpoint_every)
  checkpoints.restore()
  # A run that goes on sees the data in another order.
  batches = training_data(
    train,
    FLAGS.batch_size,
    flip=FLAGS.dataset == 'cifar10',
    seed=FLAGS.seed + checkpoints.step,
  )
  writer = tf.summary.create_file_writer(str(model_dir))
  cooldown = Cooldown(
    FLAGS.learning_rate, FLAGS.num_steps, FLAGS.cooldown_steps
  )
  every, start = FLAGS.evaluate_every, time.time()
  try:
    while checkpoints.step < FLAGS.num_steps:
      step = checkpoints.step
      until = min((step // every + 1) * every, FLAGS.num_steps)
      history = model.fit(
        batches,
        steps_per_epoch=until - step,
        shuffle=False,
        callbacks=[cooldown, checkpoints],
      )
      checkpoints.save()
      step = checkpoints.step  # Loss scaling can have skipped some.
      metrics = {f'train_{k}': v[0] for k, v in history.history.items()}
      metrics |= evaluate(model, test)
      metrics['seconds'] = time.time() - start
      write_metrics(model_dir, writer, step, metrics)
      write_samples(
        model_dir, writer, step, model, test[:_NUM_SAMPLES], num_levels
      )
  except KeyboardInterrupt:
    checkpoints.save()
    print(f'Stopped at step {checkpoints.step}, and saved.')
    return

  metrics = evaluate(model, test)
  baseline = histogram_bits_per_dim(train, test, num_levels)
  print(
    f'Step {checkpoints.step}: '
    f'test bits/dim {metrics["test_bits_per_dim"]:.3f} '
    f'(non-finite: {metrics["test_non_finite"]:.0f} of {len(test)} images); '
    f"each pixel's histogram alone: {baseline:.3f}.\n"
    f'Samples beside real images: {samples_path(model_dir, checkpoints.step)}'
  )


if __name__ == '__main__':
  app.run(main)
