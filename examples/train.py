r"""Trains Real NVP on a data set of the paper, on digits, or on your images.

    python examples/train.py --dataset=celeb_a --model_dir=runs/celeb_a
    python examples/train.py --dataset=digits --model_dir=runs/digits
    python examples/train.py --dataset=folder --data_dir=photos \
      --image_size=64 --model_dir=runs/photos

Architecture, preparation of the images and optimization are those of section
4.1 of the paper (`tfp_realnvp.preset`), unless a flag says otherwise. The
digits ship with scikit-learn and take minutes.

Writes to --model_dir: checkpoints, metrics.csv, TensorBoard summaries, a
picture of samples beside real images every --evaluate_every steps, and the
flags it was started with. Stopped anywhere and started again on the same
directory it goes on where it stopped, to the same weights; on a CPU to the bit,
with --deterministic. On Ctrl-C, SIGTERM and SIGHUP it saves first, after the
step that it is taking, and exits with status 130, 143 and 129. At the end it
re-estimates the moving statistics of batch normalization, into final/.

On several devices: --distribute=mirrored (all GPUs of a machine), multi_worker
(started once for each worker, with TF_CONFIG set) or tpu. --batch_size is that
of all together. Several workers save every --checkpoint_every steps, but not
when one of them is stopped: saving takes all of them, at the same step.
"""

import contextlib
import csv
import io
import json
import os
import pathlib
import signal
import time

from absl import app
from absl import flags
import keras
import numpy as np
import tensorflow as tf

import tfp_realnvp
from tfp_realnvp import visualization
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets

# How long to train, which the paper does not tell, and how long on digits.
_LENGTH = {'num_steps': 100_000, 'evaluate_every': 1_000, 'cooldown_steps': 0}
_DIGITS = {'num_steps': 400, 'evaluate_every': 200, 'cooldown_steps': 200}
STRATEGIES = {
  'none': tf.distribute.get_strategy,
  'mirrored': tf.distribute.MirroredStrategy,
  'multi_worker': tf.distribute.MultiWorkerMirroredStrategy,
  'tpu': lambda: tf.distribute.TPUStrategy(
    tf.distribute.cluster_resolver.TPUClusterResolver.connect(FLAGS.tpu)
  ),
}

FLAGS = flags.FLAGS
flags.DEFINE_enum(
  'dataset', None, presets.NAMES, 'What to train on.', required=True
)
flags.DEFINE_string(
  'data_dir',
  None,
  'Where TFDS keeps its data, by default where it always does; for '
  '--dataset=folder, the folder of images.',
)
flags.DEFINE_string('model_dir', None, 'Where to write to.', required=True)
flags.DEFINE_integer(
  'image_size', 64, 'Side of the images, for --dataset=folder.', lower_bound=4
)
flags.DEFINE_boolean(
  'conditional',
  False,
  'Whether the flow is conditional: on the label, for CIFAR-10 and digits, or '
  'on the 40 attributes, for CelebA (appendix F).',
)
flags.DEFINE_enum(
  'prior',
  'standard',
  sorted(experiment.PRIORS),
  'Distribution of the latents: standard normal, or with a location and a '
  "scale that are learned for each channel of each scale's latents.",
)
for _name, _help in {
  'num_scales': 'Scales of the architecture.',
  'num_blocks': 'Residual blocks of each network.',
  'hidden_channels': 'Channels within the networks at the first scale.',
  'batch_size': 'Images per step.',
}.items():
  flags.DEFINE_integer(
    _name, None, f'{_help} By default as in the paper.', lower_bound=1
  )
for _name, _help in {
  'learning_rate': 'Of Adam.',
  'clip_norm': 'Global norm gradients are clipped at.',
  'l2_coefficient': 'L2, on the scale parameters.',
}.items():
  flags.DEFINE_float(
    _name, None, f'{_help} By default as in the paper.', lower_bound=0
  )
flags.DEFINE_boolean(
  'lagged_batch_norm',
  None,
  'Batch normalization as in appendix E; by default for CIFAR-10 and digits.',
)
flags.DEFINE_integer(
  'num_steps',
  None,
  'Steps of training, altogether; by default 100,000, for digits 400.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'evaluate_every',
  None,
  'Steps between evaluations, each with a picture; by default 1,000, for '
  'digits 200.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'cooldown_steps',
  None,
  'Last steps, over which the learning rate falls linearly to 0; by default '
  'none, as in the paper, for digits 200.',
  lower_bound=0,
)
flags.DEFINE_integer('checkpoint_every', 500, 'Steps between checkpoints.', 1)
flags.DEFINE_float('momentum', 0.9, 'Of the moving batch statistics.')
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

