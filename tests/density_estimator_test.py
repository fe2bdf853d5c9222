import collections
import functools
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
import tensorflow_probability as tfp

from tests import estimator_testing
from tests import flow_testing
import tfp_realnvp
from tfp_realnvp import pixels
from tfp_realnvp.training import density_estimator

tfb = tfp.bijectors
tfd = tfp.distributions


def test_bits_per_dim_by_hand():
  # A uniform density over 256 levels costs 8 bits for each pixel.
  log_prob = tf.constant(-12 * math.log(256.0))
  np.testing.assert_allclose(
    pixels.bits_per_dim(log_prob, (2, 2, 3)), 8.0, rtol=1e-6
  )
  for shape in (None, (2, None), (2, 0)):
    with pytest.raises(ValueError, match='`event_shape` must be fully known'):
      pixels.bits_per_dim(log_prob, shape)


def test_fit_and_evaluate_any_distribution():
  loc = tf.Variable([0.0, 0.0])
  model = density_estimator.DensityEstimator(
    tfd.MultivariateNormalDiag(loc), num_levels=None
  )
  model.compile(keras.optimizers.SGD(0.5))
  x = np.random.default_rng(0).normal([3, -2], 1, [200, 2]).astype(np.float32)
  model.fit(x, batch_size=50, epochs=5, verbose=0)
  np.testing.assert_allclose(loc, x.mean(0), atol=0.2)
  loc.assign(x.mean(0))
  metrics = model.evaluate(x, verbose=0, return_dict=True)
  nll = np.log(2 * np.pi) + ((x - x.mean(0)) ** 2).sum(1).mean() / 2
  np.testing.assert_allclose(metrics['loss'], nll, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['bits_per_dim'], nll / 2 / math.log(2), rtol=1e-5
  )
  assert metrics['non_finite'] == 0


def test_fit_lowers_bits_per_dim_below_uniform():
  model = estimator_testing.image_estimator()
  held_out = estimator_testing.images(seed=1)
  before = model.evaluate(held_out, verbose=0, return_dict=True)
  model.fit(estimator_testing.images(200), batch_size=20, epochs=4, verbose=0)
  after = model.evaluate(held_out, verbose=0, return_dict=True)
  assert before['bits_per_dim'] > 6.5
  assert 5.3 < after['bits_per_dim'] < 6  # 40 levels are 5.3 bits.


@pytest.mark.slow
def test_evaluation_uses_moving_statistics_and_moves_nothing():
  model = estimator_testing.image_estimator()
  images = estimator_testing.images()
  model.fit(images, batch_size=10, verbose=0)
  before = [v.numpy() for v in model.variables]
  model.evaluate(images, verbose=0)
  model.predict(images, verbose=0)
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable, value)
  # One image is evaluated as in any batch: no statistics of the batch.
  together = model.distribution.log_prob(tf.cast(images, tf.float32))
  alone = model.distribution.log_prob(tf.cast(images[:1], tf.float32))
  np.testing.assert_allclose(alone[0], together[0], rtol=1e-5)


@pytest.mark.slow
def test_training_moves_statistics_once_a_step():
  model = estimator_testing.image_estimator()
  model.fit(estimator_testing.images(50), batch_size=10, verbose=0)
  counts = [v for v in model.variables if 'num_updates' in v.name]
  assert {v.numpy() for v in counts} == {5.0}
  assert model.optimizer.iterations == 5


def test_training_reaches_flows_inside_chains_and_inversions():
  norms = [tfp_realnvp.BatchNormBijector(2, name=f'norm_{i}') for i in (0, 1)]
  bijector = tfb.Chain(
    [tfb.Shift(1.0), tfb.Invert(norms[0]), tfb.Chain([tfb.Invert(norms[1])])]
  )
  model = density_estimator.DensityEstimator(
    tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), bijector),
    num_levels=None,
  )
  x = tf.constant([[1.0, 2.0], [3.0, 6.0]])
  model.call(x)
  assert [n.statistics.num_updates for n in norms] == [0, 0]
  model.call(x, training=True)
  assert [n.statistics.num_updates for n in norms] == [1, 1]
  np.testing.assert_allclose(norms[0].statistics.mean, [1.0, 3.0])


