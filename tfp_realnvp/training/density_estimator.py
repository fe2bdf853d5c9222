"""DensityEstimator: the Keras model that fits any tfd.Distribution."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import math
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.training import distribution_model
from tfp_realnvp.training import likelihood
from tfp_realnvp.training import metrics
from tfp_realnvp.training import non_finite
from tfp_realnvp.training import reestimation
from tfp_realnvp.training import training_state

tfd = tfp.distributions

__all__ = ['DensityEstimator']


class DensityEstimator(distribution_model.DistributionModel):
  """Fits a `tfd.Distribution` by maximum likelihood, with Keras.

  Batches are `x`, `(x, condition)` or `(x, condition, sample_weight)`, in the
  places of Keras's `x`, `y` and `sample_weight`, with shapes `[N] +
  event_shape`, `[N, K]` and `[N]`. Pixels, integer or float, are dequantized
  with fresh uniform noise on `[0, 1)`, in evaluation too. The loss is the mean
  of `-log_prob` over the batch, in nats, plus the L2 term. Keras reports

  - `loss`;
  - `bits_per_dim`, the mean over the events;
  - `non_finite`: how many events, of any weight but 0, had a log-likelihood of
    NaN or infinity. They are not left out of the means.

  Means and batch statistics are weighted by `sample_weight`: an event of weight
  2 counts as two events, one of weight 0 not at all. Keras's own
  `BatchNormalization` layers ignore weights.

  A training batch is skipped if its loss or a gradient is not finite, as with
  pixels that are NaN, out of range or scaled to `[0, 1]`: weights, optimizer
  and moving statistics stay as they were. Its events count as `non_finite` and
  are left out of the means. Training ends with an error after
  `max_skipped_in_a_row` such batches.
  In evaluation, such pixels are an error.

  Training passes `training=True` to every `FlowBijector` that the distribution
  holds, so batch normalization uses batch statistics; evaluation uses moving
  statistics. Compile without a loss:

  ```python
  model = DensityEstimator(dist, l2_coefficient=5e-5,
                           l2_variables=flow.scale_parameters)
  model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=100.))
  model.fit(uint8_images, batch_size=64, epochs=10)
  model.evaluate(held_out_images, return_dict=True)
  model.predict(held_out_images)                   # log-likelihoods, in nats
  ```

  Labels as a condition need one-hot encoding: `model.fit(images,
  tf.one_hot(labels, 10))`, then `model.predict((images, one_hot))`. Keras's
  callbacks have to be told that less is better, as in
  `keras.callbacks.EarlyStopping('val_bits_per_dim', mode='min')`.

  With a `tf.distribute.Strategy`, build the flow and the model and compile in
  its scope, and fit on global batches. Loss, gradients, clipping and metrics
  are those of the global batch, however it is divided; so are batch statistics
  with `synchronized=True`.

  For networks in float16, compile with a `keras.optimizers.LossScaleOptimizer`
  around the optimizer.
  """

  def __init__(
    self,
    distribution: tfd.Distribution,
    num_levels: int | None = 256,
    l2_coefficient: float = 0.0,
    l2_variables: Sequence[tf.Variable] = (),
    max_skipped_in_a_row: int = 20,
    seed: int | None = None,
    name: str = 'density_estimator',
  ):
    """Initializes DensityEstimator.

    Args:
      distribution: `tfd.Distribution` with a fully known event shape and no
        batch dimensions. The model's variables are the distribution's.
      num_levels: `int`, how many values an integer pixel can take: `x` must be
        on `[0, num_levels)`, not scaled to `[0, 1]`, and noise replaces the
        fractions of float pixels. `None` for continuous data, which is used as
        it is.
      l2_coefficient: `float`, factor of the sum of squares of `l2_variables` in
        the loss.
      l2_variables: Variables, such as `RealNVPChain.scale_parameters`.
      max_skipped_in_a_row: `int`, how many batches in a row may be skipped
        before training raises a `FloatingPointError`.
      seed: `int`, seed of the noise; `None` for a random one.
      name: Name of the model.

    Raises:
      TypeError: If `distribution` is not a `tfd.Distribution`, or holds a flow
        that `training` or `condition` cannot reach, as in a `tfd.Mixture`.
      ValueError: If its event shape is not known, it has batch dimensions, or
        `num_levels` or `max_skipped_in_a_row` is not an int of at least 1.
    """
    likelihood_ = likelihood.Likelihood(distribution, num_levels)
    max_skipped_in_a_row = util.check_int(
      max_skipped_in_a_row, 'max_skipped_in_a_row'
    )
    super().__init__(distribution, is_continuous=num_levels is None, name=name)
    self._likelihood = likelihood_
    self._num_levels = num_levels
    self._l2_coefficient = l2_coefficient
    self._l2_variables = tuple(l2_variables)
    self._max_skipped_in_a_row = max_skipped_in_a_row
    self._seed_generator = keras.random.SeedGenerator(seed)
    self._state = training_state.TrainingState(seed)
    self._metrics_of_batches = metrics.LikelihoodMetrics(distribution)
    self._reestimation = reestimation.Reestimation(
      distribution, self._statistics_step, self.distribute_strategy
    )

  @property
  def state(self) -> training_state.TrainingState:
    """Counters and seeds, from which the noise of the next step follows."""
    return self._state

  @property
  def step(self) -> tf.Variable:
    """`tf.Variable`: batches of training so far, skipped ones included."""
    return self._state.step

  @property
  def metrics(self) -> list[keras.Metric]:
    return self._metrics_of_batches.metrics

  def wrap_train_function(self, function: Callable) -> Callable:
    """Returns a step that raises after too many skipped ones in a row."""
    return non_finite.raise_after_skipped(
      function, self, self._max_skipped_in_a_row, self._num_levels
    )

  def save_own_variables(self, store: Any) -> None:
    """Keras hook: writes the distribution's variables, and `step`."""
    super().save_own_variables(store)
    store['step'] = self.step.numpy()

  def load_own_variables(self, store: Any) -> None:
    """Keras hook: reads what `save_own_variables` wrote."""
    super().load_own_variables(store)
    if 'step' in store:  # Earlier versions did not write it.
      self.step.assign(store['step'])

  def reset_metrics(self) -> None:
    """Keras hook: sets the metrics back; evaluation noise starts again."""
    super().reset_metrics()
    self._state.test_step.assign(0)

  def call(
    self, x: Any, condition: Any = None, training: bool = False
  ) -> tf.Tensor:
    """Returns the log-likelihood of dequantized `x`: `[N]`, in nats."""
    x, condition, _ = self._likelihood.unpack((x, condition))
    x = self._likelihood.assert_on_range(x)
    seed = self._seed_generator.next()
    return self._likelihood.log_prob(x, condition, seed, training)

  def train_step(self, data: Any) -> dict[str, tf.Tensor]:
    """Keras hook: one step, or none if it is not finite."""
    x, condition, weight = self._likelihood.unpack(data)
    variables = self.trainable_variables
    replica = tf.distribute.get_replica_context()
    total = functools.partial(replica.all_reduce, tf.distribute.ReduceOp.SUM)
    before = [tf.identity(v) for v in self.non_trainable_variables]
    seed = self._state.train_seed()
    with tf.GradientTape() as tape:
      log_prob = self._likelihood.log_prob(x, condition, seed, True, weight)
      log_prob = tf.where(self._likelihood.is_on_range(x), log_prob, math.nan)
      weights = tf.ones_like(log_prob) if weight is None else weight
      # Replicas may have parts of the batch that differ in size, or are empty.
      total_weight = total(tf.reduce_sum(weights))
      loss = -tf.math.divide_no_nan(
        tf.reduce_sum(weights * log_prob), total_weight
      )
      loss += self._l2_term() / replica.num_replicas_in_sync
      # A `keras.optimizers.LossScaleOptimizer`, for float16, undoes it later.
      scaled_loss = self.optimizer.scale_loss(loss)
    zero = tf.UnconnectedGradients.ZERO
    gradients = total(
      tape.gradient(scaled_loss, variables, unconnected_gradients=zero)
    )
    finite = non_finite.is_finite(total(loss), gradients)
    # After too many in a row, steps do nothing until `make_train_function`'s
    # wrapper raises, which may be several steps later.
    in_a_row = self._state.skipped_in_a_row
    skipped = ~finite | (in_a_row >= self._max_skipped_in_a_row)
    is_applied = ~skipped & (total_weight > 0)
    non_finite.apply_or_undo(is_applied, self, gradients, before)
    self._state.count_step(skipped)
    return self._metrics_of_batches.update(
      log_prob, weight, self._l2_term(), skipped
    )

  def test_step(self, data: Any) -> dict[str, tf.Tensor]:
    """Keras hook: the metrics of a batch, with the moving statistics."""
    x, condition, weight = self._likelihood.unpack(data)
    seed = self._state.test_seed()
    x = self._likelihood.assert_on_range(x)
    log_prob = self._likelihood.log_prob(x, condition, seed)
    self._state.test_step.assign_add(1)
    return self._metrics_of_batches.update(log_prob, weight, self._l2_term())

  def predict_step(self, data: Any) -> tf.Tensor:
    """Keras hook: log-likelihoods, in nats."""
    x, condition, _ = likelihood.split_batch(data)
    return self.call(x, condition)

  def reestimate_statistics(
    self,
    x: Any,
    condition: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
  ) -> None:
    """Sets the moving statistics to statistics of the final weights.

    During training the moving statistics trail behind the weights and hold only
    about `1 / (1 - momentum)` batches. One pass over the data in training mode
    sets them to those of all rows; it normalizes each batch by its statistics
    (Wu and Johnson, 2021). `num_updates` becomes the number of batches. A batch
    is left out, with a warning, if a statistic or a log-likelihood is not
    finite. No other variable changes, such as the state of Keras's `Dropout`,
    and after an error or an interrupt the moving statistics are what they were.

    Args:
      x: `[N] + event_shape`, training data; or a finite `tf.data.Dataset` of
        batches, `x`, `(x, condition)` or `(x, condition, sample_weight)`.
      condition: `[N, K]`, for a conditional flow, where `x` is an array.
      sample_weight: `[N]`, where `x` is an array.
      batch_size: Batch size if `x` is an array; 256 by default. Larger batches
        are closer to the statistics of the whole data set.

    Raises:
      TypeError: If `x`, `condition` or `sample_weight` is not of these types.
      ValueError: If `x` has no rows or is an infinite data set, if another
        argument does not fit `x`, or if the distribution has no moving
        statistics or shares some between layers.
      FloatingPointError: If no batch is finite.
    """
    self._reestimation.run(
      reestimation.as_dataset(x, condition, sample_weight, batch_size)
    )

  def _statistics_step(self, data: Any, index: tf.Tensor) -> tuple[Any, ...]:
    x, condition, weight = self._likelihood.unpack(data)
    x = self._likelihood.assert_on_range(x)
    seed = self._state.statistics_seed(index)
    return self._likelihood.log_prob(x, condition, seed, True, weight), weight

  def _l2_term(self) -> tf.Tensor | float:
    squares = [tf.reduce_sum(v**2) for v in self._l2_variables]
    return self._l2_coefficient * sum(squares)
