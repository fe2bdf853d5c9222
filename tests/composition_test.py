import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import flow_sequence

tfb = tfp.bijectors
tfd = tfp.distributions


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
  flow = tfp_realnvp.RealNVPChain.from_bijectors([part], (2,))
  flow.inverse(x[:, :2], training=True)
  assert norm.statistics.num_updates == 2
  assert 'training' in composition.takes(tfb.Chain([flow]))


def test_condition_reaches_the_parts_of_compositions_inside_flows():
  network = tfp_realnvp.DenseNetworks()(
    tfp_realnvp.NetworkSpec(in_channels=1, out_channels=1, condition_size=2)
  )
  coupling = tfp_realnvp.AffineCoupling(network, [True, False])
  flow = tfp_realnvp.RealNVPChain.from_bijectors(
    [tfb.Chain([_norm('norm'), coupling])], (2,)
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
    composition.nested_kwargs(chain, training=True)
  chain = tfb.Chain([tfb.Chain([_norm(n)], name='c') for n in ('a', 'b')])
  with pytest.raises(ValueError, match="the same name, 'c'"):
    composition.nested_kwargs(chain, training=True)


@pytest.mark.parametrize('name', sorted(composition._RESERVED_NAMES))
def test_names_of_arguments_of_tfp_are_errors(name):
  chain = tfb.Chain([_norm(name)])
  with pytest.raises(ValueError, match=f"has the name '{name}'"):
    composition.nested_kwargs(chain, training=True)
  assert composition.nested_kwargs(_norm(name), training=True)


def test_flows_that_arguments_cannot_reach_are_no_parts():
  part = tfb.Blockwise([_norm('n'), tfb.Exp()], [2, 1])
  with pytest.raises(TypeError, match='cannot reach the flows within'):
    flow_sequence.FlowSequence([part], event_ndims=1)
  with pytest.raises(TypeError, match='cannot reach the flows within'):
    tfp_realnvp.FactorOut(part)
  with pytest.raises(ValueError, match='must keep the rank of an event, 1'):
    flow_sequence.FlowSequence([tfb.Reshape([2, 1], [2])], event_ndims=1)