# Of large data sets: samples in a picture, held-out images of an evaluation
# during training, and images that statistics and histograms are taken of.
_NUM_SAMPLES = 64
_NUM_EVALUATED = 10_000
_NUM_COUNTED = 10_000


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


def architecture():
  """Returns the flags that say what the model is, which cannot change."""
  return {name: FLAGS[name].value for name in experiment.ARCHITECTURE}


def set_defaults():
  """Gives the flags that were not given the values for the data set."""
  preset = presets.preset(FLAGS.dataset, FLAGS.image_size)
  values = vars(preset) | vars(preset.networks)
  values['lagged_batch_norm'] = preset.batch_norm.lagged
  values |= _DIGITS if FLAGS.dataset == 'digits' else _LENGTH
  for name, value in values.items():
    if name in FLAGS and FLAGS[name].value is None:
      FLAGS[name].value = value


def build_model():
  """Returns the model that the flags describe, compiled."""
  preset = experiment.vary(
    experiment.preset_of_flags(**architecture()),
    learning_rate=FLAGS.learning_rate,
    clip_norm=FLAGS.clip_norm,
    l2_coefficient=FLAGS.l2_coefficient,
    momentum=FLAGS.momentum,
    synchronized=FLAGS.synchronized,
    recompute=FLAGS.recompute_networks,
    compute_dtype=FLAGS.compute_dtype,
    seed=FLAGS.seed,
  )
  distribution = experiment.build_distribution(
    preset, FLAGS.conditional, FLAGS.prior
  )
  return experiment.build_estimator(
    preset, distribution, FLAGS.jit_compile, FLAGS.seed
  )


class StopOnSignal(keras.callbacks.Callback):
  """Ends the program on Ctrl-C, SIGTERM and SIGHUP.

  Inside `deferred` it ends later: `fit` after the step that it is taking.
  Further signals have no effect, as some are sent twice. Signals that the
  program was started to ignore, such as SIGHUP by `nohup`, are ignored.

  Attributes:
    signal: The first signal that came, or `None`.
    saved_step: `int`, the step up to which nothing will be lost, or `None`.
  """

  def __init__(self):
    super().__init__()
    self.signal = None
    self.saved_step = None
    self._is_deferred = False
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):  # Not all systems have all.
      number = getattr(signal, name, None)
      if number and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, self._receive)

  def _receive(self, number, frame):
    if self.signal:  # The program is ending already.
      return
    self.signal = signal.Signals(number)
    if not self._is_deferred:
      self._exit()

  def _exit(self):
    raise SystemExit(128 + self.signal)

  @contextlib.contextmanager
  def deferred(self):
    """A context whose end a signal waits for."""
    self._is_deferred = True
    try:
      yield
    finally:
      self._is_deferred = False
    if self.signal:
      self._exit()

  def on_train_batch_end(self, batch, logs=None):
    if self.signal:
      self.model.stop_training = True


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
    if begun.get(name, value) != value:
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

  def write(self, step, metrics, model, images):
    """Adds a row, with the seconds since the beginning, and a picture.

    Args:
      step: `int`.
      metrics: Dict of floats.
      model: `DensityEstimator`.
      images: `image_data.Data`, to draw held-out images of beside samples.
    """
    row = {'step': step, **metrics, 'seconds': time.time() - self._start}
    self._rows.append(row)
    if not self._is_chief:
      return
    picture = real_and_samples(model, images)
    path = str(samples_path(self._model_dir, step))
    tf.io.write_file(path, tf.io.encode_png(picture))
    with self._writer.as_default(step=step):
      for name, value in row.items():
        tf.summary.scalar(name, value)
      tf.summary.image('real_and_samples', picture[np.newaxis])
    # Last: a run that is stopped before this line makes the report again.
    text = io.StringIO()
    table = csv.DictWriter(text, row, extrasaction='ignore')
    table.writeheader()
    table.writerows(self._rows)
    replace_text(self._model_dir / 'metrics.csv', text.getvalue())


def replace_text(path, text):
  """Writes a file so that it is the old one or the new one at any time."""
  replacement = path.with_name(f'{path.name}.{os.getpid()}')
  replacement.write_text(text)
  replacement.replace(path)


