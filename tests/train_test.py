"""Runs the example as a user does, as a process, on little data."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import program_testing

train = program_testing.load('train')

_SMALL = [
  '--num_scales=1',
  '--num_blocks=1',
  '--hidden_channels=2',
  '--batch_size=16',
  '--evaluate_every=4',
]


def _command(*flags):
  return program_testing.command('train', *flags)


def _run(*flags, expect=0):
  return program_testing.run('train', *flags, expect=expect)


def _rows(model_dir):
  with open(model_dir / 'metrics.csv') as file:
    return list(csv.DictReader(file))


def _digits(model_dir, *flags):
  return ['--dataset=digits', f'--model_dir={model_dir}', *_SMALL, *flags]


def test_histogram_baseline_by_hand():
  seen = np.array([0, 0, 1], np.uint8).reshape(3, 1, 1, 1)
  held_out = np.array([0, 1], np.uint8).reshape(2, 1, 1, 1)
  # Add-one counts 3 and 2 of 5.
  expected = -(np.log2(3 / 5) + np.log2(2 / 5)) / 2
  value = train.histogram_bits_per_dim(seen, held_out, 2)
  np.testing.assert_allclose(value, expected)


def test_run_stopped_by_ctrl_c_goes_on_and_finishes(tmp_path):
  flags = _digits(tmp_path, '--num_steps=8', '--checkpoint_every=1000')
  process = subprocess.Popen(
    _command(*flags, '--num_steps=100000'),
    cwd=program_testing.ROOT,
    env=program_testing.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  deadline = time.time() + 300
  while not list(tmp_path.glob('samples-*.png')) and time.time() < deadline:
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  try:
    output, _ = process.communicate(timeout=120)
  finally:
    process.kill()
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


def _begin(*flags):
  return subprocess.Popen(
    _command(*flags),
    cwd=program_testing.ROOT,
    env=program_testing.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def _variables(path):
  reader = tf.train.load_checkpoint(path)
  names = set(reader.get_variable_to_shape_map())
  names.discard('_CHECKPOINTABLE_OBJECT_GRAPH')  # Holds names of this process.
  return {name: reader.get_tensor(name) for name in names}


def _kill(process, model_dir, in_write, delay):
  """Kills a run `delay` after a checkpoint, or while it writes one."""
  newest = lambda: tf.train.latest_checkpoint(model_dir)
  before, deadline = newest(), time.time() + 300
  while newest() == before and process.poll() is None:
    assert time.time() < deadline
    time.sleep(0.01)
  if in_write:
    while process.poll() is None and not list(model_dir.glob('ckpt-*temp*')):
      assert time.time() < deadline
  else:
    time.sleep(delay)
  process.kill()
  process.wait()
  return bool(list(model_dir.glob('ckpt-*temp*')))


def test_run_killed_anywhere_ends_in_the_same_weights(tmp_path):
  # NUM_KILLS=20 takes about ten minutes.
  num_kills = int(os.environ.get('NUM_KILLS', 1))
  flags = [
    f'--num_steps={20 + 10 * num_kills}',
    '--checkpoint_every=2',
    '--deterministic',
  ]
  undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
  _run(*_digits(undisturbed, *flags))
  rng = np.random.default_rng(num_kills)
  in_write = 0
  for i in range(num_kills):
    process = _begin(*_digits(killed, *flags))
    in_write += _kill(process, killed, i % 2 == 0, rng.uniform(0, 1.5))
    assert process.returncode == -signal.SIGKILL
  output = _run(*_digits(killed, *flags))
  assert 'Going on from step' in output
  print(f'{num_kills} kills, {in_write} of them during a write.')
  assert not list(killed.glob('ckpt-*temp*'))

  assert tf.train.latest_checkpoint(killed).endswith(flags[0].split('=')[1])
  for place in ('', 'final'):
    expected, found = (
      _variables(tf.train.latest_checkpoint(run / place))
      for run in (undisturbed, killed)
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)
  expected, found = _rows(undisturbed), _rows(killed)
  for row in expected + found:
    del row['seconds']
  assert found == expected


def test_finished_run_only_evaluates_and_refuses_other_architectures(tmp_path):
  flags = _digits(tmp_path, '--num_steps=4')
  output = _run(*flags)
  assert 'Step 4: test bits/dim' in output
  assert 'non-finite: 0 of 297' in output
  last = _rows(tmp_path)[-1]
  assert int(last['step']) == 4
  assert float(last['test_bits_per_dim']) > 0
  picture = tf.io.read_file(str(tmp_path / 'samples-0000004.png'))
  # Two grids of 8 by 8 digits at four times their size.
  assert tf.io.decode_png(picture).shape == [265, 538, 1]
  assert 'Step 4: test' in _run(*flags)
  output = _run(*flags, '--num_scales=2', expect=1)
  assert '--num_scales=2, but the run' in output
  assert 'was begun with 1' in output
  assert tf.train.latest_checkpoint(tmp_path).endswith('ckpt-4')


_DAMAGED = """
import dataclasses
from absl import app
import image_data
import tensorflow as tf
import train

load = image_data.load

def load_damaged(*args):
  data = load(*args)
  def decode(element):  # The third image that is asked for is none.
    png = tf.where(element['number'] == 2, b'no image', PNG)
    return tf.ensure_shape(tf.io.decode_png(png), [8, 8, 1]), None
  PNG = tf.io.encode_png(tf.zeros([8, 8, 1], tf.uint8)).numpy()
  numbers = tf.data.Dataset.range(1500).map(lambda i: {'number': i})
  return dataclasses.replace(
    data, train=numbers, test=numbers.take(2), decode=decode
  )

image_data.load = load_damaged
app.run(train.main)
"""


def test_damaged_data_are_named(tmp_path):
  root = program_testing.ROOT
  done = subprocess.run(
    [sys.executable, '-c', _DAMAGED, *_digits(tmp_path)],
    cwd=program_testing.ROOT,
    env=program_testing.environment()
    | {'PYTHONPATH': f'{root}:{root}/examples'},
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 1
  last = done.stderr.strip().splitlines()[-20:]
  assert 'The data of --dataset=digits cannot be read, after step' in ' '.join(
    last
  )
  assert 'Traceback' not in done.stderr


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