def test_noise_is_fresh_and_on_the_unit_interval():
  class Spy(tfd.Uniform):
    seen = []

    def log_prob(self, value, **kwargs):
      self.seen.append(value)
      return tf.reduce_sum(tf.zeros_like(value), [1, 2, 3])

    @property
    def event_shape(self):
      return tf.TensorShape([4, 4, 1])

  model = density_estimator.DensityEstimator(Spy(), seed=0)
  images = estimator_testing.images()
  for x in (images, images.astype(np.float32), images + np.float32(0.5)):
    model.call(x)
  noises = [value - images for value in Spy.seen]
  for noise in noises:
    assert np.all((noise >= 0) & (noise < 1))
    assert abs(noise.numpy().mean() - 0.5) < 0.05
  assert np.all(noises[0] != noises[1])


def test_l2_term():
  flow = estimator_testing.image_flow(num_scales=1)
  model = estimator_testing.image_estimator(
    flow, l2_coefficient=0.5, l2_variables=flow.scale_parameters
  )
  squares = sum((v.numpy() ** 2).sum() for v in flow.scale_parameters)
  metrics = model.evaluate(
    estimator_testing.images(), verbose=0, return_dict=True
  )
  nll = metrics['bits_per_dim'] * 16 * math.log(2)
  np.testing.assert_allclose(metrics['loss'], nll + squares / 2, rtol=1e-5)
  with tf.GradientTape() as tape:
    term = model._l2_term()
  magnitude = flow.scale_parameters[-1]
  np.testing.assert_allclose(tape.gradient(term, magnitude), magnitude)


@pytest.mark.slow
def test_gradients_are_clipped_by_the_optimizer():
  model = estimator_testing.image_estimator(compiled=False)
  model.compile(keras.optimizers.SGD(1.0, global_clipnorm=1e-3))
  before = [v.numpy() for v in model.trainable_variables]
  model.fit(estimator_testing.images(10), batch_size=10, verbose=0)
  moved = [v.numpy() - b for v, b in zip(model.trainable_variables, before)]
  norm = np.sqrt(sum((m**2).sum() for m in moved))
  np.testing.assert_allclose(norm, 1e-3, rtol=0.02)


@pytest.mark.slow
def test_uneven_last_batch_counts_by_images():
  model = estimator_testing.image_estimator()
  model.fit(estimator_testing.images(), verbose=0)
  images = estimator_testing.images(25)
  whole = model.evaluate(images, batch_size=25, verbose=0, return_dict=True)
  parts = model.evaluate(images, batch_size=10, verbose=0, return_dict=True)
  np.testing.assert_allclose(parts['loss'], whole['loss'], rtol=0.01)
  predictions = model.predict(images, batch_size=10, verbose=0)
  assert predictions.shape == (25,)
  np.testing.assert_allclose(-predictions.mean(), whole['loss'], rtol=0.01)


def test_evaluation_counts_what_is_not_finite():
  dist = tfd.Sample(tfd.Uniform(0.0, 120.0), [4, 4, 1])
  model = density_estimator.DensityEstimator(dist)
  model.compile()
  images = np.full([5, 4, 4, 1], 50, np.uint8)
  images[1:3] = 200
  metrics = model.evaluate(images, batch_size=2, verbose=0, return_dict=True)
  assert metrics['non_finite'] == 2
  assert metrics['bits_per_dim'] == np.inf
  metrics = model.evaluate(images[:1], verbose=0, return_dict=True)
  assert metrics['non_finite'] == 0
  np.testing.assert_allclose(metrics['bits_per_dim'], np.log2(120), rtol=1e-6)


def test_variables_are_the_distributions():
  flow = estimator_testing.image_flow()
  model = estimator_testing.image_estimator(flow)
  refs = lambda variables: [v.ref() for v in variables]
  assert refs(model.trainable_variables) == refs(flow.trainable_variables)
  assert refs(model.trainable_weights) == refs(flow.trainable_variables)
  assert set(refs(model.variables)) == set(refs(flow.variables))
  assert set(refs(model.weights)) == set(refs(flow.variables))
  assert model.count_params() == sum(
    v.shape.num_elements() for v in flow.variables
  )


