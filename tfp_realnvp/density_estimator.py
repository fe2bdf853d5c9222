"""DensityEstimator: the Keras model that fits any tfd.Distribution."""

import functools
import inspect
import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import flow_bijector
from tfp_realnvp import likelihood
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


def _as_given(method):
  """Wraps a method of `keras.Model` so that it takes arrays as they are given.

  Keras casts float arrays to `keras.config.floatx()`, which here is the dtype
  of the distribution until the method returns; and it drops `sample_weight`
  where there is no `y`, so that here `y` then is an array of width 0.
  """
  signature = inspect.signature(method)

  @functools.wraps(method)
  def wrapper(self, *args, **kwargs):
    bound = signature.bind(self, *args, **kwargs)
    given = bound.arguments
    x, y = given.get('x'), given.get('y')
    if y is None and given.get('class_weight') is not None:
      raise ValueError(
        '`class_weight` needs classes, `y`; got '
        f'{given["class_weight"]!r} without them.'
      )
    if given.get('sample_weight') is not None and y is None:
      given['y'] = _no_condition(x)
    validation = given.get('validation_data')
    if isinstance(validation, (tuple, list)) and len(validation) == 3:
      x, y, weight = validation
      y = _no_condition(x) if y is None else y
      given['validation_data'] = x, y, weight
    floatx, dtype = keras.config.floatx(), self.distribution.dtype
    keras.config.set_floatx(dtype.name if dtype.is_floating else floatx)
    try:
      return method(*bound.args, **bound.kwargs)
    finally:
      keras.config.set_floatx(floatx)

  return wrapper


def _no_condition(x):
  return np.zeros([len(x), 0]) if hasattr(x, 'shape') else None


