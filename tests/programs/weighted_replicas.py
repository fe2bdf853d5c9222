"""Trains with weights on two replicas, and on one with repeated rows."""

import contextlib

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)
from tests import estimator_testing
import tfp_realnvp

strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
# The second replica gets the second half of a batch, which may be empty.
weights = [[2, 0, 1, 1], [1, 2, 0, 0], [1, 3, 2], [0, 2, 0], [3]]
splits = np.cumsum([len(each) for each in weights])[:-1]
rows = estimator_testing.vectors(15)
batches = list(zip(np.split(rows, splits), weights))


def estimator(scope, synchronized, batch_norm):
  norm = tfp_realnvp.BatchNormOptions(synchronized=synchronized)
  with scope:
    return estimator_testing.vector_estimator(
      tf.float64, norm=norm, batch_norm=batch_norm
    )


def dataset(batches):
  """Returns batches of any sizes: pairs of rows and their weights."""
  return tf.data.Dataset.from_generator(
    lambda: ((x, np.zeros([len(x), 0]), weight) for x, weight in batches),
    output_signature=(
      tf.TensorSpec([None, 2], tf.float64),
      tf.TensorSpec([None, 0], tf.float64),
      tf.TensorSpec([None], tf.float64),
    ),
  )


def repeated(batches):
  repeated = [np.repeat(x, weight, axis=0) for x, weight in batches]
  return [(x, np.ones(len(x))) for x in repeated]


def assert_equal(models, results):
  for result in results[1:]:
    np.testing.assert_allclose(result, results[0], rtol=1e-6)
  for one, other in zip(*(model.variables for model in models)):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


for batch_norm in (False, True):
  models = [
    estimator(scope, True, batch_norm)
    for scope in (strategy.scope(), contextlib.nullcontext())
  ]
  data = [dataset(batches), dataset(repeated(batches))]
  results = []
  for model, each in zip(models, data):
    losses = model.fit(each, epochs=4, verbose=0).history['loss']
    if batch_norm:
      model.reestimate_statistics(each)
    results.append(losses + model.evaluate(each, verbose=0))
  assert_equal(models, results)

# Replicas with statistics of their own: one whose rows have no weight is like
# one without rows.
models = [estimator(strategy.scope(), False, True) for _ in range(2)]
data = [
  dataset([(rows[:2], [1, 0]), (rows[2:4], [1, 0])]),
  tf.data.Dataset.from_tensor_slices(rows[0:4:2]).batch(1),
]
results = [
  model.fit(each, epochs=2, verbose=0).history['loss']
  for model, each in zip(models, data)
]
assert_equal(models, results)
