"""Runs the program as a user does, with a small model of digits."""

import csv
import json
import os
import re
import signal
import subprocess
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from examples import train
from tests import program_testing
from tfp_realnvp.paper import reports

_SMALL = [
  '--num_scales=1',
  '--num_blocks=1',
  '--hidden_channels=2',
  '--batch_size=16',
  '--evaluate_every=4',
]


def _run(*flags, expect=0):
  return program_testing.run('train', *flags, expect=expect)


def _rows(model_dir):
  with open(model_dir / 'metrics.csv') as file:
    return list(csv.DictReader(file))


def _digits(model_dir, *flags):
  return ['--dataset=digits', f'--model_dir={model_dir}', *_SMALL, *flags]


def _begin(*flags, **kwargs):
  return program_testing.begin('train', *flags, **kwargs)


def _stop_at(path, number, *flags, sigint='SIG_DFL'):
  """Starts a run and sends a signal when it has written a file.

  Args:
    path: `pathlib.Path`.
    number: The signal.
    *flags: The command line.
    sigint: How the run handles Ctrl-C when it starts.

  Returns:
    The exit status, the output, and the step that was saved.
  """
  process = _begin(*flags, sigint=sigint, output=subprocess.PIPE)
  try:
    program_testing.wait_for(path, process)
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
  # The file exists when the first evaluation begins.
  path = tmp_path / 'ckpt-4.index'
  status, output, step = _stop_at(
    path, signal.SIGINT, *flags, '--num_steps=100000'
  )
  assert status == 130, output[-3000:]
  assert 'Traceback' not in output
  assert step >= 4
  assert tf.train.latest_checkpoint(tmp_path).endswith(f'ckpt-{step}')

  output = _run(*flags, f'--num_steps={step + 5}')
  assert f'Resuming at step {step} of {step + 5}.' in output
  assert f'Step {step + 5}: test bits/dim' in output
  steps = [int(row['step']) for row in _rows(tmp_path)]
  assert steps == sorted(set(steps))
  assert steps[-1] == step + 5


def _variables(path):
  reader = tf.train.load_checkpoint(path)
  names = set(reader.get_variable_to_shape_map())
  # The object graph differs between processes.
  names.discard('_CHECKPOINTABLE_OBJECT_GRAPH')
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
  '--ema_momentum=0.9',
]


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """The directory of a run that was never stopped."""
  model_dir = tmp_path_factory.mktemp('undisturbed')
  _run(*_digits(model_dir, *_DETERMINISTIC))
  return model_dir


def _assert_same(model_dir, undisturbed):
  """Asserts that a run ended with the same weights and the same reports."""
  assert tf.train.latest_checkpoint(model_dir).endswith(f'-{_NUM_STEPS}')
  for place in ('', 'best', 'final'):
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
def test_best_and_final_models_have_averaged_weights(undisturbed):
  rows = _rows(undisturbed)
  best = min(rows, key=lambda row: float(row['test_bits_per_dim']))
  path = tf.train.latest_checkpoint(undisturbed / 'best')
  assert path.endswith(f'ckpt-{best["step"]}')
  # In final/, weights and averages have changed places.
  last, final = (
    _variables(tf.train.latest_checkpoint(undisturbed / place))
    for place in ('', 'final')
  )
  averages = 'optimizer/model_variables_moving_average/'
  changed = 0
  for name, value in last.items():
    if name.startswith(averages) and value.shape:
      assert any(
        np.array_equal(value, v) for k, v in final.items() if averages not in k
      )
      changed += np.any(value != final[name])
  assert changed > 10


@pytest.mark.slow
def test_run_killed_anywhere_ends_in_the_same_weights(undisturbed, tmp_path):
  rng = np.random.default_rng(_NUM_KILLS)
  in_write = 0
  for i in range(_NUM_KILLS):
    process = _begin(*_digits(tmp_path, *_DETERMINISTIC))
    in_write += _kill(process, tmp_path, i % 2 == 0, rng.uniform(0, 1.5))
    assert process.returncode == -signal.SIGKILL
  output = _run(*_digits(tmp_path, *_DETERMINISTIC))
  assert 'Resuming at step' in output
  print(f'{_NUM_KILLS} kills, {in_write} of them during a write.')
  assert not list(tmp_path.glob('ckpt-*temp*'))
  _assert_same(tmp_path, undisturbed)


@pytest.mark.slow
def test_run_stopped_by_sigterm_ends_in_the_same_weights(undisturbed, tmp_path):
  flags = _digits(tmp_path, *_DETERMINISTIC)
  status, output, step = _stop_at(
    tmp_path / 'ckpt-2.index', signal.SIGTERM, *flags, sigint='SIG_IGN'
  )
  assert status == 143, output[-3000:]
  assert 'Traceback' not in output
  assert 2 <= step < _NUM_STEPS
  assert tf.train.latest_checkpoint(tmp_path).endswith(f'ckpt-{step}')
  # Stop it again when only the final report is missing.
  status, output, step = _stop_at(
    reports.samples_path(tmp_path, _NUM_STEPS), signal.SIGTERM, *flags
  )
  assert status == 143, output[-3000:]
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


