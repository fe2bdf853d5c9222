import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import reestimation

tfb = tfp.bijectors
tfd = tfp.distributions


_LAGGED = tfp_realnvp.BatchNormOptions(lagged=True)


def _flow(**kwargs):
  kwargs = {'dtype': tf.float64, 'seed': 1} | kwargs
  return flow_testing.two_couplings((4, 4, 1), **kwargs)


def _estimator(flow, **kwargs):
  base = flow_testing.isotropic_normal((4, 4, 1), flow.dtype)
  dist = tfd.TransformedDistribution(base, flow)
  return tfp_realnvp.DensityEstimator(dist, seed=0, **kwargs)


def _normalizer(base=None, **kwargs):
  """Returns an estimator of `[1]` with batch norm alone, and its statistics."""
  norm = tfp_realnvp.BatchNormBijector(1, **kwargs)
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(
      base or flow_testing.isotropic_normal((1,)), tfb.Invert(norm)
    ),
    num_levels=None,
  )
  return model, norm.statistics


def _images(count=50, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(100, 140, [count, 4, 4, 1]).astype(np.uint8)


def _vectors(*batches):
  """Returns a data set of batches of `[1]`, of any sizes."""
  return tf.data.Dataset.from_generator(
    lambda: (np.array(batch, np.float32)[:, np.newaxis] for batch in batches),
    output_signature=tf.TensorSpec([None, 1]),
  )


def _state(model):
  return [v.numpy() for v in model.variables]


def _assert_state(model, state):
  for variable, value in zip(model.variables, state):
    np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
def test_statistics_are_those_of_all_data():
  flow = _flow(norm=tfp_realnvp.BatchNormOptions(momentum=0.5))
  model = _estimator(flow, num_levels=None)
  model.compile(keras.optimizers.Adam(1e-2))
  images = _images(60) + 0.5
  data = tf.data.Dataset.from_tensor_slices(images).batch(20)
  model.fit(data, verbose=0)
  weights = [v.numpy() for v in model.trainable_variables]
  moving = flow.bijectors[2].statistics
  state = [v.value for v in model.optimizer.variables]
  before = [v.numpy() for v in state]
  # The first batch norm follows the first coupling: by hand, batch by batch.
  coupled = [
    flow.bijectors[1].forward(flow.bijectors[0].forward(batch), training=True)
    for batch in np.split(images, [25, 50])
  ]
  model.reestimate_statistics(images, batch_size=25)
  whole = np.concatenate(coupled)
  np.testing.assert_allclose(moving.mean, whole.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(moving.variance, whole.var((0, 1, 2)), rtol=1e-12)
  assert moving.num_updates == 3
  # Nothing else has changed, and training goes on with its momentum.
  for variable, value in zip(
    model.trainable_variables + state, weights + before
  ):
    np.testing.assert_array_equal(variable, value)
  mean = moving.mean.numpy()
  flow.inverse(images[:25], training=True)
  rate = 0.5 / (1 - 0.5**4)
  np.testing.assert_allclose(
    moving.mean,
    (1 - rate) * mean + rate * np.mean(coupled[0], (0, 1, 2)),
    rtol=1e-12,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'kwargs',
  [
    {},
    {'norm': _LAGGED},
    {'norm': _LAGGED, 'recompute': True},
    {'norm': tfp_realnvp.BatchNormOptions(synchronized=True)},
  ],
)
@pytest.mark.parametrize('eager', [False, True])
def test_each_batch_is_normalized_by_its_own_statistics(kwargs, eager):
  images = _images(30) + 0.5
  batches = np.stack([images[:10], images[10:20] / 2, images[20:] + 50])
  results = []
  for flow_kwargs, order in (({}, 1), (kwargs, 1), (kwargs, -1)):
    flow = _flow(**flow_kwargs)
    model = _estimator(flow, num_levels=None)
    tf.config.run_functions_eagerly(eager)
    try:
      model.reestimate_statistics(
        tf.data.Dataset.from_tensor_slices(batches[::order])
      )
    finally:
      tf.config.run_functions_eagerly(False)
    results.append([v.numpy() for v in flow.non_trainable_variables])
  for values in zip(*results):
    np.testing.assert_allclose(values[1], values[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(values[2], values[0], rtol=1e-10, atol=1e-12)


def test_batches_count_by_their_rows():
  model, statistics = _normalizer()
  model.reestimate_statistics(_vectors([1, 2, 3], [6], []))
  np.testing.assert_allclose(statistics.mean, [3.0])
  np.testing.assert_allclose(statistics.variance, [3.5])
  assert statistics.num_updates == 2
  # All rows of an array count, too.
  model.reestimate_statistics([[1.0], [2.0], [3.0], [6.0]], batch_size=3)
  np.testing.assert_allclose(statistics.mean, [3.0])
  np.testing.assert_allclose(statistics.variance, [3.5])


@pytest.mark.parametrize('lagged', [False, True])
@pytest.mark.parametrize('position', [0, 1, 2])
def test_batches_that_are_not_finite_count_as_nothing(position, lagged):
  model, statistics = _normalizer(lagged=lagged)
  statistics.mean.assign([500.0])
  batches = [[1, 1], [3, 3]]
  batches.insert(position, [1, np.nan])
  with pytest.warns(
    UserWarning, match='1 of 3 batches .* not finite; .* left out'
  ):
    model.reestimate_statistics(_vectors(*batches))
  np.testing.assert_allclose(statistics.mean, [2.0])
  np.testing.assert_allclose(statistics.variance, [1.0])
  assert statistics.num_updates == 2


def test_batches_that_are_not_finite_further_on_count_as_nothing():
  # The statistics of the second batch are finite, its log-likelihood is not.
  base = tfd.Sample(tfd.Uniform(-2.0, 2.0), [1])
  model, statistics = _normalizer(base)
  with pytest.warns(
    UserWarning, match='1 of 2 batches .* not finite; .* left out'
  ):
    model.reestimate_statistics(_vectors([1, 3], [0] * 99 + [9]))
  np.testing.assert_allclose(statistics.mean, [2.0])
  np.testing.assert_allclose(statistics.variance, [1.0])


def test_batches_without_finite_statistics_count_as_nothing():
  class Network(tf.Module):
    """Has statistics that are not finite where its output is."""

    def __init__(self):
      super().__init__()
      self.statistics = moving_statistics.MovingStatistics(1)

    def __call__(self, x, training=False):
      if training:
        moments = moving_statistics.batch_moments(tf.exp(x))
        self.statistics.update(*moments)
      return tf.zeros_like(x), tf.zeros_like(x)

  network = Network()
  coupling = tfp_realnvp.AffineCoupling(network, np.array([True, False]))
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(
      flow_testing.isotropic_normal((2,)), tfb.Invert(coupling)
    ),
    num_levels=None,
  )
  x = np.zeros([4, 2], np.float32)
  x[0] = 60.0  # The variance overflows.
  with pytest.warns(
    UserWarning, match='1 of 2 batches .* not finite; .* left out'
  ):
    model.reestimate_statistics(x, batch_size=2)
  np.testing.assert_allclose(network.statistics.mean, [1.0])
  np.testing.assert_allclose(network.statistics.variance, [0.0])


def _interrupted():
  yield np.ones([2, 1], np.float32)
  raise RuntimeError('broken pipeline')


@pytest.mark.parametrize(
  'data, error, message',
  [
    (
      lambda: _vectors([np.nan], [1, np.inf]),
      FloatingPointError,
      '2 of 2 batches of `x` have .* not finite.$',
    ),
    (lambda: _vectors(), ValueError, '`x` .* no rows'),
    (lambda: _vectors([]), ValueError, '`x` .* no rows'),
    (lambda: np.zeros([0, 1], np.float32), ValueError, '`x` .* no rows'),
    (lambda: _vectors([1]).repeat(), ValueError, '`x` must be finite'),
    (lambda: np.zeros([2, 3], np.float32), ValueError, r'`x` .*\(None, 3\)'),
    (
      lambda: tf.data.Dataset.from_generator(
        _interrupted, output_signature=tf.TensorSpec([None, 1])
      ),
      tf.errors.OpError,
      'broken pipeline',
    ),
  ],
)
def test_all_or_nothing(data, error, message):
  model, statistics = _normalizer()
  statistics.update(tf.constant([3.0]), tf.constant([4.0]))
  state = _state(model)
  with pytest.raises(error, match=message):
    model.reestimate_statistics(data())
  _assert_state(model, state)


@pytest.mark.parametrize('call', [7, 10])
def test_an_interrupt_leaves_the_statistics_as_they_were(call, monkeypatch):
  model, statistics = _normalizer()
  statistics.update(tf.constant([3.0]), tf.constant([4.0]))
  state = _state(model)
  count = 0
  cls = type(statistics.mean)
  assign = cls.assign

  def interrupted(*args, **kwargs):
    nonlocal count
    count += 1
    if count == call:  # While values are put back, and while results are set.
      raise KeyboardInterrupt
    return assign(*args, **kwargs)

  monkeypatch.setattr(cls, 'assign', interrupted)
  with pytest.raises(KeyboardInterrupt):
    model.reestimate_statistics(_vectors([1, 2]))
  _assert_state(model, state)
  assert count > call


@pytest.mark.parametrize('name', ['add', 'assign_to'])
def test_an_interrupt_between_batches_leaves_them_as_they_were(
  name, monkeypatch
):
  model, statistics = _normalizer()
  statistics.update(tf.constant([3.0]), tf.constant([4.0]))
  state = _state(model)

  def interrupted(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(reestimation._Average, name, interrupted)
  with pytest.raises(KeyboardInterrupt):
    model.reestimate_statistics(_vectors([1, 2], [3]))
  _assert_state(model, state)


def _keras_network(*layers):
  """Returns a Keras network, a batch norm, and the model of both."""
  network = keras.Sequential(
    [
      *layers,
      keras.layers.Dense(4, activation='relu'),
      keras.layers.BatchNormalization(),
      keras.layers.Dropout(0.5, seed=0),
      keras.layers.Dense(2),
    ]
  )
  norm = tfp_realnvp.BatchNormBijector(2)
  coupling = tfp_realnvp.AffineCoupling(network, np.array([True, False]))
  bijector = tfb.Chain([tfb.Invert(coupling), tfb.Invert(norm)])
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), bijector),
    num_levels=None,
  )
  return network, norm, model


def test_state_that_the_first_batch_builds_stays_as_it_starts():
  network, norm, model = _keras_network()
  x = np.random.default_rng(0).normal(3, 2, [20, 2]).astype(np.float32)
  (seed,) = [v.numpy() for v in network.variables]
  model.reestimate_statistics(x, batch_size=10)
  batch_norm, dropout = network.layers[1:3]
  np.testing.assert_array_equal(batch_norm.moving_mean.numpy(), np.zeros(4))
  np.testing.assert_array_equal(batch_norm.moving_variance.numpy(), np.ones(4))
  np.testing.assert_array_equal(dropout.seed_generator.state.numpy(), seed)
  assert norm.statistics.num_updates == 2


@pytest.mark.slow
def test_graph_is_traced_once():
  model = _estimator(_flow())
  traced = []
  step = model._reestimation._log_prob_fn

  def count(*args):
    traced.append(args)
    return step(*args)

  model._reestimation._log_prob_fn = count
  results = []
  for images in (_images(40), _images(40, seed=1), _images(40)):
    # Batches of 15, 15 and 10.
    model.reestimate_statistics(images, batch_size=15)
    results.append(_state(model))
  assert len(traced) == 1
  np.testing.assert_equal(results[2], results[0])
  assert any(np.any(a != b) for a, b in zip(results[0], results[1]))


def test_statistics_that_layers_share_are_an_error():
  norm = tfp_realnvp.BatchNormBijector(1)
  twin = norm.copy(name='twin')
  bijector = tfb.Chain([tfb.Invert(norm), tfb.Shift(9.0), tfb.Invert(twin)])
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(flow_testing.isotropic_normal((1,)), bijector),
    num_levels=None,
  )
  state = _state(model)
  with pytest.raises(ValueError, match='moving_statistics.* moved 2 times'):
    model.reestimate_statistics(_vectors([1, 3]))
  _assert_state(model, state)


