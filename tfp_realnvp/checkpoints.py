"""Checkpoints: training that is stopped anywhere goes on as if it were not."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import tempfile

from absl import logging
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from tfp_realnvp import flow_bijector

__all__ = ['Checkpoints', 'without_wildcards']

# The keys in a checkpoint of what `_Description` and TensorFlow keep there.
_DESCRIPTION = 'description/.ATTRIBUTES/py_state'
_GRAPH = '_CHECKPOINTABLE_OBJECT_GRAPH'
_COUNTER = 'save_counter/.ATTRIBUTES/VARIABLE_VALUE'


class Checkpoints(keras.callbacks.Callback):
  """Saves all that the training of a `DensityEstimator` depends on.

  That is the distribution's variables, moving statistics included, the
  optimizer, `DensityEstimator.step` and the seeds, from which the noise
  follows; with data whose order follows from the step too, a run that was
  stopped and restored takes the same steps as one that was not. The metrics of
  an epoch that has begun are saved as well.

  ```python
  checkpoints = Checkpoints(model, 'runs/cifar10')
  checkpoints.restore(epoch_steps=1000)
  data = batches_from(start=checkpoints.step)
  model.fit(data, steps_per_epoch=1000 - checkpoints.step % 1000,
            callbacks=[checkpoints])
  ```

  What the program states now has precedence over the checkpoint:

  - The learning rate. If the model is compiled with the one that the saved run
    was compiled with, the saved value is restored, as callbacks may have
    changed it; if it is compiled with another one, that one is used. The
    position in a schedule follows from the optimizer's iterations, which are
    restored.
  - The seed of the model. The saved seeds are restored into a model of
    `seed=None`.

  A model can be compiled again after the construction of `Checkpoints`; its
  optimizer at the time of saving or restoring counts.

  Files are written beside those they replace: a run that is killed or that
  finds the disk full leaves the checkpoints before as they were. The checkpoint
  of step 6 is named `ckpt-6`, and a later one of the same step `ckpt-6-1`.
  Under `MultiWorkerMirroredStrategy` the chief alone keeps what is written; all
  workers read it, from a directory that they share.
  """

  def __init__(self, model, directory, every=500, max_to_keep=3):
    """Initializes Checkpoints.

    Args:
      model: `DensityEstimator`, compiled.
      directory: Where checkpoints are, or will be.
      every: `int`, steps between checkpoints. Where an execution takes several
        steps (`steps_per_execution`), the first one that reaches or passes a
        multiple of `every` is saved.
      max_to_keep: `int`, how many of the newest checkpoints to keep.

    Raises:
      ValueError: If `model` is not compiled, or `every` or `max_to_keep` is not
        an int of at least 1.
    """
    super().__init__()
    if getattr(model, 'optimizer', None) is None:
      raise ValueError(f'`model` must be compiled, got {model!r}.')
    # Keras sets `self.model` to the model that is fitted.
    self._estimator = model
    self._directory = pathlib.Path(directory)
    self._every = flow_bijector.check_int(every, 'every')
    self._max_to_keep = flow_bijector.check_int(max_to_keep, 'max_to_keep')
    self._epoch_to_resume = None
    self._damaged = []
    self._newest = None  # The path that was written or restored last.
    self._last_step = self.step
    self._epoch = 0
    self._is_due = False  # Whether to save at the end of `fit`.
    self._compiled = None, []  # The optimizer, and its learning rates.
    self._is_chief = _is_chief(model.distribute_strategy)
    self._written_to = self._directory
    if not self._is_chief:
      # Every worker has to take part in saving; but one keeps the result.
      self._scratch = tempfile.TemporaryDirectory()
      self._written_to = pathlib.Path(self._scratch.name)
    self._compiled_rates()

  @property
  def step(self):
    """`int`, the step that the model is at."""
    return int(self._estimator.step.numpy())

  @property
  def is_chief(self):
    """Whether this process is the one that writes files for all workers."""
    return self._is_chief

  def restore(self, epoch_steps=None):
    """Restores the newest undamaged checkpoint.

    Damaged ones are logged by name and skipped. Either all is restored or, if
    an error is raised, nothing.

    Args:
      epoch_steps: `int`, steps of an epoch; the first epoch of `fit` after a
        checkpoint from its middle then goes on with the metrics saved there.

    Returns:
      The path of the checkpoint, or `None` where there is none.

    Raises:
      ValueError: If there are checkpoints, but all are damaged; or if the
        newest undamaged one is of another model or another optimizer.
    """
    if self._is_chief:
      self._remove_unfinished()
    self._damaged = []
    for path in _newest_first(self._directory):
      try:
        _read_through(path)
      except Exception as error:  # The reader raises errors of many classes.
        logging.error('Checkpoint %s is damaged: %s', path, error)
        self._damaged.append(path)
        continue
      self._restore(path)
      logging.info('Going on from step %d of %s.', self.step, path)
      self._newest = path
      if epoch_steps and self.step % epoch_steps:
        self._epoch_to_resume = path
      return path
    if self._damaged:
      raise ValueError(
        f'Every checkpoint in {self._directory} is damaged: {self._damaged}. '
        'Move them away to start anew.'
      )
    return None

  def save(self):
    """Writes a checkpoint, unless the last one has the same values.

    Metrics alone are no reason to write: evaluation changes them.

    Raises:
      OSError: If it cannot be written; those before are not touched.
    """
    checkpoint = self._checkpoint()
    if self._is_saved(checkpoint):
      return
    step = self.step
    versions = [
      version
      for path in _newest_first(self._written_to)
      for saved_step, version in [_number(path)]
      if saved_step == step and path not in self._damaged
    ]
    name, number = 'ckpt', step
    if versions:  # Writing over a checkpoint could lose it.
      name, number = f'ckpt-{step}', max(versions) + 1
    try:
      self._written_to.mkdir(parents=True, exist_ok=True)
      with without_wildcards(self._written_to) as directory:
        manager = tf.train.CheckpointManager(
          checkpoint, directory, self._max_to_keep, checkpoint_name=name
        )
        manager.save(checkpoint_number=number)
    except tf.errors.OpError as error:
      self._remove_unfinished()
      raise OSError(
        f'The checkpoint of step {step} could not be written to '
        f'{self._directory}: {error.message} The newest one there is '
        f'{next(iter(_newest_first(self._directory)), None)}.'
      ) from error
    self._newest = os.fspath(self._written_to / f'{name}-{number}')

  def _checkpoint(self):
    """Returns what is saved, of the model as it is compiled now."""
    model = self._estimator
    return tf.train.Checkpoint(
      description=_Description(json.dumps(self._describe())),
      distribution=model.distribution,
      optimizer=_slots(model.optimizer),
      metrics=self._metrics(),
      counters=model.counters,
      seeds=model.seeds,
    )

  def _metrics(self):
    metrics = self._estimator.metrics
    return tf.train.Checkpoint(
      variables=[v.value for m in metrics for v in m.variables]
    )

  def _describe(self):
    """Returns what is saved of the optimizer beside its variables.

    The learning rates are not among the variables, so that a checkpoint can be
    restored with a schedule instead of a number, or the other way round.
    """
    optimizer = self._estimator.optimizer
    return {
      'optimizer': _name(optimizer),
      'slots': sorted(_slots(optimizer)),
      'compiled_learning_rates': self._compiled_rates(),
      'learning_rates': _values(_learning_rates(optimizer)),
    }

  def _compiled_rates(self):
    """Returns the learning rates that the optimizer was first seen with."""
    optimizer = self._estimator.optimizer
    if self._compiled[0] is not optimizer:
      self._compiled = optimizer, _values(_learning_rates(optimizer))
    return self._compiled[1]

  def _restore(self, path):
    """Restores a checkpoint, after all of it has been checked."""
    model = self._estimator
    rates = _learning_rates(model.optimizer)
    # A value that was assigned after `compile` is a choice of the user, too.
    self._compiled = model.optimizer, _values(rates)
    checkpoint = self._checkpoint()
    seeds = model.seeds.numpy()
    with _readable(path) as readable:
      reader = tf.train.load_checkpoint(readable)
      saved = _check_optimizer(path, reader, self._describe())
      _check_variables(
        path, reader, _matches(readable, reader, checkpoint), checkpoint
      )
      checkpoint.restore(readable).assert_consumed()
    if saved['compiled_learning_rates'] == self._compiled_rates():
      for rate, value in zip(rates, saved['learning_rates']):
        rate.assign(value)
    else:
      logging.info(
        'Checkpoint %s is of a model compiled with the learning rates %s; '
        'going on with %s.',
        path,
        saved['compiled_learning_rates'],
        self._compiled_rates(),
      )
    if model.seed is not None:
      if (seeds != model.seeds.numpy()).any():
        logging.info(
          'Checkpoint %s is of a model of another seed; going on with %s.',
          path,
          model.seed,
        )
      model.seeds.assign(seeds)

  def _is_saved(self, checkpoint):
    """Returns whether the newest checkpoint has the values of the model."""
    if self._newest is None or _number(self._newest)[0] != self.step:
      return False
    try:
      with _readable(self._newest) as path:
        reader = tf.train.load_checkpoint(path)
        matches = _matches(path, reader, checkpoint)
      _check_variables(self._newest, reader, matches, checkpoint)
      return self._describe() == _read_description(
        self._newest, reader
      ) and all(
        np.array_equal(reader.get_tensor(key), variable.numpy())
        for variable, key in matches
        if not key.startswith('metrics/')
      )
    except Exception:  # It is gone or damaged, or of the optimizer before.
      return False

  def _remove_unfinished(self):
    """Removes what a write that did not come to its end has left."""
    for path in self._directory.glob('ckpt-*_temp*'):
      shutil.rmtree(path, ignore_errors=True)

  def on_train_begin(self, logs=None):
    """Keras hook: reports, before any work, where nothing could be written."""
    if self.model is not self._estimator:
      raise ValueError(
        f'`Checkpoints` of the model {self._estimator!r} is a callback of '
        f'another one, {self.model!r}.'
      )
    self._last_step = self.step
    self._is_due = False
    if not self._is_chief:
      return
    slots = [v.value for v in self._estimator.optimizer.variables]
    needed = sum(
      variable.dtype.size * variable.shape.num_elements()
      for variable in self._estimator.variables + slots
    )
    self._directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=self._directory):
      free = shutil.disk_usage(self._directory).free
    if free < needed:
      raise OSError(
        f'A checkpoint takes {needed:,} bytes, but the disk of '
        f'{self._directory} has {free:,} left.'
      )

  def on_epoch_begin(self, epoch, logs=None):
    """Keras hook: Keras has just set the metrics to 0."""
    self._epoch = epoch
    if self._epoch_to_resume:
      whole = tf.train.Checkpoint(metrics=self._metrics())
      with _readable(self._epoch_to_resume) as path:
        whole.restore(path).expect_partial()
      self._epoch_to_resume = None

  def on_train_batch_end(self, batch, logs=None):
    """Keras hook: saves every `every` steps."""
    last_step, self._last_step = self._last_step, self.step
    if self._last_step // self._every == last_step // self._every:
      return
    # After the last batch Keras sets the weights to averages.
    self._is_due = _averages(self._estimator.optimizer) and (
      (self._epoch + 1, batch + 1)
      == (self.params['epochs'], self.params['steps'])
    )
    if not self._is_due:
      self.save()

  def on_train_end(self, logs=None):
    """Keras hook: saves weights that Keras has changed since the last batch."""
    saved_step = self._newest and _number(self._newest)[0]
    if self._is_due or saved_step == self.step:
      self.save()


class _Description(tf.train.experimental.PythonState):
  """A string in a checkpoint, which is read before the rest is restored."""

  def __init__(self, text):
    self._text = text

  def serialize(self):
    return self._text

  def deserialize(self, text):
    pass


def _is_chief(strategy):
  resolver = strategy.cluster_resolver
  if resolver is None or not resolver.task_type:
    return True
  has_chief = 'chief' in resolver.cluster_spec().jobs
  return (
    resolver.task_type == 'chief'
    or not has_chief
    and (resolver.task_type, resolver.task_id) == ('worker', 0)
  )


@contextlib.contextmanager
def without_wildcards(directory):
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


def _has_wildcards(path):
  return bool(set(path) & set('*?[\\'.replace(os.sep, '')))


@contextlib.contextmanager
def _readable(path):
  """Yields a path of a checkpoint that TensorFlow finds."""
  directory, name = os.path.split(path)
  with without_wildcards(directory) as directory:
    yield os.path.join(directory, name)


def _number(path):
  """Returns the step of a checkpoint and which one of the step it is."""
  match = re.fullmatch(r'ckpt-(\d+)(?:-(\d+))?', os.path.basename(path))
  return match and (int(match[1]), int(match[2] or 0))


def _newest_first(directory):
  """Returns paths of checkpoints: those that have an index, by step."""
  paths = [
    os.fspath(path.with_suffix('')) for path in directory.glob('ckpt-*.index')
  ]
  return sorted(filter(_number, paths), key=_number, reverse=True)


def _read_through(path):
  """Reads all of a checkpoint, which checks the sums that it holds."""
  with _readable(path) as path:
    reader = tf.train.load_checkpoint(path)
    for name in reader.get_variable_to_shape_map():
      reader.get_tensor(name)


def _read_description(path, reader):
  if not reader.has_tensor(_DESCRIPTION):
    raise ValueError(
      f'Checkpoint {path} was written by an earlier version of tfp_realnvp and '
      'does not tell its optimizer. Its weights can be read with '
      '`tf.train.Checkpoint(distribution=...)`.'
    )
  return json.loads(reader.get_tensor(_DESCRIPTION))


def _check_optimizer(path, reader, here):
  """Returns the description in a file, if the optimizer is the one here."""
  saved = _read_description(path, reader)
  tell = lambda d: f'{d["optimizer"]} (with {", ".join(d["slots"])})'
  if tell(saved) != tell(here):
    raise ValueError(
      f'Checkpoint {path} is that of another optimizer, {tell(saved)}; the '
      f'model is compiled with {tell(here)}.'
    )
  return saved


def _matches(path, reader, checkpoint):
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


def _is_variable(trackable):
  return isinstance(trackable, (tf.Variable, keras.Variable))


def _check_variables(path, reader, matches, checkpoint):
  """Raises a `ValueError` if the variables in a file are others than here."""
  shapes = reader.get_variable_to_shape_map()
  dtypes = reader.get_variable_to_dtype_map()
  matched = {id(variable) for variable, _ in matches}
  missing = [
    t.name
    for t in tf.train.TrackableView(checkpoint).descendants()
    if _is_variable(t) and id(t) not in matched
  ]
  unknown = sorted(
    set(shapes) - {key for _, key in matches} - {_DESCRIPTION, _GRAPH, _COUNTER}
  )
  changed = [
    f'{key} ({dtypes[key].name} {shapes[key]}, here {dtype.name} {shape})'
    for variable, key in matches
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


def _inner(optimizer):
  """Returns the optimizers that one wraps."""
  inner = getattr(optimizer, 'inner_optimizer', None)
  return list(getattr(optimizer, 'optimizers', [inner] if inner else []))


def _parts(optimizer):
  """Returns an optimizer and those within it."""
  parts = [optimizer]
  for inner in _inner(optimizer):
    parts += _parts(inner)
  return parts


def _name(optimizer):
  """Returns the name of its class, such as 'LossScaleOptimizer(Adam)'."""
  inner = ', '.join(map(_name, _inner(optimizer)))
  return type(optimizer).__name__ + (f'({inner})' if inner else '')


def _averages(optimizer):
  """Whether the optimizer sets weights to averages at the end of `fit`."""
  return any(part.use_ema for part in _parts(optimizer))


def _learning_rates(optimizer):
  """Returns the variables of learning rates: none where it is a schedule."""
  rates = [getattr(part, 'learning_rate', None) for part in _parts(optimizer)]
  rates = {id(r): r for r in rates if isinstance(r, keras.Variable)}
  return list(rates.values())


def _values(rates):
  return [float(rate.numpy()) for rate in rates]


def _slots(optimizer):
  """Returns the other variables, by the attribute that holds them.

  Args:
    optimizer: Keras optimizer, built.

  Returns:
    Dict of lists, such as `{'iterations': ..., 'momentums': ...}`.
  """
  names = {id(rate): None for rate in _learning_rates(optimizer)}
  for part in _parts(optimizer):
    for name, value in vars(part).items():
      # Others list the same variables once more.
      if not name.startswith(('_variables', '_trainable_variables', '_self_')):
        for variable in tf.nest.flatten(value):
          names.setdefault(id(variable), name.strip('_'))
  slots = {}
  for variable in optimizer.variables:
    name = names.get(id(variable), 'other')
    if name is not None:
      slots.setdefault(name, []).append(variable.value)
  return slots
