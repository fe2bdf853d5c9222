"""Tests errors about --model_dir, and that files are whole."""

import pytest

from tfp_realnvp import model_dirs


def test_directory_that_cannot_be_written_is_named(tmp_path):
  model_dirs.make_model_dir(tmp_path / 'a' / 'b')
  assert (tmp_path / 'a' / 'b').is_dir()
  file = tmp_path / 'file'
  file.touch()
  with pytest.raises(SystemExit, match='file/run cannot be written: .*Not a d'):
    model_dirs.make_model_dir(file / 'run')


def test_text_is_replaced(tmp_path):
  path = tmp_path / 'results.json'
  model_dirs.replace_text(path, 'old')
  model_dirs.replace_text(path, 'new')
  assert path.read_text() == 'new'
  assert [*tmp_path.iterdir()] == [path]