@pytest.mark.slow
def test_saved_weights_give_bit_equal_log_prob(tmp_path):
  model = estimator_testing.image_estimator()
  model.fit(estimator_testing.images(), verbose=0)
  path = str(tmp_path / 'model.weights.h5')
  model.save_weights(path)
  fresh = estimator_testing.image_estimator(
    estimator_testing.image_flow(seed=2)
  )
  fresh.load_weights(path)
  x = tf.cast(estimator_testing.images(), tf.float32)
  np.testing.assert_array_equal(
    fresh.distribution.log_prob(x), model.distribution.log_prob(x)
  )
  for variable, saved in zip(fresh.variables, model.variables):
    np.testing.assert_array_equal(variable, saved)
  other = estimator_testing.image_estimator(
    estimator_testing.image_flow(hidden_channels=3)
  )
  with pytest.raises(ValueError, match='weights are those of another model'):
    other.load_weights(path)


@pytest.mark.slow
def test_callbacks_and_history(tmp_path):
  model = estimator_testing.image_estimator()
  path = tmp_path / 'log.csv'
  model.fit(
    estimator_testing.images(),
    validation_data=(estimator_testing.images(seed=1),),
    epochs=2,
    verbose=0,
    callbacks=[
      keras.callbacks.CSVLogger(path),
      keras.callbacks.EarlyStopping('val_bits_per_dim', mode='min'),
      keras.callbacks.TerminateOnNaN(),
    ],
  )
  header = path.read_text().splitlines()[0].split(',')
  assert {'bits_per_dim', 'loss', 'val_bits_per_dim', 'val_non_finite'} <= set(
    header
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'dtype, loss_tolerance, tolerance',
  # Keras metrics are float32, whatever the model is.
  [(tf.float64, 1e-6, 1e-6), (tf.float32, 1e-4, 0.02)],
)
def test_xla_training_step_agrees(dtype, loss_tolerance, tolerance):
  results = []
  for jit_compile in (False, True):
    # Without dequantization: XLA draws other noise.
    model = estimator_testing.image_estimator(
      estimator_testing.image_flow(dtype=dtype), compiled=False, num_levels=None
    )
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=jit_compile)
    before = [v.numpy() for v in model.variables]
    images = estimator_testing.images(10) + np.float32(0.5)
    history = model.fit(images, batch_size=10, shuffle=False, verbose=0)
    moved = [v.numpy() - b for v, b in zip(model.variables, before)]
    results.append((history.history['loss'][0], moved))
  (loss, moved), (loss_xla, moved_xla) = results
  np.testing.assert_allclose(loss_xla, loss, rtol=loss_tolerance)
  for plain, compiled in zip(moved, moved_xla):
    # The step of each variable; batch norm amplifies the rounding of float32.
    error = np.linalg.norm(compiled - plain)
    assert error <= tolerance * max(np.linalg.norm(plain), 1e-3)


@pytest.mark.slow
def test_conditional_flow():
  flow = estimator_testing.image_flow(condition_size=2, num_scales=1)
  model = estimator_testing.image_estimator(flow)
  condition = np.eye(2, dtype=np.float32)[np.arange(50) % 2]
  history = model.fit(
    estimator_testing.images(), condition, epochs=2, verbose=0
  ).history
  assert np.isfinite(history['loss']).all()
  metrics = model.evaluate(
    estimator_testing.images(), condition, verbose=0, return_dict=True
  )
  assert metrics['non_finite'] == 0


@pytest.mark.parametrize('value', [-1.0, 256.0, np.nan])
def test_float_images_outside_the_range_are_found(value):
  images = estimator_testing.images().astype(np.float32)
  images[3, 1, 2, 0] = value
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r'`x` must be pixels on \[0, 256\)'
  ):
    estimator_testing.image_estimator().evaluate(images, verbose=0)


def test_integers_beyond_the_levels_are_found():
  model = estimator_testing.image_estimator(num_levels=17)
  with pytest.raises(tf.errors.InvalidArgumentError, match=r'on \[0, 17\)'):
    model.evaluate(estimator_testing.images(), verbose=0)


