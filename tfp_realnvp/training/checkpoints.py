"""Checkpoints: training that is stopped anywhere goes on as if it were not."""

import json
import os
import pathlib
import tempfile
from typing import Any

from absl import logging
import keras
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.training import checkpoint_files
from tfp_realnvp.training import density_estimator
from tfp_realnvp.training import optimizer_state

__all__ = ['Checkpoints']


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
    self._every = util.check_int(every, 'every')
    self._max_to_keep = util.check_int(max_to_keep, 'max_to_keep')
    self._metrics_to_resume = None
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
  def step(self) -> int:
    """`int`, the step that the model is at."""
    return int(self._estimator.step.numpy())

  @property
  def is_chief(self) -> bool:
    """Whether this process is the one that writes files for all workers."""
    return self._is_chief

  def restore(self, epoch_steps: int | None = None) -> str | None:
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
      checkpoint_files.remove_unfinished(self._directory)
    self._damaged = []
    for path in checkpoint_files.newest_first(self._directory):
      try:
        checkpoint_files.read_through(path)
      except Exception as error:  # The reader raises errors of many classes.
        logging.error('Checkpoint %s is damaged: %s', path, error)
        self._damaged.append(path)
        continue
      self._restore(path)
      logging.info('Going on from step %d of %s.', self.step, path)
      self._newest = path
      if epoch_steps and self.step % epoch_steps:
        # The checkpoint may be removed before `fit` begins.
        variables = self._metrics().variables
        self._metrics_to_resume = [v.numpy() for v in variables]
      return path
    if self._damaged:
      raise ValueError(
        f'Every checkpoint in {self._directory} is damaged: {self._damaged}. '
        'Move them away to start anew.'
      )
    return None

  def save(self) -> None:
    """Writes a checkpoint, unless the last one has the same values.

    Metrics alone are no reason to write: evaluation changes them.

    Raises:
      OSError: If it cannot be written; those before are not touched.
    """
    checkpoint = self._checkpoint()
    if self._is_saved(checkpoint):
      return
    step = self.step
    name, number = checkpoint_files.next_name(
      self._written_to, step, self._damaged
    )
    try:
      self._written_to.mkdir(parents=True, exist_ok=True)
      with checkpoint_files.without_wildcards(self._written_to) as directory:
        manager = tf.train.CheckpointManager(
          checkpoint, directory, self._max_to_keep, checkpoint_name=name
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

  def _checkpoint(self):
    """Returns what is saved, of the model as it is compiled now."""
    model = self._estimator
    return tf.train.Checkpoint(
      description=checkpoint_files.Description(json.dumps(self._describe())),
      distribution=model.distribution,
      optimizer=optimizer_state.slots(model.optimizer),
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
    rates = optimizer_state.learning_rates(optimizer)
    return {
      'optimizer': optimizer_state.class_name(optimizer),
      'slots': sorted(optimizer_state.slots(optimizer)),
      'compiled_learning_rates': self._compiled_rates(),
      'learning_rates': optimizer_state.values(rates),
    }

  def _compiled_rates(self):
    """Returns the learning rates that the optimizer was first seen with."""
    optimizer = self._estimator.optimizer
    if self._compiled[0] is not optimizer:
      self._compiled = (
        optimizer,
        optimizer_state.values(optimizer_state.learning_rates(optimizer)),
      )
    return self._compiled[1]

  def _restore(self, path):
    """Restores a checkpoint, after all of it has been checked."""
    model = self._estimator
    rates = optimizer_state.learning_rates(model.optimizer)
    # A value that was assigned between `compile` and the first step is a choice
    # of the user, too; later ones may be those of callbacks.
    if not self.step:
      self._compiled = model.optimizer, optimizer_state.values(rates)
    checkpoint = self._checkpoint()
    seeds = model.seeds.numpy()
    with checkpoint_files.readable(path) as readable:
      reader = tf.train.load_checkpoint(readable)
      saved = checkpoint_files.check_optimizer(path, reader, self._describe())
      checkpoint_files.check_variables(
        path,
        reader,
        checkpoint_files.matches(readable, reader, checkpoint),
        checkpoint,
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
    if self._newest is None:
      return False
    step, _ = checkpoint_files.number(self._newest)
    return step == self.step and checkpoint_files.has_values(
      self._newest, checkpoint, self._describe()
    )

  def on_train_begin(self, logs: Any = None) -> None:
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
    checkpoint_files.check_space(
      self._directory, self._estimator.variables + slots
    )

  def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
    """Keras hook: Keras has just set the metrics to 0."""
    self._epoch = epoch
    if self._metrics_to_resume:
      variables = self._metrics().variables
      for variable, value in zip(variables, self._metrics_to_resume):
        variable.assign(value)
      self._metrics_to_resume = None

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    """Keras hook: saves every `every` steps."""
    last_step, self._last_step = self._last_step, self.step
    if self._last_step // self._every == last_step // self._every:
      return
    # After the last batch Keras sets the weights to averages.
    self._is_due = optimizer_state.averages_weights(
      self._estimator.optimizer
    ) and (
      (self._epoch + 1, batch + 1)
      == (self.params['epochs'], self.params['steps'])
    )
    if not self._is_due:
      self.save()

  def on_train_end(self, logs: Any = None) -> None:
    """Keras hook: saves weights that Keras has changed since the last batch."""
    saved_step = self._newest and checkpoint_files.number(self._newest)[0]
    if self._is_due or saved_step == self.step:
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
