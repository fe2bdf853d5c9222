from tests import estimator_testing
from tfp_realnvp.training import saved_state


def test_only_a_checkpoint_of_the_same_values_holds_the_state(tmp_path):
  model = estimator_testing.vector_estimator()
  state = saved_state.SavedState(model)
  path = state.checkpoint().save(str(tmp_path / 'ckpt'))
  assert state.is_in(path)
  model.evaluate(estimator_testing.vectors(), verbose=0)  # Changes metrics.
  assert state.is_in(path)
  (weight, *_) = model.trainable_variables
  weight.assign(weight + 1)
  assert not state.is_in(path)
  state.restore(path)
  assert state.is_in(path)
  model.optimizer.learning_rate.assign(0.5)
  assert not state.is_in(path)