def test_other_state_stays_as_it_is():
  network, norm, model = _keras_network(keras.Input([1]))
  x = np.random.default_rng(0).normal(3, 2, [20, 2]).astype(np.float32)
  state = [v.numpy() for v in network.variables]
  assert len(state) == 9  # The seed of the dropout is among them.
  model.reestimate_statistics(x)
  for variable, value in zip(network.variables, state):
    np.testing.assert_array_equal(variable.numpy(), value)
  assert norm.statistics.num_updates == 1
  np.testing.assert_allclose(norm.statistics.mean[0], x[:, 0].mean(), 1e-5)


@pytest.mark.slow
def test_conditions_and_bad_pixels():
  flow = _flow(condition_size=2, dtype=tf.float32)
  model = _estimator(flow)
  condition = np.eye(2, dtype=np.float32)[np.arange(50) % 2]
  statistics = flow.bijectors[2].statistics
  model.reestimate_statistics(_images(50), condition, batch_size=20)
  assert statistics.num_updates == 3
  mean = statistics.mean.numpy()
  data = tf.data.Dataset.from_tensor_slices((_images(50), condition))
  model.reestimate_statistics(data.batch(20))
  np.testing.assert_array_equal(statistics.mean, mean)
  model.reestimate_statistics(
    _images(50).tolist(), tf.constant(condition), batch_size=20
  )
  np.testing.assert_array_equal(statistics.mean, mean)
  images = _images(10).astype(np.float32)
  images[3, 1, 2, 0] = np.nan
  with pytest.raises(tf.errors.InvalidArgumentError, match='must be pixels'):
    model.reestimate_statistics(images, condition[:10])
  np.testing.assert_array_equal(statistics.mean, mean)


