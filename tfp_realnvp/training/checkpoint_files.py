"""Files of checkpoints: found, read and checked."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

__all__ = [
  'Description',
  'check_optimizer',
  'check_space',
  'check_variables',
  'has_values',
  'matches',
  'newest_first',
  'next_name',
  'number',
  'read_description',
  'read_through',
  'readable',
  'remove_unfinished',
  'without_wildcards',
]

# The keys in a checkpoint of what `Description` and TensorFlow keep there.
_DESCRIPTION = 'description/.ATTRIBUTES/py_state'
_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_COUNTER = 'save_counter/.ATTRIBUTES/VARIABLE_VALUE'


class Description(tf.train.experimental.PythonState):
  """A string in a checkpoint, which is read before the rest is restored."""

  def __init__(self, text: str):
    self._text = text

  def serialize(self) -> str:
    """TensorFlow hook: what is written."""
    return self._text

  def deserialize(self, text: str) -> None:
    """TensorFlow hook: the text was read before."""


@contextlib.contextmanager
def without_wildcards(directory: str | os.PathLike) -> Iterator[str]:
  """Yields a path of `directory` that TensorFlow does not take for a pattern.

  TensorFlow looks for the files of a checkpoint by a pattern: it does not find
  them in a directory whose path has characters such as brackets. For such a
  one this is a symbolic link, which is removed in the end.

  Args:
    directory: Path of a directory.

  Yields:
    `str`, the path.
  """
  directory = os.fspath(directory)
  if not _has_wildcards(directory):
    yield directory
    return
  place = '/tmp' if _has_wildcards(tempfile.gettempdir()) else None
  with tempfile.TemporaryDirectory(dir=place) as scratch:
    link = os.path.join(scratch, 'link')
    os.symlink(os.path.abspath(directory), link)
    yield link


def _has_wildcards(path: str) -> bool:
  return bool(set(path) & set('*?[\\'.replace(os.sep, '')))


@contextlib.contextmanager
def readable(path: str) -> Iterator[str]:
  """Yields a path of a checkpoint that TensorFlow finds."""
  directory, name = os.path.split(path)
  with without_wildcards(directory) as directory:
    yield os.path.join(directory, name)


def number(path: str) -> tuple[int, int] | None:
  """Returns the step of a checkpoint and which one of the step it is."""
  match = re.fullmatch(r'ckpt-(\d+)(?:-(\d+))?', os.path.basename(path))
  return match and (int(match[1]), int(match[2] or 0))


def newest_first(directory: pathlib.Path) -> list[str]:
  """Returns paths of checkpoints: those that have an index, by step."""
  paths = [
    os.fspath(path.with_suffix('')) for path in directory.glob('ckpt-*.index')
  ]
  return sorted(filter(number, paths), key=number, reverse=True)


def read_through(path: str) -> None:
  """Reads all of a checkpoint, which checks the sums that it holds.

  Args:
    path: Path of the checkpoint.

  Raises:
    ValueError: If a value is not finite, metrics aside.
    Exception: Of many classes, if the checkpoint is damaged.
  """
  with readable(path) as readable_path:
    reader = tf.train.load_checkpoint(readable_path)
    for name in reader.get_variable_to_shape_map():
      value = reader.get_tensor(name)
      if name.startswith('metrics/') or not isinstance(value, np.ndarray):
        continue
      if value.dtype.kind == 'f' and not np.isfinite(value).all():
        raise ValueError(f'{name} has values that are not finite.')


def read_description(path: str, reader: Any) -> dict[str, Any]:
  """Returns what a checkpoint tells of its optimizer."""
  if not reader.has_tensor(_DESCRIPTION):
    raise ValueError(
      f'Checkpoint {path} was written by an earlier version of tfp_realnvp and '
      'does not tell its optimizer. Its weights can be read with '
      '`tf.train.Checkpoint(distribution=...)`.'
    )
  return json.loads(reader.get_tensor(_DESCRIPTION))


def check_optimizer(
  path: str, reader: Any, here: dict[str, Any]
) -> dict[str, Any]:
  """Returns the description in a file, if the optimizer is the one here."""
  saved = read_description(path, reader)
  tell = lambda d: f'{d["optimizer"]} (with {", ".join(d["slots"])})'
  if tell(saved) != tell(here):
    raise ValueError(
      f'Checkpoint {path} is that of another optimizer, {tell(saved)}; the '
      f'model is compiled with {tell(here)}.'
    )
  return saved


def matches(
  path: str, reader: Any, checkpoint: tf.train.Checkpoint
) -> list[tuple[Any, str]]:
  """Returns pairs: a variable of `checkpoint`, and its key in a file."""
  graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
    reader.get_tensor(_GRAPH)
  )
  return [
    (trackable, attribute.checkpoint_key)
    for node, trackable in tf.train.CheckpointView(path)
    .match(checkpoint)
    .items()
    for attribute in graph.nodes[node].attributes
    if _is_variable(trackable)
  ]


def _is_variable(trackable: Any) -> bool:
  return isinstance(trackable, (tf.Variable, keras.Variable))


def check_variables(
  path: str,
  reader: Any,
  pairs: list[tuple[Any, str]],
  checkpoint: tf.train.Checkpoint,
) -> None:
  """Raises a `ValueError` if the variables in a file are others than here."""
  shapes = reader.get_variable_to_shape_map()
  dtypes = reader.get_variable_to_dtype_map()
  matched = {id(variable) for variable, _ in pairs}
  missing = [
    t.name
    for t in tf.train.TrackableView(checkpoint).descendants()
    if _is_variable(t) and id(t) not in matched
  ]
  unknown = sorted(
    set(shapes) - {key for _, key in pairs} - {_DESCRIPTION, _GRAPH, _COUNTER}
  )
  changed = [
    f'{key} ({dtypes[key].name} {shapes[key]}, here {dtype.name} {shape})'
    for variable, key in pairs
    for dtype, shape in [(tf.as_dtype(variable.dtype), list(variable.shape))]
    if (dtypes[key], shapes[key]) != (dtype, shape)
  ]
  problems = [
    f'{len(names)} {what}, such as {names[0]}'
    for names, what in [
      (unknown, 'variables are in the checkpoint alone'),
      (missing, 'variables are in the model alone'),
      (changed, 'variables differ in their shape or dtype'),
    ]
    if names
  ]
  if problems:
    raise ValueError(
      f'Checkpoint {path} is that of another model: {"; ".join(problems)}.'
    )


def has_values(
  path: str, checkpoint: tf.train.Checkpoint, description: dict[str, Any]
) -> bool:
  """Returns whether a file has the values of `checkpoint`, metrics aside.

  Args:
    path: Path of a checkpoint.
    checkpoint: What would be saved.
    description: Of the optimizer.
  """
  try:
    with readable(path) as readable_path:
      reader = tf.train.load_checkpoint(readable_path)
      pairs = matches(readable_path, reader, checkpoint)
    check_variables(path, reader, pairs, checkpoint)
    return description == read_description(path, reader) and all(
      np.array_equal(reader.get_tensor(key), variable.numpy())
      for variable, key in pairs
      if not key.startswith('metrics/')
    )
  except Exception:  # It is gone or damaged, or of the optimizer before.
    return False


def check_space(directory: pathlib.Path, variables: list[tf.Variable]) -> None:
  """Makes a directory, or raises if variables could not be written to it.

  Args:
    directory: Where checkpoints will be.
    variables: What they will hold.

  Raises:
    OSError: If the directory cannot be written, or its disk is too full.
  """
  needed = sum(v.dtype.size * v.shape.num_elements() for v in variables)
  directory.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryFile(dir=directory):
    free = shutil.disk_usage(directory).free
  if free < needed:
    raise OSError(
      f'A checkpoint takes {needed:,} bytes, but the disk of {directory} has '
      f'{free:,} left.'
    )


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes what a write that did not come to its end has left."""
  for path in directory.glob('ckpt-*_temp*'):
    shutil.rmtree(path, ignore_errors=True)


def next_name(
  directory: pathlib.Path, step: int, damaged: list[str]
) -> tuple[str, int]:
  """Returns the name and the number of a new checkpoint.

  Args:
    directory: Where checkpoints are.
    step: Step of the new one.
    damaged: Paths of those that may be written over.
  """
  versions = [
    version
    for path in newest_first(directory)
    for saved_step, version in [number(path)]
    if saved_step == step and path not in damaged
  ]
  if versions:  # Writing over a checkpoint could lose it.
    return f'ckpt-{step}', max(versions) + 1
  return 'ckpt', step
