"""DensityEstimator: the Keras model that fits any tfd.Distribution."""

import math

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import flow_bijector
from tfp_realnvp import pixels

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
  """
  return log_prob / (-math.log(2) * math.prod(tf.TensorShape(event_shape)))


class DensityEstimator(keras.Model):
  """Fits a `tfd.Distribution` by maximum likelihood, with Keras.

  Batches are `x` or `(x, condition)`, `x` of the shape `[N] + event_shape`.
  Pixels, integer or float, are dequantized on the device with fresh uniform
  noise on `[0, 1)`, in evaluation too. The loss is the mean over the batch of
  `-log_prob`, in nats, plus the L2 term; Keras reports

  - `loss`;
  - `bits_per_dim`, the mean over the images;
  - in evaluation, `non_finite`: how many images had a log-likelihood of NaN or
    infinity. They are not left out of the means.

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
      seed: `int`, seed of the noise.
      name: Name of the model.

    Raises:
      TypeError: If `distribution` is no `tfd.Distribution`.
      ValueError: If its event shape is not known, or `num_levels` is not a
        positive int.
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
    if num_levels is not None and (
      not isinstance(num_levels, int) or num_levels < 1
    ):
      raise ValueError(
        f'`num_levels` must be a positive int or None, got {num_levels!r}.'
      )
    super().__init__(name=name)
    self.distribution = distribution
    self._num_levels = num_levels
    self._l2_coefficient = l2_coefficient
    self._l2_variables = tuple(l2_variables)
    self._seed_generator = keras.random.SeedGenerator(seed)
    self._loss = keras.metrics.Mean('loss')
    self._bits_per_dim = keras.metrics.Mean('bits_per_dim')
    self._non_finite = keras.metrics.Sum('non_finite')
    self.built = True

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

  def call(self, x, condition=None, training=False):
    """Returns the log-likelihood of dequantized `x`: `[N]`, in nats."""
    return self.distribution.log_prob(
      self._dequantize(x), **self._log_prob_kwargs(condition, training)
    )

  def train_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    with tf.GradientTape() as tape:
      log_prob = self.call(x, condition, training=True)
      loss = -tf.reduce_mean(log_prob) + self._l2_term()
      # A `keras.optimizers.LossScaleOptimizer`, for float16, undoes it below.
      loss = self.optimizer.scale_loss(loss)
    variables = self.trainable_variables
    gradients = tape.gradient(loss, variables)
    self.optimizer.apply_gradients(zip(gradients, variables))
    return self._update_metrics(self.metrics[:2], log_prob)

  def test_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    return self._update_metrics(self.metrics, self.call(x, condition))

  def predict_step(self, data):
    x, condition, _ = keras.utils.unpack_x_y_sample_weight(data)
    return self.call(x, condition)

  def _update_metrics(self, metrics, log_prob):
    self._loss.update_state(-log_prob + self._l2_term())
    self._bits_per_dim.update_state(
      bits_per_dim(log_prob, self.distribution.event_shape)
    )
    self._non_finite.update_state(~tf.math.is_finite(log_prob))
    return {metric.name: metric.result() for metric in metrics}

  def _l2_term(self):
    squares = [tf.reduce_sum(v**2) for v in self._l2_variables]
    return self._l2_coefficient * sum(squares)

  def _log_prob_kwargs(self, condition, training):
    bijector = getattr(self.distribution, 'bijector', None)
    kwargs = flow_bijector.nested_kwargs(
      bijector, training=training, condition=condition
    )
    return {'bijector_kwargs': kwargs} if kwargs else {}

  def _dequantize(self, x):
    dtype = self.distribution.dtype
    x = tf.convert_to_tensor(x)
    event_shape = self.distribution.event_shape
    if not x.shape[1:].is_compatible_with(event_shape):
      raise ValueError(
        f'`x` must be a batch of events of shape {event_shape}, got shape '
        f'{x.shape}.'
      )
    if self._num_levels is None:
      return tf.cast(x, dtype)
    if x.dtype.is_floating or self._num_levels <= x.dtype.max:
      x = pixels.assert_on_range(x, self._num_levels)
    noise = keras.random.uniform(
      tf.shape(x), dtype=dtype.name, seed=self._seed_generator
    )
    return pixels.dequantize(x, noise, self._num_levels)
