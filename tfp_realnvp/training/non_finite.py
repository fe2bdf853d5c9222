"""Training steps that are not finite: how to detect and undo them."""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.training import distribution_model

__all__ = ['apply_or_undo', 'is_finite', 'raise_after_skipped']


def is_finite(loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns whether a step can be taken, a boolean scalar.

  Gradients must have finite squares, because clipping and Adam use these.

  Args:
    loss: Scalar, of the global batch.
    gradients: Gradients of `loss`.
  """
  squares = [tf.cast(2 * tf.nn.l2_loss(g), loss.dtype) for g in gradients]
  return tf.math.is_finite(loss + tf.add_n(squares))


def apply_or_undo(
  is_applied: tf.Tensor,
  model: keras.Model,
  gradients: Sequence[tf.Tensor],
  before: Sequence[tf.Tensor],
) -> None:
  """Applies gradients, or undoes the changes of the moving statistics.

  Args:
    is_applied: Boolean scalar, the same in all replicas.
    model: Compiled model.
    gradients: Gradients of the global batch for `model.trainable_variables`,
      the same in all replicas.
    before: Values of `model.non_trainable_variables` before the step.
  """
  optimizer = model.optimizer
  variables = [
    distribution_model.OptimizerVariable(v) for v in model.trainable_variables
  ]
  # Keras clips gradients and then sums them over replicas, so all but the
  # first replica contribute zeros.
  replica = tf.distribute.get_replica_context()
  if replica.num_replicas_in_sync > 1:
    is_first = tf.equal(replica.replica_id_in_sync_group, 0)
    gradients = [g * tf.cast(is_first, g.dtype) for g in gradients]

  def undo(gradients: Sequence[tf.Tensor], before: Sequence[tf.Tensor]) -> None:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
      # It only lowers its scale.
      optimizer.apply([g * math.nan for g in gradients], variables)
    for variable, value in zip(model.non_trainable_variables, before):
      variable.assign(value)

  def apply(
    gradients: Sequence[tf.Tensor], before: Sequence[tf.Tensor]
  ) -> None:
    del before
    optimizer.apply(gradients, variables)

  def update(
    strategy: tf.distribute.Strategy, is_applied: tf.Tensor, *args: Any
  ) -> None:
    run = strategy.extended.call_for_each_replica
    (is_applied, *_) = strategy.experimental_local_results(is_applied)
    tf.cond(is_applied, lambda: run(apply, args), lambda: run(undo, args))

  # `merge_call` is not allowed inside `tf.cond`, so merge first and branch in
  # the cross-replica context.
  replica.merge_call(update, args=(is_applied, gradients, before))


def raise_after_skipped(
  train_function: Callable,
  model: keras.Model,
  max_skipped: int,
  num_levels: int | None,
) -> Callable:
  """Wraps a train function so that too many skipped steps in a row raise.

  The counter of skipped steps is only read when it can have reached the limit,
  because reading it takes as long as a step of a small flow.

  Args:
    train_function: Function from an iterator to logs.
    model: `DensityEstimator`.
    max_skipped: How many steps in a row may be skipped.
    num_levels: See `DensityEstimator`.
  """
  steps_until_check = 0

  def checked(iterator: Any) -> dict[str, tf.Tensor]:
    nonlocal steps_until_check
    logs = train_function(iterator)
    steps_until_check -= model.steps_per_execution
    if steps_until_check > 0:
      return logs
    in_a_row = model.state.skipped_in_a_row
    steps_until_check = max_skipped - int(in_a_row.numpy())
    if steps_until_check <= 0:
      in_a_row.assign(0)
      raise FloatingPointError(
        _skipped_message(model.step.numpy(), max_skipped, num_levels)
      )
    return logs

  return checked


def _skipped_message(step: int, skipped: int, num_levels: int | None) -> str:
  """Returns the error message for too many skipped steps in a row.

  Args:
    step: The step at which training stopped.
    skipped: How many steps were skipped.
    num_levels: See `DensityEstimator`.
  """
  message = (
    f'Training stopped at step {step}: {skipped} batches in a row, '
    '`max_skipped_in_a_row`, had a loss that is not finite or a gradient '
    'whose square is not, and were skipped. Weights, moments and statistics '
    'are those before these batches. A lower learning rate may help'
  )
  if num_levels is None:
    return message + '; so does data without NaN.'
  return message + (
    f'; pixels that are NaN, outside [0, {num_levels}) or scaled to [0, 1] '
    'also count as not finite.'
  )