@pytest.mark.slow
def test_damaged_data_are_named(tmp_path):
  done = program_testing.run_program(
    'train_on_damaged_data',
    *_digits(tmp_path),
    cwd=program_testing.ROOT,
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
def test_folder_of_gray_photos(tmp_path):
  for i in range(20):
    image = np.random.default_rng(i).integers(0, 256, [16, 24, 3], np.uint8)
    path = str(tmp_path / f'{i}.jpg')
    tf.io.write_file(path, tf.io.encode_jpeg(image))
  run = tmp_path / 'run'
  output = _run(
    '--dataset=folder',
    f'--data_dir={tmp_path}',
    '--image_size=8',
    '--grayscale',
    '--noflip',
    '--num_steps=2',
    f'--model_dir={run}',
    *_SMALL,
  )
  assert f'Reading 20 files of --data_dir={tmp_path}.' in output
  assert 'Step 2: test bits/dim' in output
  flags = json.loads((run / 'flags.json').read_text())
  assert (flags['grayscale'], flags['flip']) == (True, False)
  picture = tf.io.read_file(str(run / 'samples-0000002.png'))
  assert tf.io.decode_png(picture).shape[-1] == 1


@pytest.mark.slow
def test_float16_and_recomputation(tmp_path):
  flags = ['--compute_dtype=float16', '--recompute_networks']
  output = _run(*_digits(tmp_path, '--num_steps=20', *flags))
  assert 'non-finite: 0 of 297' in output
  first, *_, last = _rows(tmp_path)
  assert float(last['test_loss']) < float(first['test_loss'])
  # The rows also count steps that loss scaling skips.
  assert int(last['step']) == 20


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--num_scales=9', r'`event_shape` (8, 8, 1) cannot be halved 8 times'),
    *[
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ('--dataset=svhn', 'flag --dataset=svhn: value should be one of'),
        ('--ema_momentum=1', '`ema_momentum` must be in [0, 1), got 1.0'),
        ('--batch_size=0', 'flag --batch_size=0'),
        ('--clip_norm=inf', '`clip_norm` must be finite and at least 0'),
        ('--l2_coefficient=nan', '`l2_coefficient` must be finite'),
        ('--image_size=64', '--image_size=64 is for --dataset=folder only'),
        ('--grayscale', '--grayscale=True is for --dataset=folder only'),
        ('--model_dir=', 'It must name a directory'),
        ('--cooldown_steps=50', '`num_steps`, 40; got 50'),
        ('--compute_dtype=int8', 'flag --compute_dtype=int8'),
        ('--colour=red', "Unknown command line flag 'colour'"),
        ('extra', "Unknown arguments: ['extra']"),
      )
    ],
  ],
)
def test_wrong_flags_end_in_one_clear_error(flag, message, tmp_path):
  flags = _digits(tmp_path, '--num_steps=40')
  assert message in _run(*flags, flag, expect=1)


def test_help_has_the_defaults_of_every_data_set():
  expected = 'default: 100,000, for digits 400, for mnist 10,000'
  assert train._length('num_steps') == expected
  expected = 'default: 1,000, for digits 200, for mnist 500'
  assert train._length('evaluate_every') == expected


@pytest.mark.parametrize(
  'distribute, tpu, config, message',
  [
    ('tpu', '', None, '--distribute=tpu, --tpu= cannot be used: Please provid'),
    ('none', 'a', None, '--tpu=a is for --distribute=tpu only, got --distrib'),
    ('multi_worker', '', None, '--distribute=multi_worker needs the environm'),
    ('multi_worker', '', '{', '--distribute=multi_worker cannot be used: Expe'),
  ],
)
def test_devices_that_are_not_found(
  distribute, tpu, config, message, monkeypatch
):
  monkeypatch.delenv('TF_CONFIG', raising=False)
  if config is not None:
    monkeypatch.setenv('TF_CONFIG', config)
  flags = types.SimpleNamespace(distribute=distribute, tpu=tpu)
  monkeypatch.setattr(train, 'FLAGS', flags)
  with pytest.raises(SystemExit, match=message):
    train.build_strategy()


def test_the_first_line_of_an_error_about_devices_is_shown(monkeypatch):
  def connect():
    raise RuntimeError('TPUs not found.\nRegistered devices: [CPU]')

  flags = types.SimpleNamespace(distribute='tpu', tpu='local')
  monkeypatch.setattr(train, 'FLAGS', flags)
  monkeypatch.setitem(train.STRATEGIES, 'tpu', connect)
  message = '--tpu=local cannot be used: TPUs not found.$'
  with pytest.raises(SystemExit, match=message):
    train.build_strategy()


@pytest.mark.slow
def test_a_model_dir_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  output = _run(*_digits(tmp_path / 'file' / 'dir'), expect=1)
  assert f'--model_dir={tmp_path}/file/dir cannot be written' in output
