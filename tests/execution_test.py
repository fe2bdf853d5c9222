import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import estimator_testing
from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.training import execution

tfb = tfp.bijectors
tfd = tfp.distributions


def _distribution(*others, **kwargs):
  flow = tfp_realnvp.RealNVPChain((2,), num_couplings=2, **kwargs)
  base = flow_testing.isotropic_normal((2,))
  return tfd.TransformedDistribution(base, tfb.Chain([*others, flow]))


class _Custom(tfb.Bijector):
  def __init__(self):
    super().__init__(forward_min_event_ndims=0)


@pytest.mark.parametrize(
  'distribution, expected',
  [
    (lambda: _distribution(), True),
    (lambda: _distribution(tfb.Shift([1.0, 2.0])), True),
    (lambda: _distribution(_Custom()), False),
    (lambda: _distribution(networks=lambda spec: lambda x: (x, x)), False),
    (lambda: _distribution(couplings=tfp_realnvp.SplineCouplings()), False),
    (lambda: flow_testing.isotropic_normal((2,)), False),
  ],
)
def test_where_xla_is_faster(distribution, expected):
  assert execution.is_faster_with_xla(distribution()) == expected


_ROWS = tf.data.Dataset.from_tensor_slices(np.zeros([6, 2]))


@pytest.mark.parametrize(
  'x, expected',
  [
    (np.zeros([6, 2]), True),
    (_ROWS.batch(4, drop_remainder=True), True),
    (_ROWS.batch(4), False),
    (_ROWS.batch(4, drop_remainder=True).map(lambda x: (x, None)), False),
    (iter([np.zeros([6, 2])]), False),
  ],
)
def test_shapes_that_are_known_in_advance(x, expected):
  assert execution.has_static_shapes(x) == expected


class _OldName(keras.callbacks.Callback):
  def on_batch_end(self, batch, logs=None):
    pass


@pytest.mark.parametrize(
  'callbacks, limits, expected',
  [
    (None, (), 32),
    ([], (None, None), 32),
    ([keras.callbacks.EarlyStopping()], (), 32),
    (keras.callbacks.EarlyStopping(), (), 32),
    (keras.callbacks.LambdaCallback(on_epoch_end=print), (), 32),
    ([keras.callbacks.LambdaCallback(on_train_batch_end=print)], (), 1),
    ([keras.callbacks.LambdaCallback(on_test_batch_begin=print)], (), 1),
    ([keras.callbacks.ModelCheckpoint('x.weights.h5')], (), 1),
    ([_OldName()], (), 1),
    (keras.callbacks.CallbackList(), (), 1),
    (None, (75,), 25),
    (None, (60, 50), 10),
    (None, (37, None), 1),
  ],
)
def test_steps_at_a_time(callbacks, limits, expected):
  assert execution.steps_per_execution(callbacks, *limits) == expected


@pytest.mark.parametrize(
  'given, expected',
  [
    ({'x': np.ones([65, 2])}, 3),
    ({'x': np.ones([65, 2]), 'batch_size': 65}, 1),
    ({'x': np.ones([65, 2]), 'validation_split': 0.1}, None),
    ({'x': tf.data.Dataset.range(3)}, None),
  ],
)
def test_arrays_say_how_many_steps_an_epoch_has(given, expected):
  assert execution.steps_of_arrays(given) == expected


@pytest.mark.slow
def test_training_makes_one_iterator_for_an_epoch(monkeypatch):
  made = []
  make = tf.data.Dataset.__iter__
  monkeypatch.setattr(
    tf.data.Dataset, '__iter__', lambda self: made.append(self) or make(self)
  )
  x = estimator_testing.vectors(100)
  model = estimator_testing.vector_estimator()
  model.compile('sgd')
  history = model.fit(
    x,
    batch_size=16,
    epochs=5,
    verbose=0,
  )
  assert len(history.epoch) == 5
  assert model.step == 5 * 7
  # One before each epoch, and one after the last.
  assert len(made) == 5 + 1


class _Counter(keras.callbacks.Callback):
  def __init__(self):
    super().__init__()
    self.batches = []

  def on_train_batch_end(self, batch, logs=None):
    self.batches.append(batch)


@pytest.mark.slow
def test_fit_is_the_same_however_its_steps_run():
  x = estimator_testing.vectors(100)
  fits = []
  for compiled in ({}, {'jit_compile': False, 'steps_per_execution': 1}):
    model = estimator_testing.vector_estimator()
    model.compile(keras.optimizers.SGD(1e-2), **compiled)
    history = model.fit(
      x,
      batch_size=16,
      epochs=2,
      shuffle=False,
      validation_data=x[:20],
      verbose=0,
    ).history
    fits.append([*history['loss'], *history['val_loss']])
    fits[-1] += [v.numpy() for v in model.variables]
    assert model.step == 2 * 7
    assert (model.jit_compile, model.steps_per_execution) == (False, 1)
    fits[-1].append(model.evaluate(x, batch_size=16, steps=2, verbose=0))
  for chosen, plain in zip(*fits):
    np.testing.assert_allclose(chosen, plain, rtol=1e-4, atol=1e-5)


def _ways(model):
  """Which steps a model has made: whether by XLA, and how many at a time."""
  return {key[2:] for key in model._functions if key[0] == 'train_function'}


@pytest.mark.slow
def test_what_fit_chooses_and_what_it_leaves():
  x = estimator_testing.vectors(64)
  model = estimator_testing.vector_estimator()
  model.compile('sgd')
  model.fit(x, batch_size=16, verbose=0)
  assert _ways(model) == {(True, 32)}
  counter = _Counter()
  model.fit(x, batch_size=16, callbacks=[counter], verbose=0)
  assert counter.batches == [0, 1, 2, 3]
  assert _ways(model) == {(True, 32), (True, 1)}
  data = tf.data.Dataset.from_tensor_slices(x).repeat().batch(16)
  model.fit(data, steps_per_epoch=3, verbose=0)
  assert _ways(model) == {(True, 32), (True, 1), (False, 3)}
  data = data.unbatch().batch(16, drop_remainder=True)
  model.fit(data, steps_per_epoch=2, verbose=0)
  assert (True, 2) in _ways(model)
  assert model.step == 4 + 4 + 3 + 2
  model.train_on_batch(x)
  assert (False, 1) in _ways(model)
  model.compile('sgd', jit_compile=False, steps_per_execution=2)
  model.fit(x, batch_size=16, verbose=0)
  assert _ways(model) == {(False, 2)}


def test_pixels_are_not_compiled_unasked():
  flow = flow_testing.chain((2,), num_couplings=2)
  base = flow_testing.isotropic_normal((2,))
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(base, flow), num_levels=4
  )
  model.compile('sgd')
  model.fit(np.ones([8, 2], np.uint8), verbose=0)
  assert _ways(model) == {(False, 32)}
