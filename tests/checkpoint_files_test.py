import pathlib

import tensorflow as tf

from tfp_realnvp.training import checkpoint_files


def test_newest_first_by_step_and_version(tmp_path):
  for name in ('ckpt-2', 'ckpt-10', 'ckpt-10-1', 'ckpt-9-3', 'other-11'):
    (tmp_path / f'{name}.index').touch()
  names = [
    pathlib.Path(path).name for path in checkpoint_files.newest_first(tmp_path)
  ]
  assert names == ['ckpt-10-1', 'ckpt-10', 'ckpt-9-3', 'ckpt-2']
  assert checkpoint_files.number('x/ckpt-10-1') == (10, 1)
  assert checkpoint_files.number('x/other') is None
  assert checkpoint_files.next_name(tmp_path, 11, []) == ('ckpt', 11)
  assert checkpoint_files.next_name(tmp_path, 10, []) == ('ckpt-10', 2)
  damaged = [str(tmp_path / name) for name in ('ckpt-10', 'ckpt-10-1')]
  assert checkpoint_files.next_name(tmp_path, 10, damaged) == ('ckpt', 10)


def test_a_directory_with_wildcards_is_readable(tmp_path):
  directory = tmp_path / 'a[1]*'
  directory.mkdir()
  with checkpoint_files.without_wildcards(directory) as path:
    tf.train.Checkpoint(v=tf.Variable(1.0)).write(f'{path}/ckpt-1')
  assert (directory / 'ckpt-1.index').exists()
  with checkpoint_files.readable(str(directory / 'ckpt-1')) as path:
    assert tf.train.load_checkpoint(path).has_tensor(
      'v/.ATTRIBUTES/VARIABLE_VALUE'
    )
  checkpoint_files.read_through(str(directory / 'ckpt-1'))
