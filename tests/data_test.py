"""Tests how images are prepared and the order in which they are read."""

import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

import tfp_realnvp
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets

_SQUARES_2 = tfp_realnvp.Preset(
  image_shape=(2, 2, 1), num_scales=1, networks=tfp_realnvp.ResidualNetworks()
)


def _data(images, **changes):
  """Returns `Data` with an array of images as both splits."""
  preset = experiment.vary(_SQUARES_2, image_shape=images.shape[1:], **changes)
  images = tf.data.Dataset.from_tensor_slices(images)
  return image_data.Data(preset, images, images, lambda image: (image, None))


def test_digits_are_the_ones_of_scikit_learn():
  preset = presets.preset('digits')
  data = image_data.load(preset, 'digits', conditional=True)
  train, labels = data.arrays('train')
  test, test_labels = data.arrays('test')
  assert train.shape == (1500, 8, 8, 1)
  assert test.shape == (297, 8, 8, 1)
  assert train.dtype == np.uint8
  assert (train.min(), train.max()) == (0, 16)
  # No image is in both.
  seen = {image.tobytes() for image in train}
  assert sum(image.tobytes() in seen for image in test) == 0
  assert labels.shape == (1500, 10)
  # Zeros are empty in the middle, ones are not.
  middle = train[:, 3:5, 3:5].mean((1, 2, 3))
  assert middle[labels[:, 0] == 1].mean() < 2
  assert middle[labels[:, 1] == 1].mean() > 10
  np.testing.assert_array_equal(
    (labels.sum(0) + test_labels.sum(0)).astype(int),
    [178, 182, 177, 183, 181, 182, 181, 179, 174, 180],
  )


def _batches(images, batch_size, count, seed=0, start=0, **changes):
  batches = _data(images, **changes).training_batches(batch_size, seed, start)
  return np.stack(list(batches.take(count).as_numpy_iterator()))


@pytest.mark.parametrize('window', [4, 50_000])
def test_training_batches_are_shuffled_endless_and_flipped(window, monkeypatch):
  monkeypatch.setattr(image_data, '_SHUFFLE_WINDOW', window)
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  images = np.concatenate([images, images + 100], axis=2)
  seen = _batches(images, 5, 40, flip=True).reshape(-1, 2)
  assert len(seen) == 200
  orders = seen.min(1).reshape(20, 10)
  # Each epoch has every image once, in a different order.
  np.testing.assert_array_equal(
    np.sort(orders), np.tile(np.arange(10), [20, 1])
  )
  assert len({tuple(order) for order in orders}) == 20
  if window > 10:  # No image tends to come early or late.
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


def test_evaluation_has_every_image_once_in_order():
  images = np.arange(14, dtype=np.uint8).reshape(7, 1, 2, 1)
  data = _data(images, flip=True)
  batches = list(data.batches(batch_size=3).as_numpy_iterator())
  assert [len(batch) for batch in batches] == [3, 3, 1]
  np.testing.assert_array_equal(np.concatenate(batches), images)
  np.testing.assert_array_equal(data.arrays(limit=4)[0], images[:4])


def _image(height, width):
  """Returns `[height, width, 1]`, where all pixels are different."""
  return np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)


def test_central_crop_by_hand():
  preset = experiment.vary(_SQUARES_2, center_crop=2)
  image = image_data.prepare_image(_image(4, 5), preset)
  # Rows 1 and 2, columns 1 and 2 of five.
  np.testing.assert_array_equal(image[..., 0], [[6, 7], [11, 12]])
  np.testing.assert_array_equal(
    image_data.prepare_image(_image(4, 5), _SQUARES_2), image
  )


def test_resizing_by_hand():
  preset = experiment.vary(_SQUARES_2, smallest_side=2)
  columns = np.array([0, 70, 140, 210], np.uint8)
  image = np.broadcast_to(columns[:, np.newaxis], [4, 4, 1])
  # Halving uses a triangle that reaches two pixels to each side. At the border
  # one of them is missing, which leaves weights 3/7, 3/7 and 1/7.
  np.testing.assert_array_equal(
    image_data.prepare_image(image, preset)[..., 0], [[50, 160]] * 2
  )
  # The smaller side becomes 2 pixels, the larger one 4, which are cropped to
  # the middle two.
  columns = np.array([0, 0, 40, 40, 80, 80, 120, 120], np.uint8)
  image = np.broadcast_to(columns[:, np.newaxis], [4, 8, 1])
  # The weights are 1/8, 3/8, 3/8 and 1/8.
  np.testing.assert_array_equal(
    image_data.prepare_image(image, preset)[..., 0], [[40, 80]] * 2
  )


