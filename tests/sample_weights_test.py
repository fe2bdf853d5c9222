import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import estimator_testing
from tests import flow_testing
from tests import program_testing
import tfp_realnvp
from tfp_realnvp.training import sample_weights

tfb = tfp.bijectors
tfd = tfp.distributions

_WEIGHTS = np.array([0, 1, 2, 3, 0, 1, 1, 4, 2, 2, 1, 0, 0, 1, 5, 1])
_BATCH_SIZE = 4
_LAGGED = tfp_realnvp.BatchNormOptions(lagged=True)


def _dataset(*arrays):
  return tf.data.Dataset.from_tensor_slices(arrays).batch(_BATCH_SIZE)


def _repeated(*arrays):
  """Returns batches in which rows occur as often as `_WEIGHTS` says."""
  rows = [a for a in arrays if a is not None]
  split = lambda a: np.split(a, len(a) // _BATCH_SIZE)
  batches = [
    tuple(np.repeat(a, weight, axis=0) for a in batch)
    for *batch, weight in zip(*map(split, rows), split(_WEIGHTS))
  ]
  signature = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in rows)
  return tf.data.Dataset.from_generator(
    lambda: iter(batches), output_signature=signature
  )


def _vectors(dtype=tf.float64, **kwargs):
  model = estimator_testing.vector_estimator(dtype, **kwargs)
  flow_testing.randomize(model.distribution)
  return model, estimator_testing.vectors(16)


def _images(dtype=tf.float64, **kwargs):
  """Returns a model of images that are used as they are, without noise."""
  flow = estimator_testing.image_flow(num_scales=1, dtype=dtype, **kwargs)
  flow_testing.randomize(flow)
  model = estimator_testing.image_estimator(
    flow, compiled=False, num_levels=None
  )
  model.compile(keras.optimizers.SGD(1e-4))
  return model, estimator_testing.images(16) + 0.5


def _assert_same_variables(models, rtol=1e-9, atol=1e-12):
  for one, other in zip(*(model.variables for model in models)):
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


_MODELS = {
  'without_batch_norm': lambda: _vectors(batch_norm=False),
  'vectors': _vectors,
  'lagged': lambda: _vectors(norm=_LAGGED),
  'images': _images,
  'recomputed': lambda: _images(recompute=True),
}


