import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp import flow_bijector

tfb = tfp.bijectors


class _Double(flow_bijector.FlowBijector):
  """Doubles every element, and counts its passes."""

  def __init__(self, is_generative=False):
    self._is_generative = is_generative
    self.passes = 0
    super().__init__(forward_min_event_ndims=0, dtype=tf.float32, name='double')

  def _forward_and_log_det(self, x, training=False, condition=None):
    self.passes += 1
    return 2 * x, tf.fill(tf.shape(x), np.float32(np.log(2)))

  def _inverse_and_log_det(self, y, training=False, condition=None):
    self.passes += 1
    return y / 2, tf.fill(tf.shape(y), np.float32(-np.log(2)))


def test_pair_sums_the_log_det_over_the_event():
  x = tf.ones([3, 4, 5])
  y, fldj = _Double().forward_and_log_det(x, event_ndims=2)
  np.testing.assert_array_equal(y, 2 * np.ones([3, 4, 5]))
  np.testing.assert_allclose(fldj, [20 * np.log(2)] * 3, rtol=1e-6)
  _, ildj = _Double().inverse_and_log_det(x)
  np.testing.assert_allclose(ildj, np.full([3, 4, 5], -np.log(2)), rtol=1e-6)


def test_value_and_log_det_take_one_pass():
  bijector = _Double()
  x = tf.ones([3])
  y = bijector.forward(x)
  bijector.forward_log_det_jacobian(x)
  bijector.inverse(y)
  bijector.inverse_log_det_jacobian(y)
  assert bijector.passes == 1


@pytest.mark.parametrize('is_generative', [False, True])
def test_a_call_in_training_is_never_answered_from_the_cache(is_generative):
  bijector = _Double(is_generative)
  method = bijector.inverse if is_generative else bijector.forward
  x = tf.ones([3])
  kept = [method(x, training=True) for _ in range(3)]
  assert len(kept) == bijector.passes == 3
  kept += [method(x, training=False), method(x)]
  assert bijector.passes == 4


def test_sequence_applies_the_first_bijector_first():
  sequence = flow_bijector.FlowSequence(
    [tfb.Shift(1.0), _Double(), tfb.Square()], event_ndims=1
  )
  y, fldj = sequence.forward_and_log_det(tf.constant([[1.0, 2.0]]))
  np.testing.assert_allclose(y, [[16.0, 36.0]])
  expected = 2 * np.log(2) + np.log(2 * 4) + np.log(2 * 6)
  np.testing.assert_allclose(fldj, [expected], rtol=1e-6)
  x, ildj = sequence.inverse_and_log_det(y)
  np.testing.assert_allclose(x, [[1.0, 2.0]])
  np.testing.assert_allclose(ildj, -fldj)


def test_dims_are_static_where_they_can_be():
  @tf.function(input_signature=[tf.TensorSpec([None, 3])])
  def function(x):
    first, second = flow_bijector.dims(x)
    assert tf.is_tensor(first)
    assert second == 3
    return first

  assert function(tf.ones([5, 3])) == 5


def test_errors_name_the_argument_and_show_the_value():
  bijector = flow_bijector.FlowSequence([tfb.Exp()], event_ndims=2)
  with pytest.raises(
    ValueError, match='`event_ndims` must be an int of at least 2, got 1'
  ):
    bijector.forward_and_log_det(tf.ones([2, 2]), event_ndims=1)
  with pytest.raises(ValueError, match=r'`x` must have at least 2 .*\(2,\)'):
    bijector.forward(tf.ones([2]))
  with pytest.raises(ValueError, match='`x` must have a known rank'):
    tf.function(bijector.forward).get_concrete_function(tf.TensorSpec(None))
  with pytest.raises(ValueError, match='`event_ndims` must be at most 2'):
    bijector.forward_and_log_det(tf.ones([2, 2]), event_ndims=3)
  with pytest.raises(TypeError, match='`x` must be convertible.*None'):
    bijector.forward(None)
  for bijectors in ([], None, tfb.Exp(), [3]):
    with pytest.raises(TypeError, match='`bijectors` must be a list'):
      flow_bijector.FlowSequence(bijectors, event_ndims=1)
  with pytest.raises(ValueError, match='`event_ndims` must be an int'):
    flow_bijector.FlowSequence([tfb.Exp()], event_ndims=None)


