"""Steps that are not finite: found, and taken back."""

from collections.abc import Sequence
import math

import keras
import tensorflow as tf

from tfp_realnvp.training import distribution_model

__all__ = ['apply_or_undo', 'is_finite', 'skipped_message']


def is_finite(loss: tf.Tensor, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
  """Returns whether a step can be taken: a boolean scalar.

  Clipping and Adam need the squares of gradients, which overflow first.

  Args:
    loss: Scalar, of the whole batch.
    gradients: Those of the whole batch.
  """
  squares = [tf.cast(2 * tf.nn.l2_loss(g), loss.dtype) for g in gradients]
  return tf.math.is_finite(loss + tf.add_n(squares))


def apply_or_undo(
  is_applied: tf.Tensor,
  model: keras.Model,
  gradients: Sequence[tf.Tensor],
  before: Sequence[tf.Tensor],
) -> None:
  """Applies gradients, or takes back what the step did to the statistics.

  Args:
    is_applied: Boolean scalar, the same in all replicas.
    model: The model, compiled.
    gradients: Those of the whole batch for `model.trainable_variables`, the
      same in all replicas.
    before: The values of `model.non_trainable_variables` before the step.
  """
  optimizer = model.optimizer
  variables = [
    distribution_model.OptimizerVariable(v) for v in model.trainable_variables
  ]
  # Keras clips gradients first, then sums those of all replicas.
  replica = tf.distribute.get_replica_context()
  if replica.num_replicas_in_sync > 1:
    is_first = tf.equal(replica.replica_id_in_sync_group, 0)
    gradients = [g * tf.cast(is_first, g.dtype) for g in gradients]

  def undo(gradients, before):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
      # It lowers its scale, and does no more.
      optimizer.apply([g * math.nan for g in gradients], variables)
    for variable, value in zip(model.non_trainable_variables, before):
      variable.assign(value)

  def apply(gradients, before):
    del before
    optimizer.apply(gradients, variables)

  def update(strategy, is_applied, *args):
    run = strategy.extended.call_for_each_replica
    (is_applied, *_) = strategy.experimental_local_results(is_applied)
    tf.cond(is_applied, lambda: run(apply, args), lambda: run(undo, args))

  # `merge_call` is not allowed inside `tf.cond`, so merge first and branch in
  # the cross-replica context.
  replica.merge_call(update, args=(is_applied, gradients, before))


def skipped_message(step: int, skipped: int, num_levels: int | None) -> str:
  """Returns what to tell when too many steps in a row were skipped.

  Args:
    step: Step that training stopped at.
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
    f'; pixels that are NaN or outside [0, {num_levels}) also have no finite '
    'loss.'
  )
