"""Runs the example as a user does, as a process, on little data."""

import csv
import os
import re
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


@pytest.fixture
def stop():
  """`StopOnSignal` of a process that ignores none of its signals."""
  numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  before = [signal.signal(n, signal.default_int_handler) for n in numbers]
  yield train.StopOnSignal()
  for number, handler in zip(numbers, before):
    signal.signal(number, handler)


@pytest.mark.parametrize(
  'number, status',
  [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signals_end_the_program_with_their_status(number, status, stop):
  with pytest.raises(SystemExit) as ended:
    signal.raise_signal(number)
  assert ended.value.code == status
  assert stop.signal == number


def test_signals_wait_for_what_must_not_be_interrupted(stop):
  done = []
  with pytest.raises(SystemExit) as ended:
    with stop.deferred():
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)  # As schedulers do.
      signal.raise_signal(signal.SIGINT)
      done.append(True)
  assert done
  assert ended.value.code == 143


def test_second_signal_does_not_hide_what_is_told(stop, monkeypatch, capsys):
  monkeypatch.setattr(train, 'StopOnSignal', lambda: stop)
  monkeypatch.setattr(
    train, 'run', lambda stop: signal.raise_signal(signal.SIGTERM)
  )

  def tell(message):
    signal.raise_signal(signal.SIGTERM)
    print(message)

  monkeypatch.setattr(train, 'print', tell, raising=False)
  with pytest.raises(SystemExit) as ended:
    train.main(['train'])
  assert ended.value.code == 143
  assert 'Stopped by SIGTERM. Nothing is saved.' in capsys.readouterr().out


def test_report_that_was_interrupted_is_made_again(tmp_path, monkeypatch):
  def interrupted(*args):
    raise SystemExit

  monkeypatch.setattr(train, 'real_and_samples', interrupted)
  with pytest.raises(SystemExit):
    train.Reports(tmp_path, 4, True).write(4, {}, None, None)
  assert train.Reports(tmp_path, 4, True).step == 0
  picture = np.zeros([2, 2, 3], np.uint8)
  monkeypatch.setattr(train, 'real_and_samples', lambda *args: picture)
  train.Reports(tmp_path, 4, True).write(4, {}, None, None)
  assert train.Reports(tmp_path, 4, True).step == 4
  assert train.samples_path(tmp_path, 4).exists()


def test_signals_that_are_ignored_stay_ignored(stop):
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  again = train.StopOnSignal()
  signal.raise_signal(signal.SIGHUP)
  assert again.signal is None
  with pytest.raises(SystemExit):
    signal.raise_signal(signal.SIGTERM)


# Python treats Ctrl-C as the process that starts it does: a script in the
# background ignores it.
_WITH_SIGINT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
os.execv(sys.argv[1], sys.argv[1:])
"""


def _begin(*flags, sigint='SIG_DFL', output=subprocess.DEVNULL):
  """Starts a run that treats Ctrl-C as said, however the tests do."""
  program = _WITH_SIGINT.format(handler=sigint)
  return subprocess.Popen(
    [sys.executable, '-c', program, *_command(*flags)],
    cwd=program_testing.ROOT,
    env=program_testing.environment(),
    stdout=output,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _stop_at(path, number, *flags, sigint='SIG_DFL'):
  """Starts a run and sends a signal when it has written a file.

  Args:
    path: `pathlib.Path`.
    number: The signal.
    *flags: The command line.
    sigint: What the run does about Ctrl-C, when it starts.

  Returns:
    The exit status, what was printed, and the step that was saved.
  """
  process = _begin(*flags, sigint=sigint, output=subprocess.PIPE)
  deadline = time.time() + 300
  try:
    while not path.exists() and process.poll() is None:
      assert time.time() < deadline
      time.sleep(0.01)
    if sigint == 'SIG_IGN':
      process.send_signal(signal.SIGINT)
    process.send_signal(number)
    process.send_signal(number)  # As schedulers do.
    output, _ = process.communicate(timeout=120)
  finally:
    process.kill()
  name = signal.Signals(number).name
  told = re.search(rf'Stopped by {name}\. Step (\d+) is saved\.', output)
  assert told, output[-3000:]
  return process.returncode, output, int(told[1])


@pytest.mark.slow
def test_run_stopped_by_ctrl_c_goes_on_and_finishes(tmp_path):
  flags = _digits(tmp_path, '--checkpoint_every=1000')
  # The first evaluation has begun.
  path = tmp_path / 'ckpt-4.index'
  status, output, step = _stop_at(
    path, signal.SIGINT, *flags, '--num_steps=100000'
  )
  assert status == 130
  assert 'Traceback' not in output
  assert step >= 4
  assert tf.train.latest_checkpoint(tmp_path).endswith(f'ckpt-{step}')

  output = _run(*flags, f'--num_steps={step + 5}')
  assert f'Step {step + 5}: test bits/dim' in output
  steps = [int(row['step']) for row in _rows(tmp_path)]
  assert steps == sorted(set(steps))
  assert steps[-1] == step + 5


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


# NUM_KILLS=20 takes about ten minutes.
_NUM_KILLS = int(os.environ.get('NUM_KILLS', 1))
_NUM_STEPS = 20 + 10 * _NUM_KILLS
_DETERMINISTIC = [
  f'--num_steps={_NUM_STEPS}',
  '--checkpoint_every=2',
  '--deterministic',
]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """The directory of a run that was never stopped."""
  model_dir = tmp_path_factory.mktemp('undisturbed')
  _run(*_digits(model_dir, *_DETERMINISTIC))
  return model_dir


def _assert_same(model_dir, undisturbed):
  """Asserts that a run has ended in the same weights, with the same reports."""
  assert tf.train.latest_checkpoint(model_dir).endswith(f'-{_NUM_STEPS}')
  for place in ('', 'final'):
    expected, found = (
      _variables(tf.train.latest_checkpoint(run / place))
      for run in (undisturbed, model_dir)
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value, err_msg=name)
  expected, found = _rows(undisturbed), _rows(model_dir)
  for row in expected + found:
    del row['seconds']
  assert found == expected


@pytest.mark.slow
def test_run_killed_anywhere_ends_in_the_same_weights(undisturbed, tmp_path):
  rng = np.random.default_rng(_NUM_KILLS)
  in_write = 0
  for i in range(_NUM_KILLS):
    process = _begin(*_digits(tmp_path, *_DETERMINISTIC))
    in_write += _kill(process, tmp_path, i % 2 == 0, rng.uniform(0, 1.5))
    assert process.returncode == -signal.SIGKILL
  output = _run(*_digits(tmp_path, *_DETERMINISTIC))
  assert 'Going on from step' in output
  print(f'{_NUM_KILLS} kills, {in_write} of them during a write.')
  assert not list(tmp_path.glob('ckpt-*temp*'))
  _assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_run_stopped_by_sigterm_ends_in_the_same_weights(undisturbed, tmp_path):
  flags = _digits(tmp_path, *_DETERMINISTIC)
  status, output, step = _stop_at(
    tmp_path / 'ckpt-2.index', signal.SIGTERM, *flags, sigint='SIG_IGN'
  )
  assert status == 143
  assert 'Traceback' not in output
  assert 2 <= step < _NUM_STEPS
  assert tf.train.latest_checkpoint(tmp_path).endswith(f'ckpt-{step}')
  # Once more, when the run has all but finished.
  status, output, step = _stop_at(
    train.samples_path(tmp_path, _NUM_STEPS), signal.SIGTERM, *flags
  )
  assert status == 143
  assert step == _NUM_STEPS
  assert 'test bits/dim' in _run(*flags)
  _assert_same(tmp_path, undisturbed)


@pytest.mark.slow
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
  assert 'was started with 1' in output
  assert tf.train.latest_checkpoint(tmp_path).endswith('ckpt-4')


_DAMAGED = """
import dataclasses
from absl import app
import tensorflow as tf
from tfp_realnvp.paper import data as image_data
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


@pytest.mark.slow
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


@pytest.mark.slow
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