def real_and_samples(model, images):
  """Returns a picture of real images, left, and samples, right.

  Samples of a conditional flow have the conditions of the real images.
  """
  real, condition = images.arrays('test', _NUM_SAMPLES)
  samples = model.distribution.sample(
    len(real),
    seed=[FLAGS.seed, 0],
    **experiment.bijector_kwargs(condition),
  )
  zoom = max(1, 32 // real.shape[1])
  grids = [
    visualization.image_grid(
      visualization.to_uint8(pixels, images.preset.num_levels), zoom=zoom
    )
    for pixels in (real, samples)
  ]
  return visualization.side_by_side(*grids)


def samples_path(model_dir, step):
  return model_dir / f'samples-{step:07d}.png'


def evaluate(model, images, limit=-1):
  """Returns the metrics on held-out images, each named test_...."""
  batches = images.batches('test', limit=limit)
  metrics = model.evaluate(batches, verbose=0, return_dict=True)
  return {f'test_{name}': value for name, value in metrics.items()}


def train(model, images, checkpoints, reports, stop):
  """Trains up to --num_steps, with a report every --evaluate_every."""
  every, end = FLAGS.evaluate_every, FLAGS.num_steps
  cooldown = Cooldown(FLAGS.learning_rate, end, FLAGS.cooldown_steps)
  while True:
    step = checkpoints.step
    if step > reports.step and (step % every == 0 or step == end):
      # Those of training first: evaluation begins by setting them to 0.
      metrics = model.get_metrics_result()
      metrics = {f'train_{k}': float(v) for k, v in metrics.items()}
      metrics |= evaluate(model, images, _NUM_EVALUATED)
      reports.write(step, metrics, model, images)
    if step >= end:
      return
    until = min((step // every + 1) * every, end)
    with stop.deferred():
      model.fit(
        images.training_batches(FLAGS.batch_size, FLAGS.seed, start=step),
        steps_per_epoch=until - step,
        shuffle=False,
        callbacks=[cooldown, checkpoints, stop],
      )
      # The other workers may be at another step, and would be waited for.
      if not (stop.signal and FLAGS.distribute == 'multi_worker'):
        checkpoints.save()
        stop.saved_step = checkpoints.step


def finish(model, images, checkpoints, stop):
  """Re-estimates statistics, saves the model, and tells how good it is."""
  trained = evaluate(model, images)
  batch_size = min(256, images.num_train)
  limit = min(_NUM_COUNTED, images.num_train) // batch_size * batch_size
  model.reestimate_statistics(images.batches('train', batch_size, limit))
  metrics = evaluate(model, images)
  model_dir = pathlib.Path(FLAGS.model_dir)
  with stop.deferred():
    tfp_realnvp.Checkpoints(model, model_dir / 'final', max_to_keep=1).save()
  baseline = histogram_bits_per_dim(
    images.arrays('train', _NUM_COUNTED)[0],
    images.arrays('test', _NUM_COUNTED)[0],
    images.preset.num_levels,
  )
  paper = images.preset.bits_per_dim
  print(
    f'Step {checkpoints.step}: '
    f'test bits/dim {metrics["test_bits_per_dim"]:.3f} '
    f'(non-finite: {metrics["test_non_finite"]:.0f} of {images.num_test} '
    f'images), before statistics were re-estimated '
    f'{trained["test_bits_per_dim"]:.3f}; '
    f"each pixel's histogram alone: {baseline:.3f}"
    + (f'; the paper: {paper}.' if paper else '.')
    + f'\nSamples beside real images: '
    f'{samples_path(model_dir, checkpoints.step)}'
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  stop = StopOnSignal()
  try:
    run(stop)
  finally:
    if stop.signal:
      saved = (
        'Nothing' if stop.saved_step is None else f'Step {stop.saved_step}'
      )
      print(f'Stopped by {stop.signal.name}. {saved} is saved.')


def run(stop):
  """Does what the flags say.

  Args:
    stop: `StopOnSignal`.
  """
  set_defaults()
  strategy = STRATEGIES[FLAGS.distribute]()
  keras.utils.set_random_seed(FLAGS.seed)
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  model_dir = pathlib.Path(FLAGS.model_dir)
  prepare_model_dir(model_dir)
  images = image_data.load(
    presets.preset(FLAGS.dataset, FLAGS.image_size),
    FLAGS.dataset,
    FLAGS.data_dir,
    FLAGS.conditional,
  )
  try:
    with strategy.scope():
      model = build_model()
  except ValueError as error:
    raise SystemExit(f'The flags do not go together: {error}') from error
  checkpoints = tfp_realnvp.Checkpoints(
    model, model_dir, FLAGS.checkpoint_every
  )
  try:
    if checkpoints.restore(epoch_steps=FLAGS.evaluate_every):
      stop.saved_step = checkpoints.step
    reports = Reports(model_dir, checkpoints.step, checkpoints.is_chief)
    train(model, images, checkpoints, reports, stop)
    finish(model, images, checkpoints, stop)
  except tf.errors.OpError as error:
    if 'IteratorGetNext' not in str(error):
      raise
    raise SystemExit(
      f'The data of --dataset={FLAGS.dataset} cannot be read, after step '
      f'{checkpoints.step}: {error.message}'
    ) from error
  except (FloatingPointError, OSError, ValueError) as error:
    raise SystemExit(str(error)) from error


if __name__ == '__main__':
  app.run(main)
