"""Runs the example as a user does, as a process, on little data."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from examples import train_cifar

_ROOT = pathlib.Path(__file__).parent.parent
_SMALL = [
  '--num_blocks=1',
  '--hidden_channels=2',
  '--batch_size=16',
  '--evaluate_every=4',
]


def _command(*flags):
  return [sys.executable, 'examples/train_cifar.py', *flags]


def _environment():
  return os.environ | {'PYTHONPATH': str(_ROOT), 'TF_CPP_MIN_LOG_LEVEL': '3'}


def _run(*flags, expect=0):
  done = subprocess.run(
    _command(*flags),
    cwd=_ROOT,
    env=_environment(),
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == expect, done.stderr[-3000:]
  return done.stdout + done.stderr


def _rows(model_dir):
  with open(model_dir / 'metrics.csv') as file:
    return list(csv.DictReader(file))


def _digits(model_dir, *flags):
  return ['--dataset=digits', f'--model_dir={model_dir}', *_SMALL, *flags]


def test_digits_are_the_ones_of_scikit_learn():
  train, test = train_cifar.load_digits()
  assert train.shape == (1500, 8, 8, 1)
  assert test.shape == (297, 8, 8, 1)
  assert train.dtype == np.uint8
  assert (train.min(), train.max()) == (0, 16)
  # No image is in both.
  seen = {image.tobytes() for image in train}
  assert sum(image.tobytes() in seen for image in test) == 0


def test_histogram_baseline_by_hand():
  train = np.array([0, 0, 1], np.uint8).reshape(3, 1, 1, 1)
  test = np.array([0, 1], np.uint8).reshape(2, 1, 1, 1)
  # Add-one counts 3 and 2 of 5.
  expected = -(np.log2(3 / 5) + np.log2(2 / 5)) / 2
  value = train_cifar.histogram_bits_per_dim(train, test, 2)
  np.testing.assert_allclose(value, expected)


def test_training_data_is_shuffled_endless_and_flipped():
  images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
  images = np.concatenate([images, images + 100], axis=2)
  batches = train_cifar.training_data(images, 5, flip=True, seed=0)
  seen = np.concatenate(list(batches.take(40))).reshape(-1, 2)
  assert len(seen) == 200
  left = seen.min(1)
  assert sorted(left[:10]) == list(range(10))
  assert list(left[:10]) != list(range(10))
  flipped = (seen[:, 0] > seen[:, 1]).mean()
  assert 0.3 < flipped < 0.7
  plain = train_cifar.training_data(images, 5, flip=False, seed=0)
  assert all(np.all(b[..., 0, 0] < b[..., 1, 0]) for b in plain.take(10))


def test_run_stopped_by_ctrl_c_goes_on_and_finishes(tmp_path):
  flags = _digits(tmp_path, '--num_steps=8', '--checkpoint_every=1000')
  process = subprocess.Popen(
    _command(*flags, '--num_steps=100000'),
    cwd=_ROOT,
    env=_environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  deadline = time.time() + 300
  while not list(tmp_path.glob('samples-*.png')) and time.time() < deadline:
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output[-3000:]
  assert 'and saved' in output
  step = int(output.split('Stopped at step ')[1].split(',')[0])
  assert step >= 4
  (newest,) = [tf.train.latest_checkpoint(tmp_path)]
  assert newest.endswith(f'ckpt-{step}')

  output = _run(*flags, f'--num_steps={step + 5}')
  assert f'Step {step + 5}: test bits/dim' in output
  steps = [int(row['step']) for row in _rows(tmp_path)]
  assert steps == sorted(set(steps))
  assert steps[-1] == step + 5


def test_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
  flags = _digits(tmp_path, '--checkpoint_every=3')
  process = subprocess.Popen(
    _command(*flags, '--num_steps=100000'),
    cwd=_ROOT,
    env=_environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.time() + 300
  while time.time() < deadline:
    newest = tf.train.latest_checkpoint(tmp_path)
    if newest and int(newest.split('-')[-1]) >= 6:
      break
    time.sleep(0.1)
  process.kill()
  process.wait()
  step = int(tf.train.latest_checkpoint(tmp_path).split('-')[-1])
  output = _run(*flags, f'--num_steps={step + 6}')
  assert f'Going on from step {step}' in output
  assert f'Step {step + 6}: test bits/dim' in output
  assert 'non-finite: 0 of 297' in output
  last = _rows(tmp_path)[-1]
  assert int(last['step']) == step + 6
  assert float(last['test_bits_per_dim']) > 0
  picture = tf.io.read_file(str(tmp_path / f'samples-{step + 6:07d}.png'))
  # Two grids of 8 by 8 digits at four times their size.
  assert tf.io.decode_png(picture).shape == [265, 538, 1]
  # Started once more it only evaluates.
  assert f'Step {step + 6}: test' in _run(*flags, f'--num_steps={step + 6}')
  # Another architecture is refused, and nothing is lost.
  output = _run(*flags, '--num_scales=1', expect=1)
  assert '--num_scales=1, but the run' in output
  assert 'was begun with 2' in output
  assert step + 6 == int(tf.train.latest_checkpoint(tmp_path).split('-')[-1])


def test_float16_and_recomputation(tmp_path):
  flags = ['--compute_dtype=float16', '--recompute_networks']
  output = _run(*_digits(tmp_path, '--num_steps=20', *flags))
  assert 'non-finite: 0 of 297' in output
  first, *_, last = _rows(tmp_path)
  assert float(last['test_loss']) < float(first['test_loss'])
  # Loss scaling skips steps at first; the rows say which were taken.
  assert int(last['step']) == 20


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--dataset=mnist', 'flag --dataset=mnist: value should be one of'),
    ('--batch_size=0', 'flag --batch_size=0'),
    ('--compute_dtype=int8', 'flag --compute_dtype=int8'),
    ('--num_scales=9', r'`event_shape` (8, 8, 1) cannot be halved 8 times'),
    ('--colour=red', "Unknown command line flag 'colour'"),
    ('extra', "Unknown arguments: ['extra']"),
  ],
)
def test_wrong_flags_end_in_one_clear_error(flag, message, tmp_path):
  assert message in _run(*_digits(tmp_path), flag, expect=1)


def test_a_model_dir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  output = _run(*_digits(tmp_path / 'file' / 'dir'), expect=1)
  assert f'--model_dir={tmp_path}/file/dir cannot be written' in output


def test_cifar10_that_cannot_be_downloaded_is_named(tmp_path, monkeypatch):
  def fail(self):
    raise ConnectionError('no route to host')

  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', fail)
  with pytest.raises(SystemExit) as error:
    train_cifar.load_cifar10(str(tmp_path))
  assert f'CIFAR-10 is not prepared in --data_dir={tmp_path}' in str(
    error.value
  )
  assert '--dataset=digits' in str(error.value)
  assert 'no route to host' in str(error.value)


def test_cifar10_through_mock_data():
  with tfds.testing.mock_data(num_examples=7):
    train, test = train_cifar.load_cifar10(None)
  assert train.shape == test.shape == (7, 32, 32, 3)
  assert train.dtype == np.uint8
