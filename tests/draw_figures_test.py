"""Tests what the figures show, and runs the programs as a user does."""

import types

import numpy as np
import pytest
import tensorflow as tf

from examples import draw_figures
from tests import flow_testing
from tests import program_testing
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import experiment
from tfp_realnvp.paper import presets

_SMALL = {'num_scales': 2, 'num_blocks': 1, 'hidden_channels': 2}


def _artist(conditional, prior='standard', **changes):
  distribution, preset = program_testing.build(
    'digits', conditional=conditional, prior=prior, **_SMALL
  )
  preset = experiment.vary(preset, **changes)
  flow_testing.randomize(distribution.bijector)
  data = image_data.load(
    presets.preset('digits'), 'digits', conditional=conditional
  )
  images, condition = data.arrays('test', 64)
  return draw_figures.Artist(
    distribution, preset, prior, images, condition
  ), images


@pytest.fixture
def eager():
  """Runs functions without tracing, which takes longer where there are many."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


def _tile(picture, row, column, padding=1):
  """Returns the digit at a place of a grid, with values from 0 to 16."""
  side = 64 + padding
  top, left = row * side + padding, column * side + padding
  tile = picture[top : top + 64 : 8, left : left + 64 : 8, :1]
  return np.round(tile / (255 / 16)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize('conditional', [False, True])
def test_corners_of_the_manifold_are_the_images(conditional):
  artist, images = _artist(conditional)
  picture = artist.manifold()
  for image, (row, column) in zip(images, [(0, 0), (2, 0), (0, 2), (2, 2)]):
    np.testing.assert_array_equal(_tile(picture, row, column, 2), image)
    frame = picture[row * 66, column * 66 : column * 66 + 68]
    np.testing.assert_array_equal(frame, [[255, 0, 0]] * 68)
  assert picture.shape == (8 * 66 + 2, 8 * 66 + 2, 3)


@pytest.mark.slow
def test_compression_begins_with_the_image_and_all_latents():
  artist, images = _artist(conditional=True)
  picture = artist.compression()
  assert picture.shape == (8 * 65 + 1, 3 * 65 + 1, 1)
  for row in range(8):
    np.testing.assert_array_equal(_tile(picture, row, 0), images[row])
    np.testing.assert_array_equal(_tile(picture, row, 1), images[row])
    assert np.any(_tile(picture, row, 2) != images[row])


@pytest.mark.slow
def test_interpolation_goes_from_image_to_image():
  artist, images = _artist(conditional=False)
  picture = artist.interpolation()
  for row in range(8):
    np.testing.assert_array_equal(_tile(picture, row, 0), images[row])
    np.testing.assert_array_equal(_tile(picture, row, 7), images[8 + row])


@pytest.mark.slow
def test_reconstruction_and_its_error():
  artist, images = _artist(conditional=False)
  picture, error = artist.reconstruction()
  assert 0 < error < 1e-2
  for column in range(8):
    for row in (0, 1):
      np.testing.assert_array_equal(_tile(picture, row, column), images[column])


@pytest.mark.slow
def test_attribute_change_leaves_an_image_of_its_own_class():
  artist, images = _artist(conditional=True)
  picture = artist.attribute_change()
  data = image_data.load(presets.preset('digits'), 'digits', None, True)
  _, condition = data.arrays('test', 8)
  for row, own in enumerate(condition.argmax(1)):
    same = [
      np.array_equal(_tile(picture, row, 1 + column), images[row])
      for column in range(10)
    ]
    # With 17 levels, so narrow a network gives some classes the same image.
    assert same[own] and not all(same)


@pytest.mark.slow
def test_attributes_are_those_of_the_image_before():
  artist, images = _artist(conditional=True, condition_feature='attributes')
  picture = artist.attribute_change()
  assert picture.shape == (8 * 65 + 1, 2 * 65 + 1, 1)
  data = image_data.load(presets.preset('digits'), 'digits', None, True)
  _, condition = data.arrays('test', 8)
  flow = artist.distribution.bijector
  z = flow.inverse(images[:8] + np.float32(0.5), condition=condition)
  others = condition[[7, 0, 1, 2, 3, 4, 5, 6]]
  changed = flow.forward(tf.identity(z), condition=others)
  # Rounding can leave saturated pixels a little outside the range.
  changed = np.clip(np.floor(changed), 0, 16)
  for row in range(8):
    np.testing.assert_array_equal(_tile(picture, row, 0), images[row])
    np.testing.assert_array_equal(_tile(picture, row, 1), changed[row])


@pytest.mark.slow
def test_share_of_images_that_are_likelier_under_their_label():
  artist, images = _artist(conditional=True)
  above_mean, above_all = artist.label_shares()
  data = image_data.load(presets.preset('digits'), 'digits', None, True)
  _, condition = data.arrays('test', 64)
  labels = condition.argmax(1)
  log_prob = np.stack(
    [
      artist.distribution.log_prob(
        images + np.float32(0.5),
        **experiment.bijector_kwargs(np.eye(10, dtype='f4')[[label] * 64]),
      )
      for label in range(10)
    ]
  )
  right = [log_prob[label, i] for i, label in enumerate(labels)]
  others = [np.delete(log_prob[:, i], label) for i, label in enumerate(labels)]
  assert above_mean == np.mean(right > np.mean(others, axis=1))
  assert above_all == np.mean(right > np.max(others, axis=1))


@pytest.mark.slow
def test_classes_are_the_rows():
  artist, _ = _artist(conditional=True)
  picture = artist.classes()
  assert picture.shape == (10 * 65 + 1, 8 * 65 + 1, 1)


@pytest.mark.slow
def test_larger_samples_are_by_the_prior_that_was_learned():
  distribution, preset = program_testing.build(
    'digits', prior='learned', **_SMALL
  )
  loc, scale = distribution.distribution.variables
  loc.assign([0.1, 0.2, 0.3, 0.4])
  scale.assign(-30 * tf.ones(4))  # The standard deviation is softplus(-30).
  images = np.zeros([16, 8, 8, 1], np.uint8)
  artist = draw_figures.Artist(distribution, preset, 'learned', images, None)
  picture = artist.larger_samples(2, 3)
  assert picture.shape == (64 + 2, 3 * 65 + 1, 1)
  np.testing.assert_array_equal(picture[:, :65], picture[:, 65:130])
  assert len(np.unique(picture)) > 2


@pytest.mark.slow
@pytest.mark.usefixtures('eager')
@pytest.mark.parametrize('count, rows', [(1, 0), (3, 1)])
def test_few_images_give_the_figures_that_they_allow(
  count, rows, monkeypatch, tmp_path, capsys
):
  artist, images = _artist(conditional=False)
  values = {'model_dir': str(tmp_path), 'data_dir': None, 'seed': 0}
  flags = types.SimpleNamespace(**values)
  monkeypatch.setattr(draw_figures, 'FLAGS', flags)
  data = types.SimpleNamespace(arrays=lambda *_: (images[:count], None))
  monkeypatch.setattr(image_data, 'load', lambda *_: data)
  trained = {'dataset': 'digits', 'data_dir': None}
  trained = artist.distribution, presets.preset('digits'), trained
  monkeypatch.setattr(experiment, 'load_trained', lambda _: trained)
  draw_figures.main([''])
  left_out = ', and manifold.png is left out'
  left_out += ', and interpolation.png is left out' * (not rows)
  message = f'There are only {count} held-out images. So figures have fewer '
  assert f'{message}images{left_out}.\n' in capsys.readouterr().out
  pictures = {
    path.stem: tf.io.decode_png(path.read_bytes()).numpy()
    for path in (tmp_path / 'figures').iterdir()
  }
  assert 'manifold' not in pictures
  assert ('interpolation' in pictures) == bool(rows)
  samples = pictures['samples']
  side = 8 * 65 + 1
  assert samples.shape == (side, 2 * side + 8, 1)
  for i in range(count):
    np.testing.assert_array_equal(_tile(samples, 0, i), images[i])
  assert np.all(_tile(samples, 0, count) == 16)  # A white place.
  heights = {name: (len(p) - 1) // 65 for name, p in pictures.items()}
  assert heights['compression'] == count
  assert heights['reconstruction'] == 3
  assert heights.get('interpolation', 0) == rows
  assert heights['temperature'] == 8


@pytest.mark.usefixtures('eager')
def test_samples_repeat_the_conditions_of_few_images():
  artist, images = _artist(conditional=True)
  conditions = artist._condition[:3]
  few = draw_figures.Artist(
    artist.distribution, artist._preset, 'standard', images[:3], conditions
  )
  np.testing.assert_array_equal(
    few._conditions(7), conditions[[0, 1, 2, 0, 1, 2, 0]]
  )
  assert few.samples().shape == artist.samples().shape


def test_figures_that_cannot_be_written_are_named(tmp_path):
  (tmp_path / 'figures').write_text('')
  picture = np.zeros([2, 2, 1], np.uint8)
  with pytest.raises(SystemExit, match=f'--model_dir={tmp_path} cannot be wri'):
    draw_figures._write(tmp_path / 'figures' / 'samples.png', picture)


@pytest.mark.slow
def test_program_draws_every_figure_of_a_conditional_model(tmp_path):
  flags = [f'--{name}={value}' for name, value in _SMALL.items()]
  program_testing.run(
    'train',
    '--dataset=digits',
    '--conditional',
    '--prior=learned',
    f'--model_dir={tmp_path}',
    '--num_steps=4',
    *flags,
  )
  output = program_testing.run('draw_figures', f'--model_dir={tmp_path}')
  assert 'Largest error of a reconstructed pixel' in output
  drawn = {path.stem for path in (tmp_path / 'figures').glob('*.png')}
  assert drawn == {
    *('samples', 'samples_2x', 'samples_10x', 'manifold', 'compression'),
    *('reconstruction', 'interpolation', 'temperature'),
    *('classes', 'attribute_change'),
  }
  file = tf.io.read_file(str(tmp_path / 'figures' / 'samples_10x.png'))
  assert tf.io.decode_png(file).shape == [82, 82, 1]


@pytest.mark.slow
def test_directory_without_a_run_is_named(tmp_path):
  output = program_testing.run(
    'draw_figures', f'--model_dir={tmp_path}', expect=1
  )
  assert f'--model_dir={tmp_path} holds no training run' in output
