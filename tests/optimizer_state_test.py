import keras
import pytest
import tensorflow as tf

from tfp_realnvp.training import optimizer_state


def _built(optimizer):
  optimizer.build([keras.Variable(tf.zeros([2]))])
  return optimizer


@pytest.mark.parametrize(
  'optimizer, name, slots',
  [
    (
      lambda: keras.optimizers.Adam(0.1),
      'Adam',
      {'iterations', 'momentums', 'velocities'},
    ),
    (lambda: keras.optimizers.SGD(0.1), 'SGD', {'iterations'}),
    (
      lambda: keras.optimizers.SGD(0.1, momentum=0.9),
      'SGD',
      {'iterations', 'momentums'},
    ),
  ],
)
def test_slots_are_named_by_what_they_hold(optimizer, name, slots):
  optimizer = _built(optimizer())
  assert optimizer_state.class_name(optimizer) == name
  assert set(optimizer_state.slots(optimizer)) == slots
  rates = optimizer_state.learning_rates(optimizer)
  assert optimizer_state.values(rates) == pytest.approx([0.1])


def test_wrapped_optimizers_and_schedules():
  schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
  optimizer = keras.optimizers.LossScaleOptimizer(
    keras.optimizers.Adam(schedule, use_ema=True)
  )
  assert optimizer_state.class_name(optimizer) == 'LossScaleOptimizer(Adam)'
  assert optimizer_state.averages_weights(optimizer)
  assert not optimizer_state.learning_rates(optimizer)
  assert not optimizer_state.averages_weights(keras.optimizers.SGD())
