"""TrainingState: what a `DensityEstimator` counts, and its seeds."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util

__all__ = ['TrainingState']


class TrainingState(tf.Module):
  """Counters, and the seeds of the noise of training and evaluation.

  The noise of a step follows from the seeds and the counters, so a model with
  the state of another one draws the same noise.

  Attributes:
    seed: The `int` that the seeds come from, or `None` if they are random.
    seeds: Variable of three stateless seeds: of training, of evaluation and of
      the re-estimation of statistics.
    step: Variable, batches of training so far, skipped ones included.
    test_step: Variable, batches of the evaluation under way.
    skipped_in_a_row: Variable, how many of the last batches were skipped.
  """

  def __init__(self, seed: int | None):
    """Initializes TrainingState.

    Args:
      seed: `int`, or `None` for random seeds.
    """
    super().__init__(name='training_state')
    self.seed = seed
    # int64, because GPUs have no int32 variables; the noise is the same.
    seeds = tfp.random.split_seed(util.stateless_seed(seed), n=3)
    self.seeds = _variable(tf.cast(seeds, tf.int64), 'seeds')
    zero = tf.zeros([], tf.int64)
    self.step = _variable(zero, 'step')
    self.test_step = _variable(zero, 'test_step')
    self.skipped_in_a_row = _variable(zero, 'skipped_in_a_row')

  def train_seed(self) -> tf.Tensor:
    """Returns the seed of the training step that comes next."""
    return tf.random.fold_in(self.seeds[0], self.step)

  def test_seed(self) -> tf.Tensor:
    """Returns the seed of the batch of evaluation that comes next."""
    return tf.random.fold_in(self.seeds[1], self.test_step)

  def statistics_seed(self, index: tf.Tensor) -> tf.Tensor:
    """Returns the seed of the batch `index` of a re-estimation."""
    return tf.random.fold_in(self.seeds[2], index)

  def count_step(self, skipped: tf.Tensor) -> None:
    """Counts a batch of training.

    Args:
      skipped: Boolean scalar.
    """
    # In a graph, the counters would also move when no batch is left to read.
    with tf.control_dependencies([skipped]):
      self.step.assign_add(1)
    in_a_row = self.skipped_in_a_row
    in_a_row.assign(tf.where(skipped, in_a_row + 1, tf.zeros_like(in_a_row)))


def _variable(value: tf.Tensor, name: str) -> tf.Variable:
  return tf.Variable(
    value,
    trainable=False,
    name=name,
    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
  )