@pytest.mark.parametrize(
  'name',
  [
    name
    if name == 'without_batch_norm'
    else pytest.param(name, marks=pytest.mark.slow)
    for name in _MODELS
  ],
)
def test_weights_are_repeated_rows(name):
  results = []
  models = [_MODELS[name]()[0] for _ in range(2)]
  x = _MODELS[name]()[1]
  before = [v.numpy() for v in models[0].trainable_variables]
  weighted, repeated = _dataset(x, np.zeros([16, 0]), _WEIGHTS), _repeated(x)
  for model, data in zip(models, (weighted, repeated)):
    history = model.fit(data, epochs=5, verbose=0).history
    metrics = model.evaluate(data, verbose=0, return_dict=True)
    results.append([*history['loss'], *metrics.values()])
  assert models[0].step == 20
  assert np.any(models[0].trainable_variables[0] != before[0])
  np.testing.assert_allclose(*results, rtol=1e-6)
  _assert_same_variables(models)
  # Without the weights it is another step.
  model, _ = _MODELS[name]()
  model.fit(_dataset(x), epochs=5, verbose=0)
  with pytest.raises(AssertionError):
    _assert_same_variables([model, models[0]], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('jit_compile', [False, True])
def test_weights_are_repeated_rows_in_float32(jit_compile):
  models = []
  for _ in range(2):
    model, x = _vectors(tf.float32)
    model.compile(keras.optimizers.SGD(1e-2), jit_compile=jit_compile)
    models.append(model)
  models[0].fit(_dataset(x, np.zeros([16, 0]), _WEIGHTS), verbose=0)
  models[1].fit(_repeated(x), verbose=0)
  _assert_same_variables(models, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_train_on_batch_and_test_on_batch():
  models = [_vectors()[0] for _ in range(2)]
  _, x = _vectors()
  repeated = x.repeat(_WEIGHTS, axis=0)
  for _ in range(20):
    losses = [
      models[0].train_on_batch(x, sample_weight=_WEIGHTS.tolist()),
      models[1].train_on_batch(repeated),
    ]
  np.testing.assert_allclose(*losses, rtol=1e-6)
  _assert_same_variables(models)
  losses = [
    models[0].test_on_batch(x, sample_weight=_WEIGHTS),
    models[1].test_on_batch(repeated),
  ]
  np.testing.assert_allclose(*losses, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('condition_size', [None, 1])
def test_arrays_and_data_sets(condition_size):
  y = None
  if condition_size:
    y = np.random.default_rng(1).normal(size=[16, 1])
  models, losses = [], []
  for way in ('arrays', 'dataset', 'repeated'):
    model, x = _vectors(condition_size=condition_size)
    models.append(model)
    data, validation = {
      'arrays': ({'x': x, 'y': y}, (x, y, _WEIGHTS)),
      'dataset': ({'x': _dataset(x, y, _WEIGHTS)}, _dataset(x, y, _WEIGHTS)),
      'repeated': ({'x': _repeated(x, y)}, _repeated(x, y)),
    }[way]
    if way == 'arrays':
      data |= {'batch_size': _BATCH_SIZE, 'sample_weight': _WEIGHTS}
    history = model.fit(
      **data, validation_data=validation, shuffle=False, epochs=2, verbose=0
    ).history
    losses.append(history['loss'] + history['val_loss'])
  for i in (0, 1):
    np.testing.assert_allclose(losses[i], losses[2], rtol=1e-6)
    _assert_same_variables([models[i], models[2]])


@pytest.mark.slow
def test_replicas():
  program_testing.run_program('weighted_replicas', check=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vectors', 'lagged', 'images'])
def test_reestimation(name):
  models = [_MODELS[name]()[0] for _ in range(3)]
  x = _MODELS[name]()[1]
  models[0].reestimate_statistics(
    x, sample_weight=_WEIGHTS, batch_size=_BATCH_SIZE
  )
  models[1].reestimate_statistics(_dataset(x, None, _WEIGHTS))
  models[2].reestimate_statistics(_repeated(x))
  _assert_same_variables([models[0], models[2]])
  _assert_same_variables([models[1], models[2]])


def test_reestimation_with_a_condition():
  y = np.random.default_rng(1).normal(size=[16, 1])
  models = [_vectors(condition_size=1)[0] for _ in range(3)]
  _, x = _vectors()
  models[0].reestimate_statistics(x, y, _WEIGHTS, _BATCH_SIZE)
  models[1].reestimate_statistics(_dataset(x, y, _WEIGHTS))
  models[2].reestimate_statistics(_repeated(x, y))
  _assert_same_variables([models[0], models[2]])
  _assert_same_variables([models[1], models[2]])


def test_reestimation_by_hand():
  norm = tfp_realnvp.BatchNormBijector(1)
  base = flow_testing.isotropic_normal((1,))
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(base, tfb.Invert(norm)), num_levels=None
  )
  x = np.array([[1.0], [4.0], [9.0], [2.0], [7.0]], np.float32)
  # The last batch has no weight.
  model.reestimate_statistics(x, None, [1, 2, 0, 0.5, 0], batch_size=2)
  mean = (1 + 2 * 4 + 0.5 * 2) / 3.5
  variance = (1 + 2 * 16 + 0.5 * 4) / 3.5 - mean**2
  np.testing.assert_allclose(norm.statistics.mean, [mean], rtol=1e-6)
  np.testing.assert_allclose(norm.statistics.variance, [variance], rtol=1e-5)
  assert norm.statistics.num_updates == 2
  with pytest.raises(ValueError, match='`x` must have rows of nonzero weight'):
    model.reestimate_statistics(x, sample_weight=np.zeros(5))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['vectors', 'images'])
def test_rows_of_weight_0_may_hold_anything(name):
  models = [_MODELS[name]()[0] for _ in range(2)]
  x = _MODELS[name]()[1]
  damaged = np.where(
    (_WEIGHTS == 0).reshape([16] + [1] * (x.ndim - 1)), np.nan, x
  )
  results = []
  for model, data in zip(models, (damaged, x)):
    kwargs = {'sample_weight': _WEIGHTS, 'batch_size': _BATCH_SIZE}
    model.reestimate_statistics(data, **kwargs)
    history = model.fit(data, shuffle=False, verbose=0, **kwargs).history
    results.append([history['loss'], model.evaluate(data, **kwargs)])
    assert history['non_finite'] == [0]
  assert results[0] == results[1]
  _assert_same_variables(models, rtol=0, atol=0)


@pytest.mark.slow
def test_a_batch_of_no_weight_changes_nothing():
  for norm in (None, _LAGGED):
    model = estimator_testing.vector_estimator(norm=norm)
    before = [v.numpy() for v in model.variables]
    history = model.fit(
      estimator_testing.vectors(8),
      sample_weight=np.zeros(8),
      batch_size=8,
      verbose=0,
    ).history
    assert history['non_finite'] == [0]
    for variable, value in zip(model.variables, before):
      np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
def test_events_of_several_vectors():
  # The flow sees the dimensions `[N, 3]`, its networks `3 N` rows.
  models = []
  for _ in range(2):
    flow = flow_testing.chain((2,), num_couplings=2, dtype=tf.float64, seed=1)
    base = flow_testing.isotropic_normal((2,), tf.float64)
    dist = tfd.Sample(tfd.TransformedDistribution(base, flow), [3])
    model = tfp_realnvp.DensityEstimator(dist, num_levels=None)
    model.compile(keras.optimizers.SGD(1e-2))
    models.append(model)
  x = np.random.default_rng(0).normal(size=[16, 3, 2])
  models[0].train_on_batch(x, sample_weight=_WEIGHTS)
  models[1].train_on_batch(x.repeat(_WEIGHTS, axis=0))
  _assert_same_variables(models)


@pytest.mark.slow
def test_training_without_weights_has_no_operations_for_them():
  flow = estimator_testing.image_flow(num_scales=1)
  model = estimator_testing.image_estimator(flow)
  images = estimator_testing.images(4)
  count = lambda *data: flow_testing.count_ops(lambda: model.train_step(data))
  plain, weighted = count(images), count(images, None, tf.ones([4]))
  assert plain['TopKV2'] == 0 < weighted['TopKV2']
  # The fused kernel does not support weights.
  assert plain['FusedBatchNormV3'] > 0 == weighted['FusedBatchNormV3']


_INVALID = {
  'shape': (np.ones([16, 2]), ValueError, r'have shape .*got.*\(16, 2\)'),
  'column': (np.ones([16, 1]), ValueError, r'have shape .*got.*\(16, 1\)'),
  'number': (np.ones([15]), ValueError, r'have shape \(16,\).*got.*\(15,\)'),
  'scalar': (2.0, ValueError, r'have shape \(16,\).*got shape \(\)'),
  'negative': ([1.0] * 15 + [-0.5], ValueError, 'at least 0, got -0.5 in'),
  'nan': ([np.nan] + [1.0] * 15, ValueError, 'finite .*got nan in row 0'),
  'infinite': (np.full(16, np.inf), ValueError, 'finite .*got inf in row 0'),
  'strings': (['one'] * 16, TypeError, "numbers, got .*'one'"),
  'objects': ([None] * 16, TypeError, 'numbers, got .*None'),
  'ragged': ([[1.0]] * 15 + [[1.0, 2.0]], TypeError, 'numbers, got .*2.0'),
}


@pytest.mark.parametrize('name', _INVALID)
def test_invalid_arrays_are_named_and_shown(name):
  weight, error, message = _INVALID[name]
  message = f'`sample_weight` must .*{message}'
  model, x = _vectors()
  before = [v.numpy() for v in model.variables]
  for call in (
    model.fit,
    model.evaluate,
    model.train_on_batch,
    model.test_on_batch,
    model.reestimate_statistics,
  ):
    with pytest.raises(error, match=message):
      call(x, sample_weight=weight)
  with pytest.raises(error, match=message):
    model.fit(x, validation_data=(x, None, weight))
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable, value)


@pytest.mark.slow
@pytest.mark.parametrize(
  'weight, error, message',
  [
    (np.ones([16, 2]), ValueError, r'must have shape .*got shape .*, 2\)'),
    (-np.ones(16), tf.errors.OpError, r'at least 0; .*\D-1'),
    (np.full(16, np.nan), tf.errors.OpError, 'be finite .*nan'),
    (['one'] * 16, TypeError, 'must hold numbers, got .*string'),
  ],
)
def test_invalid_weights_of_data_sets_are_named_and_shown(
  weight, error, message
):
  model, x = _vectors()
  data = _dataset(x, None, weight)
  before = [v.numpy() for v in model.variables]
  for call in (model.fit, model.evaluate, model.reestimate_statistics):
    with pytest.raises(error, match=f'`sample_weight` .*{message}'):
      call(data)
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable, value)