def test_errors_name_the_argument_and_show_the_value():
  dist = tfd.Normal(0.0, 1.0)
  with pytest.raises(TypeError, match='`distribution` must be .* got 3'):
    density_estimator.DensityEstimator(3)
  with pytest.raises(ValueError, match='`num_levels` must be .* got 0'):
    density_estimator.DensityEstimator(dist, num_levels=0)
  with pytest.raises(ValueError, match="`loss` .* got 'mse'"):
    density_estimator.DensityEstimator(dist).compile(loss='mse')
  model = density_estimator.DensityEstimator(dist, num_levels=None)
  model.compile()
  with pytest.raises(ValueError, match='`distribution` has no trainable vari'):
    model.fit(np.zeros([2], np.float32), verbose=0)
  with pytest.raises(
    ValueError, match=r'`x` must be .*\(4, 4, 1\).*\(2, 5, 5, 1\)'
  ):
    estimator_testing.image_estimator().call(np.zeros([2, 5, 5, 1], np.uint8))


@pytest.mark.slow
def test_loss_scaling_changes_no_step():
  # Of SGD: of Adam, a wrong scale would not show.
  x = estimator_testing.images(32)
  losses = []
  for scale in (None, 2.0**10):
    optimizer = keras.optimizers.SGD(1e-4)
    if scale:
      optimizer = keras.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=scale
      )
    model = estimator_testing.image_estimator(compiled=False)
    model.compile(optimizer)
    history = model.fit(x, batch_size=16, epochs=3, shuffle=False, verbose=0)
    losses.append(history.history['loss'])
    assert int(optimizer.iterations) == 6
  assert losses[0][-1] < losses[0][0]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('compute_dtype', ['bfloat16', 'float16'])
def test_networks_of_lower_precision_learn_as_well(compute_dtype):
  x = estimator_testing.images(200)
  bits = []
  for dtype in ('float32', compute_dtype):
    optimizer = keras.optimizers.Adam(1e-2)
    if dtype == 'float16':
      optimizer = keras.optimizers.LossScaleOptimizer(
        optimizer, initial_scale=2.0**8
      )
    flow = estimator_testing.image_flow(compute_dtype=dtype, hidden_channels=8)
    model = estimator_testing.image_estimator(flow, compiled=False)
    model.compile(optimizer)
    model.fit(x, batch_size=50, epochs=10, verbose=0)
    bits.append(model.evaluate(x, verbose=0, return_dict=True)['bits_per_dim'])
    assert {v.dtype for v in model.variables} == {tf.float32}
    z = flow.inverse(tf.constant(x, tf.float32))
    # What the networks round changes nothing about invertibility.
    back = flow.forward(tf.identity(z))
    np.testing.assert_allclose(back, x, atol=0.05)
  assert bits[0] < 6.5
  np.testing.assert_allclose(bits[1], bits[0], atol=0.05)


def test_variables_that_the_loss_does_not_see_stay_as_they_are():
  dist = tfd.Normal(tf.Variable([1.0, 2.0]), 1.0)
  dist.unseen = tf.Variable(3.0)
  model = density_estimator.DensityEstimator(
    tfd.Independent(dist, 1), num_levels=None
  )
  model.compile(keras.optimizers.Adam(0.1))
  model.fit(np.zeros([4, 2], np.float32), verbose=0)
  np.testing.assert_allclose(dist.loc, [0.9, 1.9], rtol=1e-5)
  assert dist.unseen == 3


def test_noise_follows_from_seed_and_step():
  def noises(model, steps):
    seen = []
    log_prob = model.distribution.log_prob
    model.distribution.log_prob = lambda x, **kwargs: (
      seen.append(x.numpy()) or log_prob(x, **kwargs)
    )
    for _ in range(steps):
      model.train_step(estimator_testing.images(10))
    return [x - estimator_testing.images(10) for x in seen]

  first, second, third = noises(estimator_testing.image_estimator(), 3)
  assert len({first[0, 0, 0, 0], second[0, 0, 0, 0], third[0, 0, 0, 0]}) == 3
  for noise in (first, second, third):
    assert np.all((noise >= 0) & (noise < 1))
    assert abs(noise.mean() - 0.5) < 0.1
  resumed = estimator_testing.image_estimator()
  resumed.step.assign(2)
  np.testing.assert_array_equal(noises(resumed, 1)[0], third)


