import numpy as np
import pytest
import tensorflow as tf

from tests import bijector_cases
from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import mask as mask_lib


def test_what_is_kept_is_bit_equal():
  case = bijector_cases.FIXED['coupling_checkerboard']
  bijector, x = case.bijector(tf.float32), case.data(dtype=tf.float32)
  y = bijector.forward(x)
  mask = np.broadcast_to(mask_lib.checkerboard_mask((4, 4, 2)), y.shape)
  np.testing.assert_array_equal(y.numpy()[mask], x.numpy()[mask])
  assert np.all(y.numpy()[~mask] != x.numpy()[~mask])


def test_arbitrary_vector_mask_keeps_every_element_at_its_place():
  coupling = affine_coupling.AffineCoupling(
    lambda kept: (kept[:, :1] + 10, tf.zeros([len(kept), 1])),
    [True, False, True],
  )
  np.testing.assert_array_equal(
    coupling.forward(tf.constant([[1.0, 2.0, 3.0]])), [[1.0, 13.0, 3.0]]
  )


class _Recorder:
  def __init__(self):
    self.calls = []

  def __call__(self, kept, condition=None, training=False):
    self.calls.append((kept.shape, condition, training))
    return tf.zeros_like(kept), tf.zeros_like(kept)


def test_network_sees_one_batch_dimension_training_and_condition():
  network = _Recorder()
  coupling = affine_coupling.AffineCoupling(network, [True, False])
  condition = np.array([[1.0], [2.0], [3.0]])
  coupling.forward(tf.ones([2, 3, 2]), training=True, condition=condition)
  ((shape, condition, training),) = network.calls
  assert shape == (6, 1)
  assert training is True
  np.testing.assert_array_equal(condition[:, 0], [1, 2, 3, 1, 2, 3])


_ONES = lambda kept: (tf.ones_like(kept), tf.ones_like(kept))


@pytest.mark.parametrize(
  'mask, shape',
  [([True, False], (5, 3)), (lambda _: np.eye(4)[..., None] > 0, (2, 1, 4, 1))],
)
def test_a_size_known_at_run_time_only_must_fit_the_mask(mask, shape):
  coupling = affine_coupling.AffineCoupling(_ONES, mask)
  spec = tf.TensorSpec(
    [None] * (len(shape) - 1) + [None if len(shape) < 4 else 1]
  )
  forward = tf.function(coupling.forward, input_signature=[spec])
  with pytest.raises(tf.errors.InvalidArgumentError, match='Shape of tensor'):
    forward(tf.ones(shape))


def test_an_event_without_elements():
  coupling = affine_coupling.AffineCoupling(_ONES, mask_lib.checkerboard_mask)
  y, fldj = coupling.forward_and_log_det(tf.ones([2, 0, 4, 1]))
  assert y.shape == (2, 0, 4, 1)
  np.testing.assert_array_equal(fldj, [0, 0])


def test_a_network_may_see_the_condition_only():
  def network(kept, condition):
    assert kept.shape == (2, 0)
    return condition, tf.math.log(2 * condition)

  coupling = affine_coupling.AffineCoupling(network, [False])
  x, condition = tf.constant([[3.0], [4.0]]), tf.constant([[1.0], [2.0]])
  y, fldj = coupling.forward_and_log_det(x, condition=condition)
  np.testing.assert_allclose(y, [[3 * 2 + 1], [4 * 4 + 2]])
  np.testing.assert_allclose(fldj, np.log([2, 4]))
  back = coupling.inverse(tf.identity(y), condition=condition)
  np.testing.assert_allclose(back, x)
