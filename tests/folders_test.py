"""Tests that folders of images are read, copied and split."""

import hashlib
import io

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf

from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import folders
from tfp_realnvp.paper import presets


def _load(folder, image_size=4, grayscale=False):
  """Loads a folder, with the directory of the run in it."""
  preset = experiment.preset_of_flags('folder', image_size, grayscale=grayscale)
  return image_data.load(
    preset, 'folder', str(folder), model_dir=folder / 'run'
  )


def _write_images(folder, count):
  """Writes uniformly grey images, `10 i`, of several sizes and formats."""
  (folder / 'below').mkdir()
  for i in range(count):
    grey = np.full([5 + i, 9 - i % 4, 3], 10 * i, np.uint8)
    name, encode = [
      (f'{i}.png', tf.io.encode_png),
      (f'below/{i}.jpg', tf.io.encode_jpeg),
    ][i % 2]
    tf.io.write_file(str(folder / name), encode(grey))


def test_folder_of_images(tmp_path, caplog):
  _write_images(tmp_path, 20)
  (tmp_path / 'broken.png').write_bytes(b'\x89PNG no more')
  (tmp_path / 'notes.txt').write_text('not an image')
  (tmp_path / '.hidden').write_text('not looked at')
  caplog.set_level('WARNING', logger='absl')
  data = _load(tmp_path)
  message = caplog.text
  assert '2 of 22 files' in message
  assert 'broken.png' in message and 'notes.txt' in message
  train, _ = data.arrays('train')
  test, _ = data.arrays('test')
  hashes = [
    hashlib.sha256(path.read_bytes()).digest()
    for path in [*tmp_path.glob('[0-9]*.png'), *tmp_path.glob('below/*')]
  ]
  count = max(1, sum(value[0] < 25 for value in hashes))
  assert len(hashes) == 20
  assert test.shape == (count, 4, 4, 3)
  assert train.shape == (20 - count, 4, 4, 3)
  greys = np.concatenate([train, test])
  assert np.all(np.ptp(greys, axis=(1, 2, 3)) <= 1)
  np.testing.assert_allclose(
    np.sort(greys.mean((1, 2, 3))), 10 * np.arange(20), atol=1
  )
  batches = data.training_batches(18, seed=0)
  assert next(iter(batches)).shape == (18, 4, 4, 3)


def _held_out(folder):
  images, _ = _load(folder).arrays('test')
  return {round(float(image.mean()) / 10) for image in images}


@pytest.mark.slow
def test_images_stay_held_out_when_others_are_added(tmp_path):
  _write_images(tmp_path, 25)
  before = _held_out(tmp_path)
  # A copy is on the side of its original.
  (tmp_path / 'a.png').write_bytes((tmp_path / '2.png').read_bytes())
  for i in range(10):
    noise = np.random.default_rng(i).integers(200, 256, [5, 5, 3], np.uint8)
    path = str(tmp_path / f'noise{i}.png')
    tf.io.write_file(path, tf.io.encode_png(noise))
    assert _held_out(tmp_path) & set(range(19)) == before & set(range(19))


@pytest.mark.parametrize('folder', [None, 'nowhere', 'empty'])
def test_folder_without_images_is_named(folder, tmp_path):
  (tmp_path / 'empty').mkdir()
  path = folder and str(tmp_path / folder)
  with pytest.raises(SystemExit, match=f'--data_dir={path}'):
    image_data.load(
      presets.preset('folder'), 'folder', path, model_dir=tmp_path / 'run'
    )


def test_images_are_decoded_once(tmp_path, monkeypatch, capsys):
  _write_images(tmp_path, 6)
  monkeypatch.setattr(folders, '_SECONDS_BETWEEN_LINES', 0)
  first = _load(tmp_path)
  output = capsys.readouterr().out.splitlines()
  assert output[0] == f'Reading 6 files of --data_dir={tmp_path}.'
  assert output[-1] == 'Read 6 of 6 files.'
  # What is left are small copies. Only images that are new are decoded.
  copies = list((tmp_path / 'run' / 'images-4-RGB').iterdir())
  assert len(copies) == 6
  shapes = [tf.io.decode_png(copy.read_bytes()).shape for copy in copies]
  assert {min(shape[:2]) for shape in shapes} == {4}
  monkeypatch.setattr(folders, '_shrink', None)
  (tmp_path / 'new.png').write_bytes(
    tf.io.encode_png(np.zeros([4, 4, 3], np.uint8)).numpy()
  )
  second = _load(tmp_path)
  for split in ('train', 'test'):
    np.testing.assert_array_equal(
      first.arrays(split)[0], second.arrays(split)[0]
    )


def _encode(image, **kwargs):
  file = io.BytesIO()
  image.save(file, **kwargs)
  return file.getvalue()


def _shrink(image, smallest_side=2, mode='L', **kwargs):
  contents = _encode(image, **kwargs)
  png = folders._shrink(contents, smallest_side, mode)
  return np.asarray(Image.open(io.BytesIO(png)))


def test_images_are_rotated_as_their_exif_tag_says():
  image = Image.fromarray(np.array([[1, 2], [3, 4], [5, 6]], np.uint8))
  exif = Image.Exif()
  exif[0x0112] = 6  # To be rotated to the right.
  np.testing.assert_array_equal(
    _shrink(image, format='PNG', exif=exif), [[5, 3, 1], [6, 4, 2]]
  )


@pytest.mark.parametrize('kind', ['TIFF', 'PNG', 'BMP', 'GIF', 'WEBP'])
def test_formats(kind):
  kwargs = {'lossless': True} if kind == 'WEBP' else {}
  pixels = np.array([[0, 80], [160, 255]], np.uint8)
  found = _shrink(Image.fromarray(pixels), mode='RGB', format=kind, **kwargs)
  np.testing.assert_array_equal(found, np.stack([pixels] * 3, axis=-1))


@pytest.mark.parametrize('kind', ['TIFF', 'PNG'])
def test_pixels_of_16_bits(kind):
  pixels = 256 * np.array([[0, 80], [160, 255]], np.uint16)
  found = _shrink(Image.fromarray(pixels), format=kind)
  np.testing.assert_array_equal(found, pixels // 256)
  with pytest.raises(ValueError, match='without a known range'):
    _shrink(Image.fromarray(pixels.astype(np.float32)), format='TIFF')


def test_large_photos_are_resized_with_antialiasing():
  rows = np.repeat(np.arange(4, dtype=np.uint8) * 60, 100)
  image = Image.fromarray(np.broadcast_to(rows[:, np.newaxis], [400, 800]))
  found = _shrink(image, 4, format='JPEG', quality=95)
  assert found.shape == (4, 8)
  # A triangle that reaches half a pixel beyond each one has 1/8 there.
  np.testing.assert_allclose(found[1:3, 4], [60, 120], atol=2)
  np.testing.assert_allclose(found[[0, 3], 4], [60 / 7, 180 - 60 / 7], atol=3)


def test_shades_of_gray_have_one_channel(tmp_path):
  _write_images(tmp_path, 4)
  data = _load(tmp_path, grayscale=True)
  images = np.concatenate(
    [data.arrays(split)[0] for split in ('train', 'test')]
  )
  assert images.shape == (4, 4, 4, 1)
  np.testing.assert_allclose(
    np.sort(images.mean((1, 2, 3))), [0, 10, 20, 30], atol=1
  )
  assert data.preset.image_shape == (4, 4, 1)