@pytest.mark.slow
def test_evaluations_repeat_themselves_with_noise_that_differs_by_batch():
  model = estimator_testing.image_estimator()
  estimator_testing.fit_batches(model, estimator_testing.images(50))
  same = np.repeat(estimator_testing.images(1), 20, axis=0)
  evaluate = lambda x: model.evaluate(
    x, batch_size=10, verbose=0, return_dict=True
  )
  assert evaluate(same) == evaluate(same)
  assert evaluate(same)['loss'] != evaluate(same[:10])['loss']


@pytest.mark.slow
def test_sample_weights_count_in_evaluation():
  model = estimator_testing.vector_estimator(tf.float64)
  x = estimator_testing.vectors()
  log_prob = model.predict(x, verbose=0)
  weights = np.random.default_rng(1).uniform(0, 3, 40)
  weights[:20] = 0
  evaluate = lambda *data, **kwargs: model.evaluate(
    *data, batch_size=7, verbose=0, return_dict=True, **kwargs
  )
  metrics = evaluate(x, sample_weight=weights)
  expected = -np.average(log_prob, weights=weights)
  np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-12)
  np.testing.assert_allclose(
    metrics['bits_per_dim'], expected / 2 / np.log(2), rtol=1e-12
  )
  history = model.fit(
    x, validation_data=(x, None, weights), epochs=1, verbose=0
  ).history
  again = evaluate(x, sample_weight=weights)
  assert history['val_loss'] == pytest.approx([again['loss']], rel=1e-9)
  # An event of weight 0 does not count, whatever it is.
  x[:20] = np.nan
  assert evaluate(x, sample_weight=weights)['loss'] == again['loss']


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_a_condition_is_given_in_the_dtype_of_the_flow(dtype):
  model = estimator_testing.vector_estimator(dtype, condition_size=2)
  labels = np.eye(2)[np.arange(40) % 2]
  for kind in (np.int64, np.float32, np.float64, bool):
    history = model.fit(
      estimator_testing.vectors(), labels.astype(kind), verbose=0
    ).history
    assert np.isfinite(history['loss']).all()


def test_wrong_conditions_are_errors():
  x = estimator_testing.vectors()
  model = estimator_testing.vector_estimator()
  for call in (model.fit, model.evaluate):
    with pytest.raises(ValueError, match='No flow of `distribution` takes a c'):
      call(x, x, verbose=0)
  with pytest.raises(ValueError, match='No flow of `distribution` takes a c'):
    model.predict(tf.data.Dataset.from_tensors((x, x)), verbose=0)
  # A row for each event: not one for all, though its length is that of a row.
  model = estimator_testing.vector_estimator(condition_size=40)
  with pytest.raises(ValueError, match=r'must have shape \[N, K\].*one-hot'):
    model.fit(x, np.arange(40.0), verbose=0)


def test_predict_takes_a_condition_with_the_data():
  model = estimator_testing.vector_estimator(condition_size=2)
  x, condition = estimator_testing.vectors(), np.eye(2)[np.arange(40) % 2]
  expected = model.distribution.log_prob(
    tf.cast(x, tf.float32), bijector_kwargs={'condition': condition}
  )
  assert np.ptp(expected) > 0.1
  for found in (
    model.predict((x, condition), batch_size=16, verbose=0),
    model.predict([x, condition], verbose=0),
    model.predict_on_batch((x, condition)),
    # Weights have no effect.
    model.predict(
      tf.data.Dataset.from_tensors((x, condition, np.zeros(40))), verbose=0
    ),
    model((x, condition)),
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_and_dictionaries_are_errors_that_say_what_to_pass():
  x, labels = estimator_testing.vectors(), np.arange(40) % 2
  model = estimator_testing.vector_estimator(condition_size=2)
  for y in (labels, labels[:, np.newaxis]):
    with pytest.raises(ValueError, match=r'one-hot encoding: tf.one_hot\(lab'):
      model.fit(x, y, verbose=0)
  with pytest.raises(ValueError, match=r'tf.one_hot\(labels, 2\)'):
    model.distribution.log_prob(
      tf.cast(x, tf.float32), bijector_kwargs={'condition': labels}
    )
  batches = {'image': x, 'label': labels}
  data = tf.data.Dataset.from_tensors(batches)
  for call in (
    lambda: model.fit(batches, verbose=0),
    lambda: model.fit(data, verbose=0),
    lambda: model.evaluate(data, verbose=0),
    lambda: model.predict(data, verbose=0),
  ):
    with pytest.raises(TypeError, match=r"the keys \['image', 'label'\]"):
      call()


def test_unbatched_data_is_named():
  data = tf.data.Dataset.from_tensor_slices(estimator_testing.vectors())
  with pytest.raises(ValueError, match='the batch dimension is missing'):
    estimator_testing.vector_estimator().fit(data, verbose=0)


def test_distributions_that_are_not_of_one_event_are_errors():
  with pytest.raises(ValueError, match=r'no batch dimensions, got .*\(40,\)'):
    density_estimator.DensityEstimator(tfd.Normal(tf.zeros([40]), 1.0))
  joint = tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])
  with pytest.raises(ValueError, match='fully known event shape'):
    density_estimator.DensityEstimator(joint)


