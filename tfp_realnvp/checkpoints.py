"""Checkpoints: training that is stopped anywhere goes on as if it were not."""

import os
import pathlib
import re
import shutil
import tempfile

from absl import logging
import keras
import tensorflow as tf

from tfp_realnvp import flow_bijector

__all__ = ['Checkpoints']


class Checkpoints(keras.callbacks.Callback):
  """Saves all that the training of a `DensityEstimator` depends on.

  That is the distribution's variables, moving statistics included, the
  optimizer, and `DensityEstimator.step`, from which the noise follows; with
  data whose order follows from the step too, a run that was stopped and
  restored takes the same steps as one that was not. The metrics of an epoch
  that has begun are saved as well.

  ```python
  checkpoints = Checkpoints(model, 'runs/cifar10')
  checkpoints.restore(epoch_steps=1000)
  data = batches_from(start=checkpoints.step)
  model.fit(data, steps_per_epoch=1000 - checkpoints.step % 1000,
            callbacks=[checkpoints])
  ```

  Files are written beside those they replace: a run that is killed or that
  finds the disk full leaves the checkpoints before as they were. Under
  `MultiWorkerMirroredStrategy` the chief alone keeps what is written; all
  workers read it, from a directory that they share.
  """

  def __init__(self, model, directory, every=500, max_to_keep=3):
    """Initializes Checkpoints.

    Args:
      model: `DensityEstimator`, compiled.
      directory: Where checkpoints are, or will be.
      every: `int`, steps between checkpoints.
      max_to_keep: `int`, how many of the newest checkpoints to keep.

    Raises:
      ValueError: If `every` is no int of at least 1.
    """
    super().__init__()
    self._model = model
    self._directory = pathlib.Path(directory)
    self._every = flow_bijector.check_int(every, 'every')
    self._epoch_to_resume = None
    self._saved_step = None
    self._metrics = tf.train.Checkpoint(
      variables=[v.value for m in model.metrics for v in m.variables]
    )
    self._checkpoint = tf.train.Checkpoint(
      distribution=model.distribution,
      optimizer=model.optimizer,
      metrics=self._metrics,
      counters=model.counters,
    )
    self._is_chief = _is_chief(model.distribute_strategy)
    if not self._is_chief:
      # Every worker has to take part in saving; but one keeps the result.
      self._scratch = tempfile.TemporaryDirectory()
      directory = self._scratch.name
    self._manager = tf.train.CheckpointManager(
      self._checkpoint, str(directory), max_to_keep
    )

  @property
  def step(self):
    """`int`, the step that the model is at."""
    return int(self._model.step.numpy())

  @property
  def is_chief(self):
    """Whether this process is the one that writes files for all workers."""
    return self._is_chief

  def restore(self, epoch_steps=None):
    """Takes up the newest checkpoint that is whole.

    Damaged ones are logged by name and passed over.

    Args:
      epoch_steps: `int`, steps of an epoch; the first epoch of `fit` after a
        checkpoint from its middle then goes on with the metrics saved there.

    Returns:
      The path of the checkpoint, or `None` where there is none.

    Raises:
      ValueError: If there are checkpoints, but none is whole, or they are of
        another model.
    """
    if self._is_chief:
      self._remove_unfinished()
    damaged = []
    for path in _newest_first(self._directory):
      try:
        _read_through(path)
      except Exception as error:  # The reader raises errors of many classes.
        logging.error('Checkpoint %s is damaged: %s', path, error)
        damaged.append(path)
        continue
      try:
        status = self._checkpoint.restore(path)
        status.assert_existing_objects_matched()
      except (AssertionError, ValueError) as error:
        raise ValueError(
          f'Checkpoint {path} is that of another model: {error}'
        ) from error
      logging.info('Going on from step %d of %s.', self.step, path)
      self._saved_step = self.step
      if epoch_steps and self.step % epoch_steps:
        self._epoch_to_resume = path
      return path
    if damaged:
      raise ValueError(
        f'Every checkpoint in {self._directory} is damaged: {damaged}. Move '
        'them away to start anew.'
      )
    return None

  def save(self):
    """Writes a checkpoint, if a step has been taken since the last one.

    Raises:
      OSError: If it cannot be written; those before are not touched.
    """
    if self._saved_step == self.step:
      return
    try:
      self._manager.save(checkpoint_number=self.step)
    except tf.errors.OpError as error:
      self._remove_unfinished()
      raise OSError(
        f'The checkpoint of step {self.step} could not be written to '
        f'{self._directory}: {error.message} The newest one there is '
        f'{next(iter(_newest_first(self._directory)), None)}.'
      ) from error
    self._saved_step = self.step

  def _remove_unfinished(self):
    """Removes what a write that did not come to its end has left."""
    for path in self._directory.glob('ckpt-*_temp*'):
      shutil.rmtree(path, ignore_errors=True)

  def on_train_begin(self, logs=None):
    """Keras hook: reports, before any work, where nothing could be written."""
    if not self._is_chief:
      return
    slots = [v.value for v in self._model.optimizer.variables]
    needed = sum(
      variable.dtype.size * variable.shape.num_elements()
      for variable in self._model.variables + slots
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
    if self._epoch_to_resume:
      whole = tf.train.Checkpoint(metrics=self._metrics)
      whole.restore(self._epoch_to_resume).expect_partial()
      self._epoch_to_resume = None

  def on_train_batch_end(self, batch, logs=None):
    """Keras hook."""
    if self.step % self._every == 0:
      self.save()


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


def _newest_first(directory):
  """Paths of checkpoints: those that have an index, by step."""
  found = {}
  for path in directory.glob('ckpt-*.index'):
    match = re.fullmatch(r'ckpt-(\d+)', path.stem)
    if match:
      found[int(match[1])] = os.fspath(path.with_suffix(''))
  return [found[step] for step in sorted(found, reverse=True)]


def _read_through(path):
  """Reads all of a checkpoint, which checks the sums that it holds."""
  reader = tf.train.load_checkpoint(path)
  for name in reader.get_variable_to_shape_map():
    reader.get_tensor(name)