class DensityEstimator(keras.Model):
  """Fits a `tfd.Distribution` by maximum likelihood, with Keras.

  Batches are `x`, `(x, condition)` or `(x, condition, sample_weight)`, as Keras
  takes `x`, `y` and `sample_weight`: `x` of the shape `[N] + event_shape`,
  `condition` of `[N, K]`, if the flow takes one, and `sample_weight` of `[N]`.
  Pixels, integer or float, are dequantized on the device with fresh uniform
  noise on `[0, 1)`, in evaluation too. The loss is the mean over the batch of
  `-log_prob`, in nats, plus the L2 term; Keras reports

  - `loss`;
  - `bits_per_dim`, the mean over the images;
  - `non_finite`: how many images had a log-likelihood of NaN or infinity. They
    are not left out of the means.

  Means are weighted by `sample_weight`: an image of weight 2 counts as two of
  them, one of weight 0 not at all. Batch normalization does not know of
  weights; its statistics are those of all images of the batch.

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
      distribution: `tfd.Distribution` with a fully known event shape and no
        batch dimensions. The model's variables are the distribution's.
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
      TypeError: If `distribution` is not a `tfd.Distribution`, or holds a flow
        that `training` or `condition` cannot reach, as in a `tfd.Mixture`.
      ValueError: If its event shape is not known, it has batch dimensions, or
        `num_levels` or `max_skipped_in_a_row` is not an int of at least 1.
    """
    if not isinstance(distribution, tfd.Distribution):
      raise TypeError(
        f'`distribution` must be a tfd.Distribution, got {distribution!r}.'
      )
    shape = distribution.event_shape
    if not isinstance(shape, tf.TensorShape) or not shape.is_fully_defined():
      raise ValueError(
        f'`distribution` must have a fully known event shape, got {shape}.'
      )
    if distribution.batch_shape.rank != 0:
      raise ValueError(
        '`distribution` must have no batch dimensions, got batch shape '
        f'{distribution.batch_shape}: `tfd.Independent` makes them part of the '
        'event.'
      )
    likelihood.log_prob_kwargs(distribution, training=True)  # Or raises.
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
    self._trained = None  # Ids of the variables that `train_function` trains.
    self._seed_generator = keras.random.SeedGenerator(seed)
    self._seed = seed
    # For training, for evaluation, and for re-estimating statistics. GPUs have
    # no int32 variables; the noise is the same.
    seeds = tfp.random.split_seed(network.stateless_seed(seed), n=3)
    self._seeds = tf.Variable(
      tf.cast(seeds, tf.int64),
      trainable=False,
      name='seeds',
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    counter = lambda name: tf.Variable(
      tf.zeros([], tf.int64),
      trainable=False,
      name=name,
      aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
    self._step = counter('step')
    self._test_step = counter('test_step')
    self._skipped_in_a_row = counter('skipped_in_a_row')
    dtype = distribution.dtype.name if distribution.dtype.is_floating else None
    self._loss = keras.metrics.Mean('loss', dtype)
    self._bits_per_dim = keras.metrics.Mean('bits_per_dim', dtype)
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

  @property
  def seed(self):
    """The `seed` that the model was given; `None` draws one at random."""
    return self._seed

  @property
  def seeds(self):
    """`tf.Variable`: what the noise follows from, together with `step`."""
    return self._seeds

  # The model's variables are the distribution's, whatever it is made of.

  @property
  def trainable_variables(self):
    return list(self.distribution.trainable_variables) if self.trainable else []

  @property
  def non_trainable_variables(self):
    trained = {id(variable) for variable in self.trainable_variables}
    return [v for v in self.variables if id(v) not in trained]

  @property
  def variables(self):
    return list(self.distribution.variables)

  trainable_weights = trainable_variables
  non_trainable_weights = non_trainable_variables
  weights = variables

  @property
  def metrics(self):
    return [self._loss, self._bits_per_dim, self._non_finite]

  def save_own_variables(self, store):
    """Keras hook: writes the distribution's variables, and `step`."""
    for i, variable in enumerate(self.variables):
      store[str(i)] = variable.numpy()
    store['step'] = self.step.numpy()

  def load_own_variables(self, store):
    """Keras hook: reads what `save_own_variables` wrote."""
    shapes = [tuple(variable.shape) for variable in self.variables]
    has_step = 'step' in store  # Earlier versions did not write it.
    stored = [tuple(store[str(i)].shape) for i in range(len(store) - has_step)]
    if shapes != stored:
      raise ValueError(
        f'The weights are those of another model: {len(stored)} variables were '
        f'saved, {len(shapes)} are here, or their shapes differ.'
      )
    for i, variable in enumerate(self.variables):
      variable.assign(store[str(i)])
    if has_step:
      self.step.assign(store['step'])

  def compile(self, optimizer='adam', jit_compile=False, **kwargs):
    """Configures the model for training; see `keras.Model.compile`.

    Args:
      optimizer: Keras optimizer, or its name.
      jit_compile: Python `bool`, whether to compile the steps with XLA, which
        draws other noise and drops the check that `x` holds pixels. Off by
        default: on a CPU the steps of `RealNVPChain` take longer with it.
      **kwargs: Those of `keras.Model.compile`, but losses and metrics.

    Raises:
      ValueError: If a loss or metrics are given, or a Keras network of the
        distribution is not built.
    """
    for name in ('loss', 'loss_weights', 'metrics', 'weighted_metrics'):
      if kwargs.get(name) is not None:
        raise ValueError(
          f'`{name}` cannot be chosen: the loss is the negative '
          f'log-likelihood; got {kwargs[name]!r}.'
        )
    for module in self.distribution.submodules:
      network = getattr(module, 'shift_and_log_scale_fn', None)
      if not getattr(network, 'built', True):
        raise ValueError(
          f'The network of {module.name!r} has no variables yet: build '
          f'{network!r}, with a `keras.Input` first or by calling it once.'
        )
    super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
    self.optimizer.build(
      [_OptimizerVariable(v) for v in self.trainable_variables]
    )

  def get_config(self):
    """Keras hook: raises, for a distribution has no configuration."""
    raise NotImplementedError(
      'A DensityEstimator cannot be written to a .keras file, cloned or made '
      'from a config, for a tfd.Distribution has none. Build the distribution '
      'again and use `save_weights` and `load_weights` or '
      '`tfp_realnvp.Checkpoints`; or serve it with '
      '`tfp_realnvp.export_saved_model`.'
    )

  def export(self, *args, **kwargs):
    """Keras hook: raises, for Keras would export a part of the answers."""
    del args, kwargs
    raise NotImplementedError(
      'Use `tfp_realnvp.export_saved_model` on the distribution.'
    )

  fit = _as_given(keras.Model.fit)
  evaluate = _as_given(keras.Model.evaluate)
  predict = _as_given(keras.Model.predict)
  train_on_batch = _as_given(keras.Model.train_on_batch)
  test_on_batch = _as_given(keras.Model.test_on_batch)
  predict_on_batch = _as_given(keras.Model.predict_on_batch)

  def make_train_function(self, force=False):
    """Keras hook: a step that raises after too many skipped ones in a row."""
    trained = [id(variable) for variable in self.trainable_variables]
    if not trained:
      raise ValueError(
        f'`distribution` has no trainable variables, got {self.distribution!r}.'
        if self.trainable
        else 'The model cannot be trained: its `trainable` is False.'
      )
    if self.train_function is None or force or trained != self._trained:
      super().make_train_function(force=True)
      self._trained = trained
      train_function = self.train_function

      def checked(iterator):
        logs = train_function(iterator)
        if self._skipped_in_a_row >= self._max_skipped_in_a_row:
          self._skipped_in_a_row.assign(0)
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
    x, condition, _ = self._unpack((x, condition))
    x = self._assert_on_range(x)
    seed = self._seed_generator.next()
    return self._log_prob(x, condition, seed, training)

  def train_step(self, data):
    x, condition, weight = self._unpack(data)
    variables = self.trainable_variables
    replica = tf.distribute.get_replica_context()
    total = functools.partial(replica.all_reduce, tf.distribute.ReduceOp.SUM)
    before = [tf.identity(v) for v in self.non_trainable_variables]
    seed = tf.random.fold_in(self._seeds[0], self.step)
    with tf.GradientTape() as tape:
      log_prob = self._log_prob(x, condition, seed, training=True)
      log_prob = tf.where(self._is_on_range(x), log_prob, math.nan)
      # Replicas may have parts of the batch that differ in size, or are empty.
      total_weight = total(tf.reduce_sum(weight))
      loss = -tf.math.divide_no_nan(
        tf.reduce_sum(weight * log_prob), total_weight
      )
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
    # Clipping and Adam need the squares of gradients, which overflow first.
    squares = [tf.cast(2 * tf.nn.l2_loss(g), loss.dtype) for g in gradients]
    finite = tf.math.is_finite(total(loss) + tf.add_n(squares))
    # After too many in a row, nothing more happens until Keras looks.
    skipped = ~finite | (self._skipped_in_a_row >= self._max_skipped_in_a_row)
    self._apply_or_undo(~skipped & (total_weight > 0), gradients, before)
    # In a graph, this would also run when there is no batch left to read.
    with tf.control_dependencies([finite]):
      one = tf.ones([], self.step.dtype)
    self.step.assign_add(one)
    self._skipped_in_a_row.assign(
      tf.where(skipped, self._skipped_in_a_row + 1, tf.zeros_like(self._step))
    )
    return self._update_metrics(log_prob, weight, skipped)

  def test_step(self, data):
    x, condition, weight = self._unpack(data)
    seed = tf.random.fold_in(self._seeds[1], self._test_step)
    x = self._assert_on_range(x)
    log_prob = self._log_prob(x, condition, seed)
    self._test_step.assign_add(1)
    return self._update_metrics(log_prob, weight)

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
    x, condition, _ = self._unpack(data)
    seed = tf.random.fold_in(self._seeds[2], index)
    return self._log_prob(
      self._assert_on_range(x), condition, seed, training=True
    )

  def _apply_or_undo(self, applied, gradients, before):
    """Applies gradients, or takes back what the step did to the statistics.

    Args:
      applied: Boolean scalar, the same in all replicas.
      gradients: Those of the whole batch, the same in all replicas.
      before: The values of `non_trainable_variables` before the step.
    """
    optimizer = self.optimizer
    variables = [_OptimizerVariable(v) for v in self.trainable_variables]
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

    def update(strategy, applied, *args):
      run = strategy.extended.call_for_each_replica
      (applied, *_) = strategy.experimental_local_results(applied)
      tf.cond(applied, lambda: run(apply, args), lambda: run(undo, args))

    # A branch cannot merge replicas; merged replicas can branch.
    replica.merge_call(update, args=(applied, gradients, before))

  def _update_metrics(self, log_prob, weight, skipped=False):
    self._non_finite.update_state(skipped | ~tf.math.is_finite(log_prob))
    weight = tf.where(skipped, tf.zeros_like(weight), weight)
    log_prob = tf.where(weight == 0, tf.zeros_like(log_prob), log_prob)
    self._loss.update_state(-log_prob + self._l2_term(), weight)
    self._bits_per_dim.update_state(
      bits_per_dim(log_prob, self.distribution.event_shape), weight
    )
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
      f'{self._max_skipped_in_a_row} batches in a row, '
      '`max_skipped_in_a_row`, had a loss that is not finite or a gradient '
      'whose square is not, and were skipped. Weights, moments and statistics '
      'are those before these batches. A lower learning rate may help'
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

  def _unpack(self, data):
    """Returns `x`, condition or `None`, and weights `[N]`, as tensors."""
    x, condition, weight = keras.utils.unpack_x_y_sample_weight(data)
    x, dtype = self._convert(x), self.distribution.dtype
    condition = self._convert_condition(condition, x)
    if weight is None:
      return x, condition, tf.ones(flow_bijector.dims(x)[:1], dtype)
    weight = tf.cast(weight, dtype)
    if not weight.shape.is_compatible_with(x.shape[:1]):
      raise ValueError(
        f'`sample_weight` must have shape {x.shape[:1]}, a weight for each '
        f'event of `x`; got shape {weight.shape}.'
      )
    return x, condition, weight

  def _convert(self, x):
    """Returns `x` as a tensor of a batch of events."""
    x = tf.convert_to_tensor(x)
    event_shape = self.distribution.event_shape
    if not x.shape[1:].is_compatible_with(event_shape):
      message = (
        f'`x` must be a batch of events of shape {event_shape}, got shape '
        f'{x.shape}'
      )
      if x.shape.is_compatible_with(event_shape):
        message += ': the batch dimension is missing; batch the data set'
      raise ValueError(f'{message}.')
    return tf.cast(x, tf.uint8) if x.dtype == tf.bool else x

  def _convert_condition(self, condition, x):
    """Returns `condition` as a tensor of the distribution's dtype."""
    if condition is None or condition.shape[-1:] == [0]:
      return None
    condition = tf.cast(condition, self.distribution.dtype)
    if 'condition' not in likelihood.takes(self.distribution):
      raise ValueError(
        'No flow of `distribution` takes a condition, got `y` of shape '
        f'{condition.shape}: give `x` alone, or build the flow with '
        '`condition_size`.'
      )
    if not condition.shape.is_compatible_with([x.shape[0], None]):
      raise ValueError(
        '`y`, the condition, must have shape [N, K], a row for each event of '
        f'`x`, whose shape is {x.shape}; got shape {condition.shape}. Labels '
        'need one-hot encoding.'
      )
    return condition

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
    kwargs = likelihood.log_prob_kwargs(
      distribution, training=training, condition=condition
    )
    return distribution.log_prob(x, **kwargs)


class _OptimizerVariable(keras.Variable):
  """A `tf.Variable` as Keras optimizers expect it: with a path, and no '/'.

  All such views of one variable stand for the same state of an optimizer.
  """

  def __init__(self, variable):
    super().__init__(
      lambda *_, **__: variable,
      shape=variable.shape,
      dtype=variable.dtype.name,
      name=variable.name.removesuffix(':0').replace('/', '_'),
    )

  def _initialize_with_initializer(self, initializer):
    self._initialize(initializer())


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