def test_images_of_the_right_size_are_not_changed_by_resizing():
  preset = experiment.vary(_SQUARES_2, image_shape=(7, 7, 1), smallest_side=7)
  image = _image(7, 7)
  np.testing.assert_array_equal(image_data.prepare_image(image, preset), image)


def test_random_crops_are_at_every_place_and_flips_by_chance():
  image = _image(3, 4)
  seen, flipped = set(), []
  preset = experiment.vary(_SQUARES_2, flip=True)
  for seed in range(200):
    crop = image_data.prepare_image(image, preset, [0, seed]).numpy()[..., 0]
    flipped.append(crop[0, 0] > crop[0, 1])
    crop = crop[:, ::-1] if flipped[-1] else crop
    top, left = divmod(int(crop[0, 0]), 4)
    np.testing.assert_array_equal(
      crop, image[top : top + 2, left : left + 2, 0]
    )
    seen.add((top, left, bool(flipped[-1])))
  # Two rows, three columns, each flipped and not.
  assert len(seen) == 12
  assert 0.35 < np.mean(flipped) < 0.65


@pytest.mark.parametrize(
  'name, shape, middle',
  [
    # The smaller side is halved from 192 to 96, then the middle 64 are cropped.
    ('lsun_tower', (192, 240, 3), (slice(64, 128), slice(88, 152))),
    # The central 148 pixels are resized to 64.
    ('celeb_a', (218, 178, 3), (slice(72, 146), slice(52, 126))),
  ],
)
def test_evaluation_images_of_the_paper(name, shape, middle):
  preset = tfp_realnvp.preset(name)
  # A square in the middle, half as wide as the part that is kept.
  image = np.zeros(shape, np.uint8)
  image[middle] = 200
  prepared = image_data.prepare_image(image, preset).numpy()
  assert prepared.shape == (64, 64, 3)
  assert np.all(prepared[17:47, 17:47] == 200)
  assert np.all(prepared[:15] == 0) and np.all(prepared[49:] == 0)
  assert np.all(prepared[:, :15] == 0) and np.all(prepared[:, 49:] == 0)


def test_attributes_are_the_condition_in_the_order_of_their_names(monkeypatch):
  monkeypatch.setattr(image_data, '_responds', lambda url: True)
  preset = tfp_realnvp.preset('celeb_a')
  with tfds.testing.mock_data(num_examples=3):
    data = image_data.load(preset, 'celeb_a', conditional=True)
    images, attributes = data.arrays()
    raw = next(iter(data.test))['attributes']
  assert images.shape == (3, 64, 64, 3)
  assert attributes.shape == (3, 40)
  names = sorted(raw)
  assert names[:2] == ['5_o_Clock_Shadow', 'Arched_Eyebrows']
  np.testing.assert_array_equal(
    attributes[0], [float(raw[name]) for name in names]
  )


def test_images_without_labels_cannot_be_conditional():
  preset = tfp_realnvp.preset('imagenet32')
  with pytest.raises(SystemExit, match='--dataset=imagenet32 have no labels'):
    image_data.load(preset, 'imagenet32', conditional=True)


@pytest.mark.parametrize('has_network', [True, False])
def test_data_set_that_cannot_be_downloaded_is_named(
  has_network, tmp_path, monkeypatch
):
  def fail(self):
    assert has_network
    raise ConnectionError('no route to host')

  def head(url, timeout):
    assert timeout <= 5
    if not has_network:
      raise requests.ConnectionError('a long text')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  monkeypatch.setattr(requests, 'head', head)
  with pytest.raises(SystemExit) as error:
    image_data.load(tfp_realnvp.preset('cifar10'), 'cifar10', str(tmp_path))
  assert f'cifar10 is not prepared in --data_dir={tmp_path}' in str(error.value)
  assert '--dataset=digits' in str(error.value)
  expected = (
    'no route to host'
    if has_network
    else (
      'no connection to https://www.cs.toronto.edu/~kriz/'
      'cifar-10-binary.tar.gz or https://storage.googleapis.com.'
    )
  )
  assert str(error.value).endswith(f'Downloading failed: {expected}')
