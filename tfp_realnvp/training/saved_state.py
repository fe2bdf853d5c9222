"""SavedState: what a checkpoint of a `DensityEstimator` holds."""

import json
from typing import Any

from absl import logging
import tensorflow as tf

from tfp_realnvp.training import checkpoint_files
from tfp_realnvp.training import density_estimator
from tfp_realnvp.training import optimizer_state

__all__ = ['SavedState']


class SavedState:
  """Variables of a model and its optimizer, to write and to restore.

  The optimizer is the one that the model is compiled with at the time of the
  call. Learning rates are not saved as variables but beside them, so that a
  checkpoint can be restored with a schedule instead of a number, or the other
  way round.
  """

  def __init__(self, model: density_estimator.DensityEstimator):
    """Initializes SavedState.

    Args:
      model: `DensityEstimator`, compiled.
    """
    self._model = model
    self._compiled = None, []  # The optimizer, and its learning rates.
    self._compiled_rates()

  def checkpoint(self) -> tf.train.Checkpoint:
    """Returns the objects to save, described by a string of JSON."""
    model = self._model
    return tf.train.Checkpoint(
      description=checkpoint_files.Description(json.dumps(self._describe())),
      distribution=model.distribution,
      optimizer=optimizer_state.slots(model.optimizer),
      metrics=self.metrics(),
      counters=[model.step, model.state.skipped_in_a_row],
      seeds=model.state.seeds,
    )

  def metrics(self) -> tf.train.Checkpoint:
    """Returns the variables of the metrics, which are part of `checkpoint`."""
    metrics = self._model.metrics
    return tf.train.Checkpoint(
      variables=[v.value for m in metrics for v in m.variables]
    )

  def is_in(self, path: str) -> bool:
    """Returns whether a checkpoint has the values of now, metrics aside."""
    return checkpoint_files.has_values(
      path, self.checkpoint(), self._describe()
    )

  def restore(self, path: str) -> None:
    """Restores a checkpoint, after a check of all of it.

    A learning rate or a seed that the program has chosen stays; see
    `Checkpoints`.

    Args:
      path: Path of an undamaged checkpoint.

    Raises:
      ValueError: If it is of another model or another optimizer. Nothing has
        been restored then.
    """
    model = self._model
    rates = optimizer_state.learning_rates(model.optimizer)
    # A rate assigned between `compile` and the first step is a choice of the
    # user, too. Later ones may come from callbacks.
    if not int(model.step.numpy()):
      self._compiled = model.optimizer, optimizer_state.values(rates)
    checkpoint = self.checkpoint()
    seeds = model.state.seeds.numpy()
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
      logging.warning(
        'Checkpoint %s is of a model compiled with the learning rates %s; '
        'going on with %s.',
        path,
        saved['compiled_learning_rates'],
        self._compiled_rates(),
      )
    if model.state.seed is not None:
      if (seeds != model.state.seeds.numpy()).any():
        logging.warning(
          'Checkpoint %s is of a model of another seed; going on with %s.',
          path,
          model.state.seed,
        )
      model.state.seeds.assign(seeds)

  def _describe(self) -> dict[str, Any]:
    """Returns what is saved of the optimizer beside its variables."""
    optimizer = self._model.optimizer
    rates = optimizer_state.learning_rates(optimizer)
    return {
      'optimizer': optimizer_state.class_name(optimizer),
      'slots': sorted(optimizer_state.slots(optimizer)),
      'compiled_learning_rates': self._compiled_rates(),
      'learning_rates': optimizer_state.values(rates),
    }

  def _compiled_rates(self) -> list[float]:
    """Returns the learning rates that the optimizer was first seen with."""
    optimizer = self._model.optimizer
    if self._compiled[0] is not optimizer:
      self._compiled = (
        optimizer,
        optimizer_state.values(optimizer_state.learning_rates(optimizer)),
      )
    return self._compiled[1]
