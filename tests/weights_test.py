"""Tests that files of weights are whole."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfp_realnvp import weights


def test_weights_are_written_whole(monkeypatch, tmp_path):
  module = tf.Module()
  module.a = tf.Variable([1.0, 2.0], dtype=tf.float64)
  module.b = tf.Variable(3)
  path = tmp_path / 'flow.npz'
  weights.save(path, module)
  module.a.assign([5.0, 6.0])

  def fill(path, contents):
    path.touch()
    raise OSError('No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'write_bytes', fill)
    with pytest.raises(OSError, match='No space left'):
      weights.save(path, module)
  assert [*tmp_path.iterdir()] == [path]
  module.b.assign(4)
  weights.load(path, module)
  np.testing.assert_array_equal(module.a, [1.0, 2.0])
  assert module.b.numpy() == 3
  module.c = tf.Variable(0.0)
  with pytest.raises(ValueError, match='shorter'):
    weights.load(path, module)
