r"""Trains Real NVP on a data set of the paper, on digits or on your own images.

    python examples/train.py --dataset=celeb_a --model_dir=runs/celeb_a
    python examples/train.py --dataset=digits --model_dir=runs/digits
    python examples/train.py --dataset=folder --data_dir=photos \
      --image_size=64 --model_dir=runs/photos

Architecture, preprocessing and optimization are those of section 4.1 of the
paper (`tfp_realnvp.preset`) unless a flag overrides them. The digits ship with
scikit-learn and train in minutes.

The program writes checkpoints, metrics.csv, TensorBoard summaries, its flags,
and every --evaluate_every steps an image of real images beside samples to
--model_dir. Evaluations re-estimate the moving statistics of batch
normalization from some training images. The model with the best held-out
bits/dim is kept in best/. At the end the program re-estimates the statistics
from up to 10,000 images and writes the final model to final/.

A run can be stopped at any time. Started again with the same --model_dir, it
resumes and reaches the same weights as an uninterrupted run; with
--deterministic on a CPU, they are equal bit by bit. On Ctrl-C, SIGTERM or
SIGHUP the program finishes the current step, saves a checkpoint, and exits with
status 130, 143 or 129.

To train on several devices use --distribute=mirrored (all GPUs of a machine),
multi_worker (start the program once for each worker, with TF_CONFIG set) or
tpu. --batch_size is the global batch size. With several workers the program
saves only every --checkpoint_every steps and not when a worker is stopped,
because all workers must save at the same step.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

import dataclasses
import os
import pathlib
from typing import Any

from absl import app
from absl import flags
import keras
import tensorflow as tf

import tfp_realnvp
from tfp_realnvp import model_dirs
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets
from tfp_realnvp.paper import reports
from tfp_realnvp.paper import training_loop
from tfp_realnvp.training import callbacks

# Defaults of the length of training, which the paper does not specify.
_LENGTH = {'num_steps': 100_000, 'evaluate_every': 1_000}
_LENGTHS = {
  'digits': {'num_steps': 400, 'evaluate_every': 200},
  'mnist': {'num_steps': 10_000, 'evaluate_every': 500},
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


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_enum(
    'dataset', None, presets.NAMES, 'Data set to train on.', required=True
  )
  flags.DEFINE_string(
    'data_dir',
    None,
    'Directory of TensorFlow Datasets (default: that of TFDS), or the folder '
    'of images for --dataset=folder. They are rotated as their EXIF tag says.',
  )
  model_dirs.define_flag(
    'Directory to write checkpoints, metrics and images to.'
  )
  flags.DEFINE_integer(
    'image_size',
    64,
    'Height and width of the images for --dataset=folder.',
    lower_bound=4,
  )
  for name, help_text in {
    'grayscale': 'Whether to use shades of gray, one channel, for '
    '--dataset=folder.',
    'conditional': 'Whether to condition the flow on the label (CIFAR-10, '
    'MNIST, digits) or on the 40 attributes (CelebA), see appendix F of the '
    'paper.',
    'recompute_networks': 'Whether to recompute activations in the backward '
    'pass, to save memory.',
    'jit_compile': 'Whether to compile with XLA. This is faster, except on '
    'CPUs.',
    'deterministic': 'Whether to use deterministic operations only, which are '
    'slower.',
  }.items():
    flags.DEFINE_boolean(name, False, help_text)
  flags.DEFINE_boolean(
    'flip',
    None,
    'Whether to flip training images horizontally at random (default: as in '
    'the paper, and for --dataset=folder). Text needs --noflip.',
  )
  flags.DEFINE_enum(
    'prior',
    'standard',
    sorted(experiment.PRIORS),
    'Distribution of the latents: standard normal, or normal with a learned '
    'mean and standard deviation for each channel of each scale.',
  )
  paper = 'default: as in the paper'
  for name, help_text in {
    'num_scales': f'Number of scales of the architecture ({paper}).',
    'num_blocks': f'Number of residual blocks of each network ({paper}).',
    'hidden_channels': 'Number of hidden channels of the networks, first scale '
    f'({paper}).',
    'batch_size': f'Number of images per training step ({paper}).',
    'num_steps': f'Total number of training steps ({_length("num_steps")}).',
    'evaluate_every': 'Number of steps between evaluations '
    f'({_length("evaluate_every")}).',
  }.items():
    flags.DEFINE_integer(name, None, help_text, lower_bound=1)
  for name, help_text in {
    'learning_rate': 'Learning rate of Adam',
    'clip_norm': 'Global norm to clip gradients to, or 0 for no clipping',
    'l2_coefficient': 'L2 regularization of the scale parameters',
  }.items():
    flags.DEFINE_float(
      name, None, f'{help_text} (default: as in the paper).', lower_bound=0
    )
  flags.DEFINE_boolean(
    'lagged_batch_norm',
    None,
    'Whether training normalizes with moving averages, see appendix E of the '
    'paper (default: for CIFAR-10, MNIST and digits).',
  )
  flags.DEFINE_integer(
    'cooldown_steps',
    None,
    'Number of steps at the end over which the learning rate falls linearly to '
    f'0 (default: 0 as in the paper, for {" and ".join(_LENGTHS)} half of all '
    'steps).',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'checkpoint_every', 500, 'Number of steps between checkpoints.', 1
  )
  flags.DEFINE_float(
    'momentum', 0.9, 'Momentum of the moving averages of batch normalization.'
  )
  flags.DEFINE_float(
    'ema_momentum',
    None,
    'Momentum of moving averages of the weights, such as 0.999. They are what '
    'is evaluated, and what best/ and final/ hold (default: no averages).',
  )
  flags.DEFINE_enum(
    'compute_dtype',
    'float32',
    ['float32', 'bfloat16', 'float16'],
    'Dtype of the activations of the networks. float16 uses loss scaling.',
  )
  flags.DEFINE_enum(
    'distribute',
    'none',
    sorted(STRATEGIES),
    'Strategy to distribute batches over devices with.',
  )
  flags.DEFINE_string('tpu', '', 'Address or name of the TPU.')
  flags.DEFINE_boolean(
    'synchronized',
    True,
    'Whether to compute batch statistics over all devices.',
  )
  model_dirs.define_seed(
    'Seed of the weights, the noise and the order of the data.'
  )


def _length(name: str) -> str:
  """Returns the defaults of a flag, for its help text."""
  own = [f', for {dataset} {v[name]:,}' for dataset, v in _LENGTHS.items()]
  return f'default: {_LENGTH[name]:,}{"".join(own)}'


def architecture() -> dict[str, Any]:
  """Returns the flags that determine the model."""
  return {name: FLAGS[name].value for name in experiment.ARCHITECTURE}


def all_flags() -> dict[str, Any]:
  """Returns the flags of this program, with --data_dir as an absolute path."""
  values = {
    name: FLAGS[name].value
    for name in FLAGS
    if not FLAGS.find_module_defining_flag(name).startswith('absl')
  }
  if values['data_dir'] is not None:
    values['data_dir'] = os.path.abspath(values['data_dir'])
  return values


def set_defaults() -> None:
  """Sets flags that were not given to their default for the data set."""
  for name in ('image_size', 'grayscale'):
    if FLAGS[name].present and FLAGS.dataset != 'folder':
      raise SystemExit(
        f'--{name}={FLAGS[name].value} is for --dataset=folder only, got '
        f'--dataset={FLAGS.dataset}.'
      )
  preset = presets.preset(FLAGS.dataset, FLAGS.image_size)
  values = vars(preset) | vars(preset.training) | vars(preset.networks)
  values |= vars(preset.data)
  values['lagged_batch_norm'] = preset.batch_norm.lagged
  values |= _LENGTHS.get(FLAGS.dataset, _LENGTH)
  for name, value in values.items():
    if name in FLAGS and FLAGS[name].value is None:
      FLAGS[name].value = value
  if FLAGS.cooldown_steps is None:
    is_short = FLAGS.dataset in _LENGTHS
    FLAGS.cooldown_steps = FLAGS.num_steps // 2 if is_short else 0


def build_strategy() -> tf.distribute.Strategy:
  """Returns the strategy of --distribute.

  Raises:
    SystemExit: If its devices or workers are not found.
  """
  name = FLAGS.distribute
  if FLAGS.tpu and name != 'tpu':
    raise SystemExit(
      f'--tpu={FLAGS.tpu} is for --distribute=tpu only, got '
      f'--distribute={name}.'
    )
  if name == 'multi_worker' and not os.environ.get('TF_CONFIG'):
    raise SystemExit(
      '--distribute=multi_worker needs the environment variable TF_CONFIG, '
      'which names the workers. For the GPUs of one machine use '
      '--distribute=mirrored.'
    )
  try:
    return STRATEGIES[name]()
  except Exception as error:  # TensorFlow raises errors of many classes.
    given = f', --tpu={FLAGS.tpu}' * (name == 'tpu')
    raise SystemExit(
      f'--distribute={name}{given} cannot be used: {model_dirs.reason(error)}'
    ) from error


def build_preset() -> presets.Preset:
  """Returns the preset with the values of the flags."""
  return experiment.vary(
    experiment.preset_of_flags(**architecture()),
    batch_size=FLAGS.batch_size,
    learning_rate=FLAGS.learning_rate,
    clip_norm=FLAGS.clip_norm,
    flip=FLAGS.flip,
    l2_coefficient=FLAGS.l2_coefficient,
    momentum=FLAGS.momentum,
    synchronized=FLAGS.synchronized,
    recompute=FLAGS.recompute_networks,
    compute_dtype=FLAGS.compute_dtype,
    seed=FLAGS.seed,
  )


def build_model(preset: presets.Preset) -> tfp_realnvp.DensityEstimator:
  """Builds and compiles the model of a preset."""
  distribution = experiment.build_distribution(
    preset, FLAGS.conditional, FLAGS.prior
  )
  return experiment.build_estimator(
    preset, distribution, FLAGS.jit_compile, FLAGS.seed, FLAGS.ema_momentum
  )


def main(argv: list[str]) -> None:
  """Trains, evaluates and saves the model of the flags."""
  stop = callbacks.StopOnSignal()
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  set_defaults()
  strategy = build_strategy()
  keras.utils.set_random_seed(FLAGS.seed)
  if FLAGS.deterministic:
    tf.config.experimental.enable_op_determinism()
  model_dir = pathlib.Path(FLAGS.model_dir)
  fixed, others = architecture(), all_flags()
  if FLAGS.dataset == 'folder':
    fixed['data_dir'] = others['data_dir']
  is_shared = FLAGS.distribute == 'multi_worker'
  reports.prepare_model_dir(model_dir, fixed, others, is_shared)
  images = image_data.load(
    experiment.preset_of_flags(
      FLAGS.dataset, FLAGS.image_size, grayscale=FLAGS.grayscale
    ),
    FLAGS.dataset,
    FLAGS.data_dir,
    FLAGS.conditional,
    model_dir,
  )
  try:
    preset = build_preset()
    schedule = training_loop.Schedule(
      num_steps=FLAGS.num_steps,
      evaluate_every=FLAGS.evaluate_every,
      checkpoint_every=FLAGS.checkpoint_every,
      cooldown_steps=FLAGS.cooldown_steps,
    )
    with strategy.scope():
      model = build_model(preset)
  except ValueError as error:
    raise SystemExit(f'The flags are not compatible: {error}') from error
  loop = training_loop.TrainingLoop(
    model,
    dataclasses.replace(images, preset=preset),
    model_dir,
    schedule,
    stop,
    FLAGS.seed,
  )
  try:
    loop.run()
  except tf.errors.OpError as error:
    if 'IteratorGetNext' not in str(error):
      raise
    raise SystemExit(
      f'The data of --dataset={FLAGS.dataset} cannot be read, after step '
      f'{loop.step}: {error.message}'
    ) from error
  except (FloatingPointError, OSError, ValueError) as error:
    raise SystemExit(str(error)) from error


if __name__ == '__main__':
  define_flags()
  app.run(main)
