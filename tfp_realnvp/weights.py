"""Weights of flows in .npz files, which are written whole or not at all."""

import io
import pathlib

import numpy as np
import tensorflow as tf

from tfp_realnvp import model_dirs

__all__ = ['load', 'save']


def save(path: pathlib.Path, module: tf.Module) -> None:
  """Writes the variables of a module atomically, for `load`."""
  contents = io.BytesIO()
  np.savez(contents, *[variable.numpy() for variable in module.variables])
  model_dirs.replace_file(path, contents.getvalue())


def load(path: pathlib.Path, module: tf.Module) -> None:
  """Assigns what `save` wrote to the variables of a module of the same kind.

  Raises:
    ValueError: If the module has other variables.
  """
  with np.load(path) as saved:
    for variable, value in zip(module.variables, saved.values(), strict=True):
      variable.assign(value)
