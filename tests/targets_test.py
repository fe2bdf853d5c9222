import sys
import types

import numpy as np
import pytest
from scipy import integrate
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import targets

tfd = tfp.distributions


def _integral(target, low, high, count=400):
  """Integrates the density of a target of two parameters over a box."""
  axes = [np.linspace(a, b, count) for a, b in zip(low, high)]
  grid = np.stack(np.meshgrid(*axes), -1).astype(np.float32)
  cell = np.prod([axis[1] - axis[0] for axis in axes])
  return np.log(np.exp(target.log_prob(grid).numpy()).sum() * cell)


@pytest.mark.parametrize(
  'name, low, high',
  [('banana', (-5, -4), (5, 25)), ('mixture', (-10,) * 2, (10,) * 2)],
)
def test_log_normalizer_is_that_of_an_integral(name, low, high):
  target = targets.TARGETS[name]()
  np.testing.assert_allclose(
    _integral(target, low, high), target.log_normalizer, atol=1e-3
  )


def test_mixture_has_a_maximum_at_each_mode():
  target = targets.mixture()
  away = target.modes + [[0.1, 0.0]]
  at, beside = (target.log_prob(x).numpy() for x in (target.modes, away))
  np.testing.assert_allclose(at, at[0], rtol=1e-5)
  assert np.all(beside < at - 0.005)


def test_funnel_by_hand():
  x = np.float32([[1.0, 0.5, -2.0], [-3.0, 0.1, 0.0]])
  expected = stats.norm.logpdf(x[:, 0], scale=3) + stats.norm.logpdf(
    x[:, 1:], scale=np.exp(x[:, :1] / 2)
  ).sum(1)
  target = targets.funnel(3)
  np.testing.assert_allclose(target.log_prob(x), expected, rtol=1e-5)
  assert target.names == ['v', 'x1', 'x2']
  assert targets.funnel().size == 10


def test_eight_schools_by_hand():
  target = targets.eight_schools()
  x = np.float32([[4.0, 2.0, 20, 9, 0, 7, 1, 3, 15, 11]])
  parameters = target.parameters(x).numpy()[0]
  assert target.names[:3] == ['avg_effect', 'stddev', 'effects1']
  # The default bijector of a LogNormal is the exponential.
  np.testing.assert_allclose(parameters[1], np.exp(2.0), rtol=1e-5)
  np.testing.assert_allclose(np.delete(parameters, 1), np.delete(x[0], 1))
  effects = x[0, 2:]
  expected = (
    stats.norm.logpdf(4.0, scale=10)
    + stats.norm.logpdf(2.0, loc=5, scale=1)  # Of the logarithm of stddev.
    + stats.norm.logpdf(effects, 4.0, np.exp(2.0)).sum()
    + stats.norm.logpdf(targets._EFFECTS, effects, targets._ERRORS).sum()
  )
  np.testing.assert_allclose(target.log_prob(x), [expected], rtol=1e-5)


def test_parameters_may_be_more_than_numbers():
  # The Cholesky factor of a correlation matrix, [[1, 0], [r, sqrt(1 - r^2)]].
  joint = tfd.JointDistributionNamed(
    {
      'factor': tfd.CholeskyLKJ(2, 2.0),
      'data': lambda factor: tfd.Normal(factor[..., 1, 0], 1.0),
    }
  )
  target = targets.joint_target(joint.experimental_pin(data=0.5))
  assert target.size == 1
  assert target.names == ['factor1', 'factor2', 'factor3', 'factor4']
  x = np.linspace(-30, 30, 3001, dtype=np.float32)[:, np.newaxis]
  one, zero, r, rest = target.parameters(x).numpy().T
  np.testing.assert_allclose(one, 1)
  np.testing.assert_allclose(zero, 0)
  np.testing.assert_allclose(rest, np.sqrt(1 - r**2), atol=1e-3)
  # The density of r is 3 / 4 (1 - r^2).
  integrand = lambda r: 0.75 * (1 - r**2) * stats.norm.pdf(0.5, r)
  expected, _ = integrate.quad(integrand, -1, 1)
  found = np.exp(target.log_prob(x).numpy()).sum() * 0.02
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_targets_of_modules(monkeypatch):
  module = types.ModuleType('my_model')
  module.log_prob = lambda x: -tf.reduce_sum(x**2, -1)
  module.target = targets.banana()
  joint = tfd.JointDistributionNamed(
    {'rate': tfd.Gamma(2.0, 3.0), 'x': lambda rate: tfd.Exponential(rate)}
  )
  module.posterior = joint.experimental_pin(x=1.0)
  monkeypatch.setitem(sys.modules, 'my_model', module)
  mine = targets.load_target('my_model:log_prob', 3)
  assert (mine.size, mine.names) == (3, ['x1', 'x2', 'x3'])
  np.testing.assert_allclose(mine.log_prob(np.ones([1, 3])), [-3])
  module.rows = lambda x: -(x**2)
  with pytest.raises(ValueError, match=r'\[N\]; of \[3, 2\] .* shape \(3, 2\)'):
    targets.load_target('my_model:rows', 2)
  assert targets.load_target('my_model:target', None) is module.target
  assert targets.load_target('my_model:posterior', None).names == ['rate']


@pytest.mark.parametrize(
  'path, size, message',
  [
    ('bananas', None, "no 'bananas'"),
    ('no_such_module:log_prob', 2, 'No module named'),
    ('math:no_such_name', 2, 'no_such_name'),
    ('math:sqrt', None, 'number of parameters must be given'),
    ('math:pi', 2, 'got 2 for'),
    ('math:sqrt', 1, 'must be an int of at least 2'),
    ('math:pi', None, 'neither'),
  ],
)
def test_wrong_targets_have_an_error(path, size, message):
  with pytest.raises(ValueError, match=message):
    targets.load_target(path, size)
