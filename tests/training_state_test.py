import numpy as np
import tensorflow as tf

from tfp_realnvp.training import training_state


def test_skipped_batches_are_counted_in_a_row():
  state = training_state.TrainingState(seed=0)
  counts = []
  for skipped in (False, True, True, False, True):
    state.count_step(tf.constant(skipped))
    counts.append(int(state.skipped_in_a_row))
  assert counts == [0, 1, 2, 0, 1]
  assert int(state.step) == 5


def test_every_step_and_every_use_has_its_seed():
  state = training_state.TrainingState(seed=3)
  seeds = []
  for i in range(3):
    seeds += [state.train_seed(), state.test_seed(), state.statistics_seed(i)]
    state.step.assign_add(1)
    state.test_step.assign_add(1)
  assert len({tuple(seed.numpy()) for seed in seeds}) == 9
  # They follow from the seed and the counters.
  again = training_state.TrainingState(seed=3)
  again.step.assign(2)
  np.testing.assert_array_equal(again.train_seed(), seeds[6])
  other = training_state.TrainingState(seed=4)
  other.step.assign(2)
  assert np.any(other.train_seed() != seeds[6])
