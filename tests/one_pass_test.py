import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import one_pass

tfb = tfp.bijectors
tfd = tfp.distributions


def _flow(**kwargs):
  flow = flow_testing.chain((2,), num_couplings=2, **kwargs)
  return flow_testing.randomize(flow)


def _count_passes(monkeypatch):
  """Returns a list that grows by each pass of a `RealNVPChain`."""
  passes = []
  for name in ('_forward_and_log_det', '_inverse_and_log_det'):
    method = getattr(tfp_realnvp.RealNVPChain, name)

    def counted(self, *args, method=method, **kwargs):
      passes.append(kwargs)
      return method(self, *args, **kwargs)

    monkeypatch.setattr(tfp_realnvp.RealNVPChain, name, counted)
  return passes


_WRAPPERS = {
  'bare': lambda flow: flow,
  'first': lambda flow: tfb.Chain([flow, tfb.Shift(1.0)]),
  'last': lambda flow: tfb.Chain([tfb.Shift(1.0), flow]),
  'nested': lambda flow: tfb.Chain([tfb.Shift(1.0), tfb.Chain([flow])]),
  'inverted': lambda flow: tfb.Invert(tfb.Invert(flow)),
}


def _three_log_probs(how, distribution, x, kwargs):
  """Three times the same call, while earlier results are alive."""
  call = lambda x: [
    distribution.log_prob(x, bijector_kwargs=kwargs) for _ in range(3)
  ]
  if how == 'graph':
    return tf.function(call)(x)
  with tf.GradientTape(persistent=True):
    return call(x)


@pytest.mark.parametrize('how', ['tape', 'graph'])
@pytest.mark.parametrize('wrapper', _WRAPPERS)
def test_every_call_in_training_is_one_pass_and_one_update(
  wrapper, how, monkeypatch
):
  flow = _flow()
  bijector = _WRAPPERS[wrapper](flow)
  dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)), bijector
  )
  x = tf.random.stateless_normal([5, 2], [0, 1])
  kwargs = composition.nested_kwargs(bijector, training=True)
  passes = _count_passes(monkeypatch)
  _three_log_probs(how, dist, x, kwargs)
  assert len(passes) == 3
  counts = [v for v in flow.variables if 'num_updates' in v.name]
  assert [float(v) for v in counts] == [3, 3]


@pytest.mark.parametrize('how', ['tape', 'graph'])
@pytest.mark.parametrize('wrapper', _WRAPPERS)
@pytest.mark.parametrize('as_array', [np.array, tf.constant])
def test_the_same_condition_needs_one_pass(as_array, wrapper, how, monkeypatch):
  flow = _flow(condition_size=2)
  bijector = _WRAPPERS[wrapper](flow)
  dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)), bijector
  )
  condition = as_array([1.0, 2.0])
  kwargs = composition.nested_kwargs(bijector, condition=condition)
  passes = _count_passes(monkeypatch)
  x = tf.random.stateless_normal([5, 2], [0, 1])
  _three_log_probs(how, dist, x, kwargs)
  assert len(passes) == 1


@pytest.mark.parametrize('wrapper', _WRAPPERS)
@pytest.mark.parametrize('kind', ['array', 'variable', 'list'])
def test_a_condition_counts_with_its_value_at_the_call(kind, wrapper):
  flow = _flow(condition_size=2)
  bijector = _WRAPPERS[wrapper](flow)
  dist = tfd.TransformedDistribution(
    flow_testing.isotropic_normal((2,)), bijector
  )
  first, second = np.float32([[1, 2]] * 5), np.float32([[-1, 1]] * 5)
  make, assign = {
    'array': (np.array, lambda c, value: np.copyto(c, value)),
    'variable': (tf.Variable, lambda c, value: c.assign(value)),
    'list': (np.ndarray.tolist, lambda c, value: c.__setitem__(0, value[0])),
  }[kind]
  if kind == 'list':
    first, second = first[:1], second[:1]
  condition = make(first)
  x = tf.random.stateless_normal([5, 2], [0, 1])

  def results(condition):
    kwargs = composition.nested_kwargs(bijector, condition=condition)
    z = bijector.inverse(x, **kwargs)
    return (
      z,
      bijector.forward(tf.identity(z), **kwargs),
      dist.log_prob(x, bijector_kwargs=kwargs),
    )

  alive = results(condition)
  assign(condition, second)
  for got, expected, old in zip(
    results(condition), results(tf.constant(second)), alive
  ):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(old - got).max() > 1e-3 or np.allclose(old, x, atol=1e-5)


def test_the_gradient_of_a_variable_as_condition():
  flow = _flow(condition_size=2)
  dist = tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), flow)
  condition, x = tf.Variable([0.5, 1.0]), tf.ones([3, 2])
  kwargs = {'bijector_kwargs': {'condition': condition}}
  alive = flow.inverse(x, condition=condition)
  with tf.GradientTape() as tape:
    log_prob = dist.log_prob(x, **kwargs)
  assert np.abs(tape.gradient(log_prob, condition)).max() > 1e-3
  del alive
  with pytest.raises(TypeError, match='`condition` must be a tensor or an arr'):
    flow.inverse(x, condition=condition, training=True)


def test_snapshots_of_equal_value_are_one_object():
  array = np.array([1.0, 2.0])
  snapshot = one_pass.snapshot(array)
  assert one_pass.snapshot([1.0, 2.0]) is snapshot
  array[0] = 3.0
  assert one_pass.snapshot(array) is not snapshot
  np.testing.assert_array_equal(snapshot, [1.0, 2.0])
  assert one_pass.snapshot(np.float32([1, 2])) is not snapshot
  tensor = tf.constant(1.0)
  assert one_pass.snapshot(tensor) is tensor


def test_bijectors_of_tfp_still_cache():
  chain = tfb.Chain([tfb.Exp(), tfb.Scale(2.0)])
  x = tf.ones([3])
  y = chain.forward(x)
  assert chain.forward(x) is y
  assert chain.inverse(y) is x


def test_the_gradient_of_a_sample_is_that_of_its_identity():
  flow = _flow()
  dist = tfd.TransformedDistribution(flow_testing.isotropic_normal((2,)), flow)
  x = dist.sample(4, seed=0)
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(x)
    cached = dist.log_prob(x)
    log_prob = dist.log_prob(tf.identity(x))
  assert tape.gradient(cached, x) is None
  assert np.abs(tape.gradient(log_prob, x)).max() > 1e-3
