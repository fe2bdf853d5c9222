"""DensityEstimator: the Keras model that fits any tfd.Distribution."""

import functools
import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import flow_bijector
from tfp_realnvp import moving_statistics
from tfp_realnvp import network
from tfp_realnvp import pixels
from tfp_realnvp import reestimation

tfd = tfp.distributions

__all__ = ['DensityEstimator', 'bits_per_dim']


def bits_per_dim(log_prob, event_shape):
  """Returns the negative log-likelihood in bits per dimension.

  `-log_prob / (D ln 2)`, where `D` is the number of elements of an event. For a
  density on pixels that are integers plus uniform noise on `[0, 1)` it bounds
  the bits per dimension of the integers from above (Theis et al., 2016).

  Args:
    log_prob: `Tensor`, in nats.
    event_shape: Shape of one event, such as `(32, 32, 3)`.

  Returns:
    `Tensor` like `log_prob`.

  Raises:
    ValueError: If `event_shape` is not fully known or has no elements.
  """
  num_elements = tf.TensorShape(event_shape).num_elements()
  if not num_elements:
    raise ValueError(
      '`event_shape` must be fully known and have elements, got '
      f'{event_shape!r}.'
    )
  return log_prob / (-math.log(2) * num_elements)


class DensityEstimator(keras.Model):
  """Fits a `tfd.Distribution` by maximum likelihood, with Keras.

  Batches are `x` or `(x, condition)`, `x` of the shape `[N] + event_shape`.
  Pixels, integer or float, are dequantized on the device with fresh uniform
  noise on `[0, 1)`, in evaluation too. The loss is the mean over the batch of
  `-log_prob`, in nats, plus the L2 term; Keras reports

  - `loss`;
  - `bits_per_dim`, the mean over the images;
  - `non_finite`: how many images had a log-likelihood of NaN or infinity. They
    are not left out of the means.

  In training, a batch with a loss or a gradient that is not finite is skipped:
  weights, moments of the optimizer and moving statistics stay as they were. All
  its images count as `non_finite`, and the means are without them. So a batch
  with pixels outside the range, or NaN, does not end training, as
  `max_skipped_in_a_row` of them do; in evaluation it is an error.

  Inside the scope of a `tf.distribute.Strategy`, build flow and model, compile,
  and fit on global batches. Loss, gradients, their clipping and metrics are
  those of the global batch, however it is divided; so is batch normalization
  with `synchronized=True`.

  Training passes `training=True` to the `FlowBijector`s of a
  `tfd.TransformedDistribution`, inside `tfb.Chain` and `tfb.Invert` too, so
  that batch normalization uses batch statistics; evaluation uses the moving
  ones. Compile without a loss:

  ```python
  model = DensityEstimator(dist, l2_coefficient=5e-5,
                           l2_variables=flow.scale_parameters)
  model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=100.))
  model.fit(uint8_images, batch_size=64, epochs=10)
  model.evaluate(held_out_images, return_dict=True)
  model.predict(held_out_images)                   # log-likelihoods, in nats
  ```

  Networks in float16 need their gradients scaled: compile with a
  `keras.optimizers.LossScaleOptimizer` around the optimizer.
  """

  def __init__(
    self,
    distribution,
    num_levels=256,
    l2_coefficient=0.0,
    l2_variables=(),
    max_skipped_in_a_row=20,
    seed=None,
    name='density_estimator',
  ):
    """Initializes DensityEstimator.

    Args:
      distribution: `tfd.Distribution` with a fully known event shape. The
        model's variables are the distribution's.
      num_levels: `int`, how many values an integer pixel can take: `x` must be
        on `[0, num_levels)`. A fraction that float pixels have is replaced by
        the noise. `None` for data that is continuous: it is used as it is.
      l2_coefficient: `float`, the L2 term is this times the sum of squares of
        `l2_variables`.
      l2_variables: Variables, such as `RealNVPChain.scale_parameters`.
      max_skipped_in_a_row: `int`, training stops with a `FloatingPointError`
        after so many batches in a row whose loss or gradient is not finite.
      seed: `int`, seed of the noise.
      name: Name of the model.

    Raises:
      TypeError: If `distribution` is no `tfd.Distribution`.
      ValueError: If its event shape is not known, or `num_levels` or
        `max_skipped_in_a_row` is no int of at least 1.
    """
    if not isinstance(distribution, tfd.Distribution):
      raise TypeError(
        f'`distribution` must be a tfd.Distribution, got {distribution!r}.'
      )
    if not distribution.event_shape.is_fully_defined():
      raise ValueError(
        '`distribution` must have a fully known event shape, got '
        f'{distribution.event_shape}.'
      )
    num_levels = flow_bijector.check_int(
      num_levels, 'num_levels', optional=True
    )
    max_skipped_in_a_row = flow_bijector.check_int(
      max_skipped_in_a_row, 'max_skipped_in_a_row'
    )
    super().__init__(name=name)
    self.distribution = distribution
    self._num_levels = num_levels
    self._l2_coefficient = l2_coefficient
    self._l2_variables = tuple(l2_variables)
    self._max_skipped_in_a_row = max_skipped_in_a_row
    self._seed_generator = keras.random.SeedGenerator(seed)
    # Of training, of evaluation, and of re-estimating statistics.
    self._seeds = tfp.random.split_seed(network.stateless_seed(seed), n=3)
    counter = lambda name: tf.Variable(
      tf.zeros([], tf.int64),
      trainable=False,
      name=name,
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    self._step = counter('step')
    self._test_step = counter('test_step')
    self._skipped_in_a_row = counter('skipped_in_a_row')
    self._loss = keras.metrics.Mean('loss')
    self._bits_per_dim = keras.metrics.Mean('bits_per_dim')
    self._non_finite = keras.metrics.Sum('non_finite')
    self.built = True

  @property
  def step(self):
    """`tf.Variable`: batches of training so far, skipped ones included.

    The noise of a step follows from it and the seed: a model with the variables
    and the optimizer of another, and its `step`, goes on as the other would.
    """
    return self._step

  @property
  def counters(self):
    """What training counts, as a tuple of `tf.Variable`s; `step` is first."""
    return self._step, self._skipped_in_a_row

  # The model's variables are the distribution's, whatever it is made of.

  @property
  def trainable_variables(self):
    return list(self.distribution.trainable_variables)

  @property
  def non_trainable_variables(self):
    return list(self.distribution.non_trainable_variables)

  @property
  def variables(self):
    return self.trainable_variables + self.non_trainable_variables

  trainable_weights = trainable_variables
  non_trainable_weights = non_trainable_variables
  weights = variables

  @property
  def metrics(self):
    return [self._loss, self._bits_per_dim, self._non_finite]

  def save_own_variables(self, store):
    """Keras hook: writes the distribution's variables."""
    for i, variable in enumerate(self.variables):
      store[str(i)] = variable.numpy()

  def load_own_variables(self, store):
    """Keras hook: reads what `save_own_variables` wrote."""
    shapes = [tuple(variable.shape) for variable in self.variables]
    stored = [tuple(store[str(i)].shape) for i in range(len(store))]
    if shapes != stored:
      raise ValueError(
        f'The weights are those of another model: {len(stored)} variables were '
        f'saved, {len(shapes)} are here, or their shapes differ.'
      )
    for i, variable in enumerate(self.variables):
      variable.assign(store[str(i)])

  def compile(self, optimizer='adam', jit_compile=False, **kwargs):
    """Configures the model for training; see `keras.Model.compile`.

    Args:
      optimizer: Keras optimizer, or its name.
      jit_compile: Python `bool`, whether to compile the steps with XLA, which
        draws other noise and drops the check that `x` holds pixels. Off by
        default: on a CPU the steps of `RealNVPChain` take longer with it.
      **kwargs: Those of `keras.Model.compile`, but `loss`.

    Raises:
      ValueError: If a `loss` is given.
    """
    if kwargs.get('loss') is not None:
      raise ValueError(
        '`loss` is the negative log-likelihood and cannot be chosen; got '
        f'{kwargs["loss"]!r}.'
      )
    super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
    self.optimizer.build(self.trainable_variables)

  def make_train_function(self, force=False):
    """Keras hook: a step that raises after too many skipped ones in a row."""
    if self.train_function is None or force:
      super().make_train_function(force)
      train_function = self.train_function

      def checked(iterator):
        logs = train_function(iterator)
        if self._skipped_in_a_row >= self._max_skipped_in_a_row:
          raise FloatingPointError(self._skipped_message())
        return logs

      self.train_function = checked

  def _maybe_symbolic_build(self, iterator=None, data_batch=None):
    """Nothing is left to build; Keras would average pixels over workers."""

  def reset_metrics(self):
    """Keras hook: sets the metrics back; evaluation noise starts again."""
    super().reset_metrics()
    self._test_step.assign(0)

  def call(self, x, condition=None, training=False):
    """Returns the log-likelihood of dequantized `x`: `[N]`, in nats."""
    x = self._assert_on_range(self._convert(x))
    seed = self._seed_generator.next()
    return self._log_prob(x, condition, seed, training)

  def train_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    x = self._convert(x)
    variables = self.trainable_variables
    if not variables:
      raise ValueError(
        f'`distribution` has no trainable variables, got {self.distribution!r}.'
      )
    replica = tf.distribute.get_replica_context()
    total = functools.partial(replica.all_reduce, tf.distribute.ReduceOp.SUM)
    before = [tf.identity(v) for v in self.non_trainable_variables]
    seed = tf.random.fold_in(self._seeds[0], self.step)
    with tf.GradientTape() as tape:
      log_prob = self._log_prob(x, condition, seed, training=True)
      log_prob = tf.where(self._is_on_range(x), log_prob, math.nan)
      # Replicas may have parts of the batch that differ in size, or are empty.
      count = tf.cast(total(tf.size(log_prob)), log_prob.dtype)
      loss = -tf.reduce_sum(log_prob) / count
      loss += self._l2_term() / replica.num_replicas_in_sync
      # A `keras.optimizers.LossScaleOptimizer`, for float16, undoes it later.
      scaled_loss = self.optimizer.scale_loss(loss)
    gradients = total(
      tape.gradient(
        scaled_loss,
        variables,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
      )
    )
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in gradients]
    finite = tf.reduce_all([tf.math.is_finite(total(loss)), *finite])
    self._apply_or_undo(finite, gradients, before)
    self.step.assign_add(1)
    self._skipped_in_a_row.assign(
      tf.where(finite, tf.zeros_like(self._step), self._skipped_in_a_row + 1)
    )
    return self._update_metrics(tf.where(finite, log_prob, 0), ~finite)

  def test_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    seed = tf.random.fold_in(self._seeds[1], self._test_step)
    x = self._assert_on_range(self._convert(x))
    log_prob = self._log_prob(x, condition, seed)
    self._test_step.assign_add(1)
    return self._update_metrics(log_prob)

  def predict_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    return self.call(x, condition)

  def reestimate_statistics(self, x, condition=None, batch_size=None):
    """Sets the moving statistics to those of the weights as they are now.

    In training they trail behind the weights, and hold about
    `1 / (1 - momentum)` batches. One pass over the data in training mode sets
    them to those of all rows; it normalizes each batch by the statistics of
    that batch (Wu and Johnson, 2021). `num_updates` becomes the number of
    batches, from which training goes on.

    Nothing else changes: moving statistics of Keras's `BatchNormalization`, the
    state of `Dropout`, and other variables of your networks stay as they are.
    After an error or an interrupt the moving statistics are what they were.
    All rows count the same, whatever their sample weights are. A batch with a
    statistic or a log-likelihood that is not finite is left out, with a
    warning.

    Args:
      x: `[N] + event_shape`, training data; or a finite `tf.data.Dataset` of
        batches, `x` or `(x, condition)`.
      condition: `[N, K]`, for a conditional flow, where `x` is an array.
      batch_size: `int`, where `x` is an array; 256 by default. Larger batches
        are closer to the statistics of the whole data set.

    Raises:
      TypeError: If `x` or `condition` is not of these types.
      ValueError: If `x` has no rows or is an infinite data set, if another
        argument does not fit `x`, or if the distribution has no moving
        statistics.
      FloatingPointError: If no batch is finite.
    """
    reestimation.reestimate_statistics(
      self.distribution,
      self._statistics_step,
      reestimation.as_dataset(x, condition, batch_size),
      self.distribute_strategy,
    )

  def _statistics_step(self, data, index):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    x = self._assert_on_range(self._convert(x))
    seed = tf.random.fold_in(self._seeds[2], index)
    return self._log_prob(x, condition, seed, training=True)

  def _apply_or_undo(self, finite, gradients, before):
    """Applies gradients if they are finite, else takes back the statistics.

    Args:
      finite: Boolean scalar, the same in all replicas.
      gradients: Those of the whole batch, the same in all replicas.
      before: The values of `non_trainable_variables` before the step.
    """
    optimizer, variables = self.optimizer, self.trainable_variables
    # Keras sums what the replicas hand over, after it has clipped it.
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync > 1:
      is_first = tf.equal(replica.replica_id_in_sync_group, 0)
      gradients = [g * tf.cast(is_first, g.dtype) for g in gradients]

    def undo(gradients, before):
      if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It lowers its scale, and does no more.
        optimizer.apply([g * math.nan for g in gradients], variables)
      for variable, value in zip(self.non_trainable_variables, before):
        variable.assign(value)

    def apply(gradients, before):
      del before
      optimizer.apply(gradients, variables)

    def update(strategy, finite, *args):
      run = strategy.extended.call_for_each_replica
      (finite, *_) = strategy.experimental_local_results(finite)
      tf.cond(finite, lambda: run(apply, args), lambda: run(undo, args))

    # A branch cannot merge replicas; merged replicas can branch.
    replica.merge_call(update, args=(finite, gradients, before))

  def _update_metrics(self, log_prob, skipped=False):
    weight = tf.where(skipped, tf.zeros_like(log_prob), 1)
    self._loss.update_state(-log_prob + self._l2_term(), weight)
    self._bits_per_dim.update_state(
      bits_per_dim(log_prob, self.distribution.event_shape), weight
    )
    self._non_finite.update_state(skipped | ~tf.math.is_finite(log_prob))
    results = {metric.name: _result(metric) for metric in self.metrics}
    if isinstance(
      self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
    ):
      # Keras takes the mean of what the workers return over its first axis.
      results = {name: value[tf.newaxis] for name, value in results.items()}
    return results

  def _skipped_message(self):
    message = (
      f'Training stopped at step {self.step.numpy()}: '
      f'{self._skipped_in_a_row.numpy()} batches in a row had a loss or a '
      'gradient that is not finite and were skipped, `max_skipped_in_a_row` '
      f'is {self._max_skipped_in_a_row}. Weights, moments and statistics are '
      'those before these batches. A lower learning rate may help'
    )
    if self._num_levels is None:
      return message + '; so does data without NaN.'
    return message + (
      f'; pixels that are NaN or outside [0, {self._num_levels}) also have no '
      'finite loss.'
    )

  def _l2_term(self):
    squares = [tf.reduce_sum(v**2) for v in self._l2_variables]
    return self._l2_coefficient * sum(squares)

  def _convert(self, x):
    """Returns `x` as a tensor of a batch of events."""
    x = tf.convert_to_tensor(x)
    event_shape = self.distribution.event_shape
    if not x.shape[1:].is_compatible_with(event_shape):
      raise ValueError(
        f'`x` must be a batch of events of shape {event_shape}, got shape '
        f'{x.shape}.'
      )
    return x

  def _assert_on_range(self, x):
    if self._num_levels is None:
      return x
    return pixels.assert_on_range(x, self._num_levels)

  def _is_on_range(self, x):
    """Which events `[N]` hold pixels and nothing else."""
    if self._num_levels is None:
      return True
    on_range = pixels.is_on_range(x, self._num_levels)
    return tf.reduce_all(on_range, axis=list(range(1, x.shape.rank)))

  def _log_prob(self, x, condition, seed, training=False):
    distribution = self.distribution
    if self._num_levels is None:
      x = tf.cast(x, distribution.dtype)
    else:
      noise = _noise(x, seed, distribution.dtype)
      x = pixels.dequantize(x, noise, self._num_levels)
    bijector = getattr(distribution, 'bijector', None)
    kwargs = flow_bijector.nested_kwargs(
      bijector, training=training, condition=condition
    )
    kwargs = {'bijector_kwargs': kwargs} if kwargs else {}
    return distribution.log_prob(x, **kwargs)


def _noise(x, seed, dtype):
  """Uniform noise like `x`: this replica's part of that of the whole batch."""
  count, *event_shape = flow_bijector.dims(x)
  start, total = moving_statistics.part_of_batch(count)
  noise = tf.random.stateless_uniform([total, *event_shape], seed, dtype=dtype)
  return noise[start : start + count]


def _result(metric):
  """The result of a Keras metric over the images of all replicas."""
  if not moving_statistics.in_sync(True):
    return metric.result()
  replica = tf.distribute.get_replica_context()
  totals = replica.all_reduce(
    tf.distribute.ReduceOp.SUM, [tf.identity(v.value) for v in metric.variables]
  )
  return metric.stateless_result(totals)