def test_a_weight_for_another_number_of_events():
  model, x = _vectors()
  data = tf.data.Dataset.from_generator(
    lambda: iter([(x, np.zeros([16, 0]), np.ones(1))]),
    output_signature=tuple(
      tf.TensorSpec(shape, tf.float64)
      for shape in ([None, 2], [None, 0], [None])
    ),
  )
  with pytest.raises(tf.errors.OpError, match='a weight for each event of `x`'):
    model.fit(data, verbose=0)


def test_kinds_of_weights():
  for weight in (
    [True, False],
    [1, 0],
    np.float16([1, 0]),
    tf.constant([1, 0]),
  ):
    checked = sample_weights.check(weight, 2)
    tensor = sample_weights.to_tensor(checked, tf.zeros([2, 3]), tf.float64)
    np.testing.assert_array_equal(tensor, [1.0, 0.0])
    assert tensor.dtype == tf.float64


def test_rows_of_weight_0_are_replaced_by_the_heaviest():
  replace = tf.function(
    sample_weights.replace_rows,
    input_signature=[tf.TensorSpec([None]), tf.TensorSpec([None, 1])],
  )
  (x,) = replace(tf.constant([0.0, 1.0, 2.0]), tf.constant([[5.0], [6], [7]]))
  np.testing.assert_array_equal(x, [[7], [6], [7]])
  (x,) = replace(tf.zeros([0]), tf.zeros([0, 1]))
  assert x.shape == (0, 1)
  assert sample_weights.replace_rows(tf.ones([2]), None) == [None]