@pytest.mark.slow
@pytest.mark.parametrize(
  'dtype, num_levels',
  [
    (np.int8, 256),
    (np.int16, 65536),
    (np.int32, 2**20),
  ],
)
def test_signed_images_of_all_levels_of_their_dtype(dtype, num_levels):
  flow = estimator_testing.image_flow(
    logit_transform=tfp_realnvp.LogitTransform(num_levels)
  )
  model = estimator_testing.image_estimator(flow, num_levels=num_levels)
  history = model.fit(
    estimator_testing.images().astype(dtype) - 50, verbose=0
  ).history
  assert history['non_finite'] == [0]
  assert 0 < history['bits_per_dim'][0] < 40
  with pytest.raises(tf.errors.InvalidArgumentError, match='must be pixels on'):
    model.evaluate(np.full([1, 4, 4, 1], -1, dtype), verbose=0)


@pytest.mark.slow
def test_boolean_images_have_two_levels():
  model = estimator_testing.image_estimator(num_levels=2)
  images = np.random.default_rng(0).uniform(size=[20, 4, 4, 1]) < 0.5
  metrics = model.evaluate(images, verbose=0, return_dict=True)
  as_integers = model.evaluate(
    images.astype(np.uint8), verbose=0, return_dict=True
  )
  assert metrics == as_integers


def _unordered_writes(function):
  """Runs a `tf.function` and checks the order of its optimized graph.

  Returns the names of the operations that write a variable and are not ordered
  against another operation on the same variable.
  """
  context.context().enable_graph_collection()
  try:
    function()
    functions = context.context().export_run_metadata().function_graphs
  finally:
    context.context().disable_graph_collection()
  graph = max(
    (part for f in functions for part in f.partition_graphs),
    key=lambda part: len(part.node),
  )
  nodes = {node.name: node for node in graph.node}
  inputs = lambda node: [x.lstrip('^').split(':')[0] for x in node.input]

  @functools.cache
  def ancestors(name):
    names = inputs(nodes[name])
    return set(names).union(*map(ancestors, names))

  def resource(name):
    while nodes[name].op in ('Identity', 'Switch'):
      name = inputs(nodes[name])[0]
    return name

  touching = collections.defaultdict(list)
  for node in graph.node:
    if node.op.endswith('VariableOp'):
      touching[resource(inputs(node)[0])].append(node)
  return [
    write.name
    for group in touching.values()
    for write in group
    for other in group
    if write.op.startswith('Assign')
    and write is not other
    and write.name not in ancestors(other.name)
    and other.name not in ancestors(write.name)
  ]


@pytest.mark.parametrize(
  ('recompute', 'lagged', 'weighted'),
  [
    (True, True, False),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in itertools.product([False, True], repeat=3)
      if case != (True, True, False)
    ),
  ],
)
def test_graphs_keep_the_order_of_reads_and_writes(recompute, lagged, weighted):
  norm = tfp_realnvp.BatchNormOptions(lagged=lagged)
  flow = estimator_testing.image_flow(norm=norm, recompute=recompute)
  model = estimator_testing.image_estimator(flow)
  x = tf.constant(estimator_testing.images(8))
  data = (x, None, tf.ones([8])) if weighted else x
  model.train_step(data)  # Creates the optimizer's variables.
  step = tf.function(model.train_step, autograph=False)
  assert not _unordered_writes(functools.partial(step, data))