def test_a_log_det_that_is_the_same_for_all_is_that_of_each():
  sequence = flow_bijector.FlowSequence([tfb.Scale(2.0)], event_ndims=1)
  _, fldj = sequence.forward_and_log_det(tf.ones([5, 3]))
  np.testing.assert_allclose(fldj, np.full([5], np.log(8)), rtol=1e-6)


def _norm(name):
  return tfp_realnvp.BatchNormBijector(2, name=name)


_COMPOSITIONS = {
  'chain': lambda norm: tfb.Chain([norm]),
  'inverted_twice': lambda norm: tfb.Invert(tfb.Invert(norm)),
  'nested': lambda norm: tfb.Chain([tfb.Chain([norm]), tfb.Shift(1.0)]),
  'same_names': lambda norm: tfb.Chain(
    [tfb.Invert(norm, name='s'), tfb.Shift(1.0, name='s')]
  ),
  'reserved_name': lambda norm: tfb.Chain([norm.copy(name='x')]),
}


@pytest.mark.parametrize('name', _COMPOSITIONS)
def test_training_reaches_the_parts_of_compositions_inside_flows(name):
  norm = _norm('norm')
  part = _COMPOSITIONS[name](norm)
  if name == 'same_names':
    part = tfb.Invert(part)
  x = tf.constant([[1.0, 2.0, 0.0, 0.0], [3.0, 6.0, 0.0, 0.0]])
  factor = tfp_realnvp.FactorOut(part)
  y, _ = factor.forward_and_log_det(x, training=True)
  assert norm.statistics.num_updates == 1
  np.testing.assert_allclose(np.std(y[:, :2], axis=0), [1, 1], rtol=1e-3)
  flow = tfp_realnvp.RealNVPChain((2,), bijectors=[part])
  flow.inverse(x[:, :2], training=True)
  assert norm.statistics.num_updates == 2
  assert 'training' in flow_bijector.takes(tfb.Chain([flow]))


def test_condition_reaches_the_parts_of_compositions_inside_flows():
  network = tfp_realnvp.DenseNetwork(1, 1, condition_size=2)
  coupling = tfp_realnvp.AffineCoupling(network, [True, False])
  flow = tfp_realnvp.RealNVPChain(
    (2,), bijectors=[tfb.Chain([_norm('norm'), coupling])]
  )
  flow_testing.randomize(flow)
  x = tf.ones([3, 2])
  one = flow.inverse(x, condition=np.zeros(2))
  other = flow.inverse(x, condition=np.ones(2))
  assert np.abs(one - other).max() > 1e-3


def test_names_that_tfp_cannot_tell_apart_are_errors():
  chain = tfb.Chain(
    [tfb.Invert(_norm('n'), name='s'), tfb.Shift(1.0, name='s')]
  )
  with pytest.raises(ValueError, match="the same name, 's'"):
    flow_bijector.nested_kwargs(chain, training=True)
  chain = tfb.Chain([tfb.Chain([_norm(n)], name='c') for n in ('a', 'b')])
  with pytest.raises(ValueError, match="the same name, 'c'"):
    flow_bijector.nested_kwargs(chain, training=True)


@pytest.mark.parametrize('name', sorted(flow_bijector._RESERVED_NAMES))
def test_names_of_arguments_of_tfp_are_errors(name):
  chain = tfb.Chain([_norm(name)])
  with pytest.raises(ValueError, match=f"has the name '{name}'"):
    flow_bijector.nested_kwargs(chain, training=True)
  assert flow_bijector.nested_kwargs(_norm(name), training=True)


def test_flows_that_arguments_cannot_reach_are_no_parts():
  part = tfb.Blockwise([_norm('n'), tfb.Exp()], [2, 1])
  with pytest.raises(TypeError, match='cannot reach the flows within'):
    flow_bijector.FlowSequence([part], event_ndims=1)
  with pytest.raises(TypeError, match='cannot reach the flows within'):
    tfp_realnvp.FactorOut(part)
  with pytest.raises(ValueError, match='must keep the rank of an event, 1'):
    flow_bijector.FlowSequence([tfb.Reshape([2, 1], [2])], event_ndims=1)


def test_a_condition_that_nothing_takes_is_an_error():
  for bijector in (
    _norm('norm'),
    tfp_realnvp.FactorOut(_norm('norm')),
    tfp_realnvp.RealNVPChain((2,)),
  ):
    with pytest.raises(ValueError, match=r'takes no `condition`, .*\(3,\)'):
      bijector.inverse(tf.ones([5, 2]), condition=np.zeros(3))
