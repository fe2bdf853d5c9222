"""Checks the data sets and the order of the data that examples share."""

import numpy as np
import pytest
import recipe
import tensorflow as tf
import tensorflow_datasets as tfds


def test_digits_are_the_ones_of_scikit_learn():
  train, test = recipe.load_digits()
  assert train.shape == (1500, 8, 8, 1)
  assert test.shape == (297, 8, 8, 1)
  assert train.dtype == np.uint8
  assert (train.min(), train.max()) == (0, 16)
  # No image is in both.
  seen = {image.tobytes() for image in train}
  assert sum(image.tobytes() in seen for image in test) == 0


def _batches(images, batch_size, count, **kwargs):
  kwargs = {'flip': False, 'seed': 0} | kwargs
  batches = recipe.training_batches(images, batch_size, **kwargs)
  return np.stack(list(batches.take(count).as_numpy_iterator()))


def test_training_batches_are_shuffled_endless_and_flipped():
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  images = np.concatenate([images, images + 100], axis=2)
  seen = _batches(images, 5, 40, flip=True).reshape(-1, 2)
  assert len(seen) == 200
  orders = seen.min(1).reshape(20, 10)
  # Each epoch has every image once, in an order of its own.
  np.testing.assert_array_equal(
    np.sort(orders), np.tile(np.arange(10), [20, 1])
  )
  assert len({tuple(order) for order in orders}) == 20
  # Every image comes at every place.
  assert np.ptp(orders.mean(0)) < 3
  flipped = (seen[:, 0] > seen[:, 1]).mean()
  assert 0.3 < flipped < 0.7
  plain = _batches(images, 5, 10)
  assert np.all(plain[..., 0, 0] < plain[..., 1, 0])
  other = _batches(images, 5, 10, seed=1)
  assert np.any(plain != other)


def test_training_batches_go_on_from_any_step():
  images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
  images = np.concatenate([images, images + 100], axis=2)
  whole = _batches(images, 3, 20, flip=True)
  for start in (1, 7, 12):
    rest = _batches(images, 3, 20 - start, flip=True, start=start)
    np.testing.assert_array_equal(rest, whole[start:])


def test_cifar10_that_cannot_be_downloaded_is_named(tmp_path, monkeypatch):
  def fail(self):
    raise ConnectionError('no route to host')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  with pytest.raises(SystemExit) as error:
    recipe.load_cifar10(str(tmp_path))
  assert f'CIFAR-10 is not prepared in --data_dir={tmp_path}' in str(
    error.value
  )
  assert '--dataset=digits' in str(error.value)
  assert 'no route to host' in str(error.value)


class _BuilderOf:
  """A prepared data set whose splits are the images of one TFRecord file."""

  data_dir_root, data_path = 'root', 'root/cifar10'

  def __init__(self, path):
    self._path = str(path)

  def is_prepared(self):
    return True

  def as_dataset(self, split, batch_size):
    records = tf.data.TFRecordDataset(self._path)
    images = records.map(lambda png: {'image': tf.io.decode_png(png)})
    return [images.batch(batch_size) for _ in split]


@pytest.mark.parametrize('damage', [None, 'truncated', 'no image'])
def test_damaged_cifar10_is_named(damage, tmp_path, monkeypatch):
  path = tmp_path / 'records'
  png = tf.io.encode_png(np.full([32, 32, 3], 7, np.uint8)).numpy()
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(png)
    writer.write(b'no image' if damage == 'no image' else png)
  if damage == 'truncated':
    path.write_bytes(path.read_bytes()[:-20])
  monkeypatch.setattr(tfds, 'builder', lambda *_, **__: _BuilderOf(path))
  if damage is None:
    train, _ = recipe.load_cifar10()
    np.testing.assert_array_equal(train, np.full([2, 32, 32, 3], 7))
    return
  with pytest.raises(SystemExit) as error:
    recipe.load_cifar10()
  assert 'CIFAR-10 in --data_dir=root is damaged' in str(error.value)
  assert 'Remove root/cifar10 and prepare it again' in str(error.value)


def test_cifar10_through_mock_data():
  with tfds.testing.mock_data(num_examples=7):
    train, test = recipe.load_cifar10(None)
  assert train.shape == test.shape == (7, 32, 32, 3)
  assert train.dtype == np.uint8