def test_statistics_that_no_batch_reaches_stay_as_they_are():
  model, statistics = _normalizer()
  model.distribution.unused = moving_statistics.MovingStatistics(1)
  model.reestimate_statistics(_vectors([1, 3]))
  np.testing.assert_allclose(statistics.mean, [2.0])
  np.testing.assert_allclose(model.distribution.unused.variance, [1.0])
  assert model.distribution.unused.num_updates == 0

  dist = tfd.Independent(tfd.Normal(tf.Variable([0.0]), 1.0), 1)
  dist.unused = moving_statistics.MovingStatistics(1)
  model = tfp_realnvp.DensityEstimator(dist, num_levels=None)
  with pytest.raises(ValueError, match='must pass `training` on to its movi'):
    model.reestimate_statistics(_vectors([1, 3]))


def test_errors_name_the_argument_and_show_the_value():
  model, _ = _normalizer()
  x = np.zeros([4, 1], np.float32)
  reestimate = model.reestimate_statistics
  for value in ({'x': x}, (row for row in x), None, 3.0, [[1.0], [1.0, 2.0]]):
    with pytest.raises(TypeError, match='`x` must be an array .* got'):
      reestimate(value)
  with pytest.raises(TypeError, match='`condition` must be an array, got {}'):
    reestimate(x, {})
  with pytest.raises(ValueError, match='`condition` .* 4 rows, .* got 3'):
    reestimate(x, np.zeros([3, 2], np.float32))
  for size in (0, 2.5, True):
    with pytest.raises(ValueError, match=f'`batch_size` .* got {size}'):
      reestimate(x, batch_size=size)
  data = _vectors([1.0])
  with pytest.raises(ValueError, match='`batch_size` must be None .* got 3'):
    reestimate(data, batch_size=3)
  with pytest.raises(ValueError, match='`condition` must be None .* got'):
    reestimate(data, x)
  dist = tfd.MultivariateNormalDiag(tf.Variable([0.0]))
  model = tfp_realnvp.DensityEstimator(dist, num_levels=None)
  with pytest.raises(ValueError, match='`distribution` has no moving stat'):
    model.reestimate_statistics(x)
