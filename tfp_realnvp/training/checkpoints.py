"""Checkpoints: saves and restores training, bit for bit."""

import os
import pathlib
import tempfile
from typing import Any

from absl import logging
import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.training import checkpoint_files
from tfp_realnvp.training import density_estimator
from tfp_realnvp.training import optimizer_state
from tfp_realnvp.training import saved_state

__all__ = ['Checkpoints']


class Checkpoints(keras.callbacks.Callback):
  """Saves everything that the training of a `DensityEstimator` depends on.

  A checkpoint holds the distribution's variables, moving statistics included,
  the optimizer, the counters and seeds of `DensityEstimator.state`, and the
  metrics of the epoch under way. If the order of the data depends on the step
  alone, a run that is stopped and restored takes the same steps as an
  uninterrupted one.

  ```python
  checkpoints = Checkpoints(model, 'runs/cifar10')
  checkpoints.restore(epoch_steps=1000)
  data = batches_from(start=checkpoints.step)
  model.fit(data, steps_per_epoch=1000 - checkpoints.step % 1000,
            callbacks=[checkpoints])
  ```

  The program's own choices have precedence over the checkpoint:

  - The learning rate. A model compiled with another learning rate than the
    saved run keeps its own. With the same one, the saved value is restored,
    which callbacks may have changed. A schedule continues at the optimizer's
    iterations, which are restored.
  - The seed of the model. The saved seeds are only restored if the model has
    `seed=None`.

  The model may be compiled again later: its optimizer at the time of saving or
  restoring is used.

  If a run is killed or the disk is full while a checkpoint is written, the
  earlier checkpoints stay intact. The checkpoint of step 6 is named `ckpt-6`, a
  later one of the same step `ckpt-6-1`. With `MultiWorkerMirroredStrategy` only
  the chief writes; all workers read from the directory, which they must share.
  """

  def __init__(
    self,
    model: density_estimator.DensityEstimator,
    directory: str | os.PathLike,
    every: int = 500,
    max_to_keep: int = 3,
  ):
    """Initializes Checkpoints.

    Args:
      model: `DensityEstimator`, compiled.
      directory: Directory to write checkpoints to and restore them from.
      every: `int`, steps between checkpoints. With `steps_per_execution`, the
        first execution that reaches a multiple of `every` is followed by one.
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
    self._every = util.check_int(every, 'every')
    self._max_to_keep = util.check_int(max_to_keep, 'max_to_keep')
    self._saved = saved_state.SavedState(model)
    self._metrics_to_resume = None
    self._damaged = []
    self._newest = None  # Path of the last one written or restored.
    self._last_step = self.step
    self._epoch = 0
    self._is_due = False  # Whether to save at the end of `fit`.
    self._is_chief = _is_chief(model.distribute_strategy)
    self._written_to = self._directory
    if not self._is_chief:
      # All workers have to take part in saving, but only one keeps the result.
      self._scratch = tempfile.TemporaryDirectory()
      self._written_to = pathlib.Path(self._scratch.name)

  @property
  def step(self) -> int:
    """`int`, the step that the model is at."""
    return int(self._estimator.step.numpy())

  @property
  def is_chief(self) -> bool:
    """Whether this process is the one that writes files for all workers."""
    return self._is_chief

  def restore(self, epoch_steps: int | None = None) -> str | None:
    """Restores the newest undamaged checkpoint.

    Checkpoints that are damaged or hold values that are not finite are logged
    and skipped. If an error is raised, nothing
    has been restored.

    Args:
      epoch_steps: `int`, steps of an epoch. If the checkpoint is from the
        middle of an epoch, the first epoch of `fit` continues its metrics.

    Returns:
      The path of the checkpoint, or `None` if there is none.

    Raises:
      ValueError: If all checkpoints are damaged, or if the newest undamaged one
        is of another model or another optimizer.
    """
    if self._is_chief:
      checkpoint_files.remove_unfinished(self._directory)
    self._damaged = []
    for path in checkpoint_files.newest_first(self._directory):
      try:
        checkpoint_files.read_through(path)
      except Exception as error:  # The reader raises errors of many classes.
        logging.error('Checkpoint %s is damaged: %s', path, error)
        self._damaged.append(path)
        continue
      self._saved.restore(path)
      logging.info('Going on from step %d of %s.', self.step, path)
      self._newest = path
      if epoch_steps and self.step % epoch_steps:
        # The checkpoint may be removed before `fit` begins.
        variables = self._saved.metrics().variables
        self._metrics_to_resume = [v.numpy() for v in variables]
      return path
    if self._damaged:
      raise ValueError(
        f'Every checkpoint in {self._directory} is damaged: {self._damaged}. '
        'Move them away to start again.'
      )
    return None

  def save(self) -> None:
    """Writes a checkpoint, unless the last one has the same values.

    Metrics are not compared, because evaluation changes them.

    Raises:
      OSError: If it cannot be written. Earlier checkpoints stay intact.
      FloatingPointError: If a variable of the model or of its optimizer has
        values that are not finite. No checkpoint is written then.
    """
    step = self.step
    is_of_step = (
      self._newest and checkpoint_files.number(self._newest)[0] == step
    )
    if is_of_step and self._saved.is_in(self._newest):
      return
    self._check_finite()
    name, number = checkpoint_files.next_name(
      self._written_to, step, self._damaged
    )
    try:
      self._written_to.mkdir(parents=True, exist_ok=True)
      with checkpoint_files.without_wildcards(self._written_to) as directory:
        manager = tf.train.CheckpointManager(
          self._saved.checkpoint(),
          directory,
          self._max_to_keep,
          checkpoint_name=name,
        )
        manager.save(checkpoint_number=number)
    except tf.errors.OpError as error:
      checkpoint_files.remove_unfinished(self._directory)
      raise OSError(
        f'The checkpoint of step {step} could not be written to '
        f'{self._directory}: {error.message} The newest one there is '
        f'{next(iter(checkpoint_files.newest_first(self._directory)), None)}.'
      ) from error
    self._newest = os.fspath(self._written_to / f'{name}-{number}')

  def _variables(self) -> list[tf.Variable]:
    """Returns those of the model and of its optimizer."""
    slots = [v.value for v in self._estimator.optimizer.variables]
    return self._estimator.variables + slots

  def _check_finite(self) -> None:
    """Raises a `FloatingPointError` unless all that is trained is finite."""
    for variable in self._variables():
      if not np.all(np.isfinite(variable.numpy())):
        raise FloatingPointError(
          f'Step {self.step} is not saved, because {variable.name} has values '
          'that are not finite. A lower learning rate may help.'
        )

  def on_train_begin(self, logs: Any = None) -> None:
    """Keras hook: checks before any work that checkpoints can be written."""
    del logs
    if self.model is not self._estimator:
      raise ValueError(
        f'`Checkpoints` of the model {self._estimator!r} is a callback of '
        f'another one, {self.model!r}.'
      )
    self._last_step = self.step
    self._is_due = False
    if not self._is_chief:
      return
    checkpoint_files.check_space(self._directory, self._variables())

  def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
    """Keras hook: restores the metrics, which Keras has just reset."""
    del logs
    self._epoch = epoch
    if self._metrics_to_resume:
      variables = self._saved.metrics().variables
      for variable, value in zip(variables, self._metrics_to_resume):
        variable.assign(value)
      self._metrics_to_resume = None

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    """Keras hook: saves every `every` steps."""
    del logs
    last_step, self._last_step = self._last_step, self.step
    if self._last_step // self._every == last_step // self._every:
      return
    # After the last batch, Keras sets the weights to averages.
    self._is_due = optimizer_state.averages_weights(
      self._estimator.optimizer
    ) and (
      (self._epoch + 1, batch + 1)
      == (self.params['epochs'], self.params['steps'])
    )
    if not self._is_due:
      self.save()

  def on_train_end(self, logs: Any = None) -> None:
    """Keras hook: saves weights that have changed since the last batch."""
    del logs
    saved_step = self._newest and checkpoint_files.number(self._newest)[0]
    if self._is_due or saved_step == self.step:
      self.save()


def _is_chief(strategy: tf.distribute.Strategy) -> bool:
  resolver = strategy.cluster_resolver
  if resolver is None or not resolver.task_type:
    return True
  has_chief = 'chief' in resolver.cluster_spec().jobs
  return (
    resolver.task_type == 'chief'
    or not has_chief
    and (resolver.task_type, resolver.task_id) == ('worker', 0)
  )
