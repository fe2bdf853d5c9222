"""Data sets and models that the programs beside this module share."""

import json

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp

tfd = tfp.distributions

NUM_LEVELS = {'cifar10': 256, 'digits': 17}
IMAGE_SHAPE = {'cifar10': (32, 32, 3), 'digits': (8, 8, 1)}

# The flags of training that say what a model is: a run cannot change them.
ARCHITECTURE = (
  'dataset',
  'num_scales',
  'num_blocks',
  'hidden_channels',
  'lagged_batch_norm',
)


def load_images(dataset, data_dir=None):
  """Returns train and test images of a data set, uint8 `[N, H, W, C]`."""
  return load_digits() if dataset == 'digits' else load_cifar10(data_dir)


def load_digits():
  """Returns scikit-learn's digits: 1,500 train and 297 test, [8, 8, 1]."""
  from sklearn import datasets  # Needed for this data set alone.

  images = datasets.load_digits().images[..., np.newaxis].astype(np.uint8)
  images = np.random.default_rng(0).permutation(images)
  return images[:1500], images[1500:]


def load_cifar10(data_dir=None):
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
  try:
    return tuple(
      np.concatenate([batch['image'] for batch in split.as_numpy_iterator()])
      for split in splits
    )
  except tf.errors.OpError as error:  # Truncated records, broken images.
    raise SystemExit(
      f'CIFAR-10 in --data_dir={builder.data_dir_root} is damaged: '
      f'{error.message} Remove {builder.data_path} and prepare it again.'
    ) from error


def training_batches(images, batch_size, flip, seed, start=0):
  """Returns endless shuffled batches, horizontally flipped at random.

  Order and flips follow from the seed and the step alone: batches from step
  `start` on are those that a run from step 0 sees there.

  Args:
    images: Array or tensor `[N, H, W, C]`.
    batch_size: Images of a batch.
    flip: Whether to flip.
    seed: Of the order and the flips.
    start: Step of the first batch.
  """
  images = tf.constant(images)
  count = tf.constant(len(images), tf.int64)

  def element(index):
    epoch, position = index // count, index % count
    image = images[
      tf.random.experimental.index_shuffle(
        position, tf.stack([seed, epoch]), count - 1
      )
    ]
    if flip:
      image = tf.image.stateless_random_flip_left_right(
        image, tf.stack([seed, index])
      )
    return image

  dataset = tf.data.Dataset.range(start * batch_size, tf.int64.max)
  dataset = dataset.map(element, num_parallel_calls=tf.data.AUTOTUNE)
  dataset = dataset.batch(batch_size, drop_remainder=True)
  options = tf.data.Options()
  # Each worker makes all batches, which is cheap, and keeps its own part.
  options.experimental_distribute.auto_shard_policy = (
    tf.data.experimental.AutoShardPolicy.DATA
  )
  return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def build_distribution(
  dataset, num_scales, num_blocks, hidden_channels, lagged_batch_norm, **kwargs
):
  """Returns Real NVP on the images of a data set.

  Args:
    dataset: Key of `IMAGE_SHAPE`.
    num_scales: See `RealNVPChain`.
    num_blocks: See `RealNVPChain`.
    hidden_channels: See `RealNVPChain`.
    lagged_batch_norm: See `RealNVPChain`.
    **kwargs: Others of `RealNVPChain`.
  """
  shape = IMAGE_SHAPE[dataset]
  flow = tfp_realnvp.RealNVPChain(
    shape,
    num_scales=num_scales,
    num_blocks=num_blocks,
    hidden_channels=hidden_channels,
    lagged_batch_norm=lagged_batch_norm,
    logit_transform=tfp_realnvp.LogitTransform(NUM_LEVELS[dataset]),
    **kwargs,
  )
  base = tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=shape)
  return tfd.TransformedDistribution(base, flow)


def load_trained(model_dir):
  """Returns what `train_cifar.py` left in a directory.

  Args:
    model_dir: `pathlib.Path`, the program's --model_dir.

  Returns:
    distribution: With the weights of the end of training, or of its newest
      checkpoint.
    flags: The flags that say what the model is, as a dict.
  """
  try:
    flags = json.loads((model_dir / 'flags.json').read_text())
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} holds no training run: {error}'
    ) from error
  path = tf.train.latest_checkpoint(
    model_dir / 'final'
  ) or tf.train.latest_checkpoint(model_dir)
  if path is None:
    raise SystemExit(f'--model_dir={model_dir} holds no checkpoint.')
  distribution = build_distribution(**flags)
  checkpoint = tf.train.Checkpoint(distribution=distribution)
  checkpoint.restore(path).expect_partial().assert_existing_objects_matched()
  return distribution, flags
