import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import composition
from tfp_realnvp.training import likelihood

tfb = tfp.bijectors
tfd = tfp.distributions


def _flow(**kwargs):
  return flow_testing.chain((2,), num_couplings=2, **kwargs)


def _over(flow):
  return tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), flow)


_REACHED = {
  'transformed': _over,
  'independent': lambda flow: tfd.Independent(
    tfd.BatchBroadcast(_over(flow), [3]), 1
  ),
  'sample': lambda flow: tfd.Sample(_over(flow), 3),
  'twice_transformed': lambda flow: tfd.TransformedDistribution(
    _over(flow), tfb.Shift(1.0)
  ),
  'part_of_an_event': lambda flow: tfd.TransformedDistribution(
    flow_testing.isotropic_normal((3,)),
    tfb.Blockwise([flow, tfb.Exp()], [2, 1]),
  ),
  'same_names': lambda flow: _over(tfb.Chain([flow, flow.copy()])),
}
_NOT_REACHED = {
  'mixture': lambda flow: tfd.Mixture(
    tfd.Categorical(logits=[0.0, 0.0]), [_over(flow), _over(flow)]
  ),
  'blockwise': lambda flow: tfd.Blockwise([tfd.Normal(0.0, 1.0), _over(flow)]),
  'masked': lambda flow: tfd.Masked(_over(flow), True),
  'other_kwargs': lambda flow: tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)),
    flow,
    kwargs_split_fn=lambda kwargs: ({}, {}),
  ),
}


@pytest.mark.parametrize('name', _REACHED)
def test_training_reaches_the_flow(name):
  flow = _flow()
  dist = _REACHED[name](flow)
  x = tf.random.stateless_normal([5, *dist.event_shape], [0, 1])
  kwargs = likelihood.log_prob_kwargs(dist, training=True)
  dist.log_prob(tf.exp(x), **kwargs)
  counts = [v for v in flow.variables if 'num_updates' in v.name]
  times = 2 if name == 'same_names' else 1
  assert [float(v) for v in counts] == [times, times]
  # A condition reaches it in the same way.
  flow = _flow(condition_size=3, batch_norm=False)
  dist = _REACHED[name](flow)
  assert composition.takes(dist) == {'condition'}
  condition = tf.zeros([3])
  dist.log_prob(
    tf.exp(x), **likelihood.log_prob_kwargs(dist, condition=condition)
  )
  with pytest.raises(ValueError, match='`condition` must be'):
    dist.log_prob(tf.exp(x))


@pytest.mark.parametrize('name', _NOT_REACHED)
def test_a_flow_that_cannot_be_reached_is_an_error_at_construction(name):
  dist = _NOT_REACHED[name](_flow())
  with pytest.raises(TypeError, match="cannot reach 'real_nvp_chain' within"):
    tfp_realnvp.DensityEstimator(dist, num_levels=None)
  # A flow that depends on neither needs nothing to reach it.
  dist = _NOT_REACHED[name](_flow(batch_norm=False))
  assert likelihood.log_prob_kwargs(dist, training=True) == {}
  tfp_realnvp.DensityEstimator(dist, num_levels=None)


@pytest.mark.parametrize('convert', [np.asarray, np.ndarray.tolist])
def test_a_condition_without_columns_is_none(convert):
  # `fit` and `evaluate` put `[N, 0]` between `x` and a weight.
  unpack = likelihood.Likelihood(_over(_flow()), num_levels=None).unpack
  x, y = np.zeros([3, 2], np.float32), np.zeros([3, 0], np.float32)
  _, condition, _ = unpack((x, convert(y)))
  assert condition is None
  with pytest.raises(ValueError, match='No flow of `distribution` takes'):
    unpack((x, convert(x)))