def test_classes_of_data_sets():
  y = np.eye(2)[np.arange(16) % 2]
  weights = np.where(np.arange(16) % 2, 3.0, 1.0)
  classes = {0: 1.0, 1: 3.0}
  models = [_vectors(condition_size=2, batch_norm=False)[0] for _ in range(2)]
  _, x = _vectors()
  losses = [
    models[0].fit(_dataset(x, y), class_weight=classes, verbose=0),
    models[1].fit(_dataset(x, y, weights), verbose=0),
  ]
  np.testing.assert_allclose(*(h.history['loss'] for h in losses), rtol=1e-6)
  _assert_same_variables(models)

  class Batches(keras.utils.PyDataset):
    num_batches = 1

    def __getitem__(self, index):
      return (x,)

  for data in (x, _dataset(x), Batches()):
    with pytest.raises(ValueError, match='`class_weight` needs classes'):
      models[0].fit(data, class_weight=classes, verbose=0)


@pytest.mark.slow
def test_steps_limit_the_batches():
  model, x = _vectors()
  log_prob = model.predict(x, verbose=0)
  kwargs = {'batch_size': _BATCH_SIZE, 'verbose': 0}
  loss = model.evaluate(
    x, sample_weight=_WEIGHTS, steps=2, return_dict=True, **kwargs
  )['loss']
  expected = -np.average(log_prob[:8], weights=_WEIGHTS[:8])
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  assert len(model.predict(x, steps=3, **kwargs)) == 12
  model.fit(
    x,
    sample_weight=_WEIGHTS,
    steps_per_epoch=2,
    validation_data=(x, None, _WEIGHTS),
    validation_steps=1,
    **kwargs,
  )
  assert model.step == 2
  assert model.state.test_step == 1


def test_predictions_are_those_of_each_event():
  model, x = _vectors()
  predicted = model.predict(_dataset(x, None, _WEIGHTS), verbose=0)
  np.testing.assert_allclose(predicted, model.predict(x, verbose=0))
