"""Tests errors about --model_dir, and that files are whole."""

import functools
import json
import os
import socket

from absl import flags
import numpy as np
import pytest
import tensorflow as tf

from tests import program_testing
from tfp_realnvp import model_dirs


def test_directory_that_cannot_be_written_is_named(tmp_path):
  model_dirs.make_model_dir(tmp_path / 'a' / 'b')
  assert (tmp_path / 'a' / 'b').is_dir()
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(SystemExit, match='file/run cannot be written: .*Not a d'):
    model_dirs.make_model_dir(file / 'run')


def test_errors_of_writing_are_one_line():
  message = '{{function_node a/b:0}} runs/a/flow; No space left on device'
  error = tf.errors.ResourceExhaustedError(None, None, message)
  expected = '--model_dir=runs/a cannot be written: runs/a/flow; No space left'
  with pytest.raises(SystemExit, match=f'^{expected} on device$'):
    with model_dirs.exit_unless_writable('runs/a', tf.errors.OpError):
      raise error
  with pytest.raises(tf.errors.ResourceExhaustedError):
    with model_dirs.exit_unless_writable('runs/a'):
      raise error


@pytest.mark.slow
def test_directory_in_use_is_named(tmp_path):
  model_dirs.make_model_dir(tmp_path)
  model_dirs.make_model_dir(tmp_path)  # By the same process.
  child = program_testing.CONTEXT.Process
  attempt = child(target=model_dirs.make_model_dir, args=(tmp_path,))
  shared = child(target=model_dirs.make_model_dir, args=(tmp_path, True))
  other = child(target=model_dirs.make_model_dir, args=(tmp_path / 'other',))
  codes = []
  for process in (attempt, shared, other):
    process.start()
    process.join()
    codes.append(process.exitcode)
  assert codes == [1, 0, 0]
  # The other process has ended, and with it its lock.
  model_dirs.make_model_dir(tmp_path / 'other')
  # Of this process, too, a lock ends with the file.
  lock = (tmp_path / '.lock').resolve()
  assert lock.read_text() == f'{os.getpid()} on {socket.gethostname()}'
  file = model_dirs._LOCKS.pop(lock)
  with pytest.raises(SystemExit, match=rf'in use by process {os.getpid()} on'):
    model_dirs.make_model_dir(tmp_path)
  file.close()
  model_dirs.make_model_dir(tmp_path)


@pytest.mark.parametrize('seed', [-1, 2**31])
def test_seed_is_of_31_bits(seed, monkeypatch):
  values = flags.FlagValues()
  define = functools.partial(flags.DEFINE_integer, flag_values=values)
  monkeypatch.setattr(flags, 'DEFINE_integer', define)
  model_dirs.define_seed('Seed.')
  values(['program', f'--seed={2**31 - 1}'])
  assert values.seed == 2**31 - 1
  with pytest.raises(flags.Error, match=f'flag --seed={seed}: {seed} is not'):
    values(['program', f'--seed={seed}'])


def test_text_is_replaced(tmp_path):
  path = tmp_path / 'results.json'
  model_dirs.replace_text(path, 'old')
  model_dirs.replace_text(path, 'new')
  assert path.read_text() == 'new'
  model_dirs.replace_json(path, {'a': np.array([1.5, 2.0]), 'b': None})
  assert json.loads(path.read_text()) == {'a': [1.5, 2.0], 'b': None}
  assert [*tmp_path.iterdir()] == [path]
