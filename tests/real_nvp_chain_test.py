import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions

# Section 4.1 of the paper, with fewer channels: those cost time, and no depth.
CIFAR10 = {'num_scales': 2, 'num_blocks': 8, 'hidden_channels': 4}
IMAGENET32 = {'num_scales': None, 'num_blocks': 4, 'hidden_channels': 2}
_NO_MEMORY = tfp_realnvp.BatchNormOptions(momentum=0.0)


def _chain(event_shape=(8, 8, 3), **kwargs):
  kwargs = {'seed': 1} | kwargs
  return flow_testing.randomize(flow_testing.chain(event_shape, **kwargs))


def _distribution(flow, event_shape=(8, 8, 3)):
  base = flow_testing.isotropic_normal(event_shape, flow.dtype or tf.float32)
  return tfd.TransformedDistribution(base, flow)


def _pixels(shape, dtype=tf.float32, seed=0):
  rng = np.random.default_rng(seed)
  return tf.constant(rng.uniform(0, 256, shape), dtype)


def _flat_names(bijectors):
  names = []
  for bijector in bijectors:
    name = type(bijector).__name__
    if name == '_Invert':
      name = f'Invert{type(bijector.bijector).__name__}'
    names.append(name)
    if isinstance(bijector, tfp_realnvp.FactorOut):
      names.append(_flat_names(bijector.bijector.bijectors))
  return names


def test_architecture_of_two_scales():
  flow = flow_testing.chain((8, 8, 3))
  coupling = ['AffineCoupling', 'BatchNormBijector']
  assert _flat_names(flow.bijectors) == [
    'LogitTransform',
    *(coupling * 3),
    'Squeeze',
    *(coupling * 3),
    'InvertSqueeze',
    'Squeeze',
    'FactorOut',
    coupling * 4,
    'InvertSqueeze',
  ]


@pytest.mark.parametrize(
  'size, num_scales', [(4, 1), (8, 2), (28, 3), (32, 4), (64, 5), (5, 1)]
)
def test_default_number_of_scales_halves_down_to_4_pixels(size, num_scales):
  flow = flow_testing.chain((size, size, 1), hidden_channels=1)
  z = tf.zeros([size, size, 1])
  assert len(flow.split_latents(z)) == num_scales


def test_scale_parameters_are_the_magnitudes():
  flow = flow_testing.chain((4, 4, 1), num_blocks=2)
  expected = {v.ref() for v in flow.variables if 'magnitude' in v.name}
  assert {v.ref() for v in flow.scale_parameters} == expected
  # Of each of 4 couplings: log-scale, output, blocks, skips.
  assert len(expected) == len(flow.scale_parameters) == 4 * 4
  # 2 output channels; 2 hidden ones in each of 2 blocks and 3 skips.
  size = sum(tf.size(v) for v in flow.scale_parameters)
  assert size == 4 * (1 + 2 + 2 * 2 + 3 * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
  'kwargs', [CIFAR10, IMAGENET32], ids=['cifar', 'imagenet']
)
@pytest.mark.parametrize(
  'dtype, tolerance', [(tf.float64, 1e-8), (tf.float32, 0.01)]
)
def test_exactness_of_the_papers_architectures(kwargs, dtype, tolerance):
  shape = (32, 32, 3)
  flow = flow_testing.randomize(
    flow_testing.chain(shape, dtype=dtype, seed=1, **kwargs), seed=2
  )
  x = _pixels((2, *shape), dtype)
  # A graph of so many layers takes longer to make than a few calls.
  to_latent = flow.inverse_and_log_det
  to_data = flow.forward_and_log_det
  z, ildj = to_latent(x)
  back, fldj = to_data(z)
  np.testing.assert_allclose(back, x, rtol=0, atol=tolerance)
  np.testing.assert_allclose(fldj, -ildj, rtol=1e-6)
  # Random weights take normal latents to where pixels of any precision
  # hold too little of it: near data for the whole, anywhere without the logit.
  normal = tf.random.stateless_normal(z.shape, [0, 1], dtype=dtype)
  latent = z + 0.01 * normal
  again, _ = to_latent(to_data(latent)[0])
  np.testing.assert_allclose(again, latent, rtol=0, atol=tolerance)
  assert np.isfinite(to_latent(to_data(normal)[0])[1]).all()
  inner = tfp_realnvp.RealNVPChain.from_bijectors(
    flow.bijectors[1:], shape, dtype=dtype
  )
  data, _ = inner.forward_and_log_det(normal)
  again, _ = inner.inverse_and_log_det(data)
  np.testing.assert_allclose(again, normal, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_one_pass_in_graphs():
  flow = _chain()
  dist = _distribution(flow)
  # Of 10 networks: the input's, one block with its skip, the output's. (The
  # second skip is a part of the block's second convolution.)
  num_convolutions = 10 * (1 + 2 + 1 + 1)
  x = tf.TensorSpec([None, 8, 8, 3])
  train = {'bijector_kwargs': {'training': True}}
  chain = tfd.TransformedDistribution(
    dist.distribution, tfb.Chain([tfb.Shift(0.5), flow])
  )
  for function, *args in [
    (dist.log_prob, x),
    (lambda x: dist.log_prob(x, **train), x),
    (lambda: dist.sample(2, seed=1),),
    (lambda: dist.experimental_sample_and_log_prob(2, seed=1),),
    (chain.log_prob, x),
    (lambda: chain.experimental_sample_and_log_prob(2, seed=1),),
  ]:
    assert flow_testing.count_ops(function, *args)['Conv2D'] == num_convolutions


def test_one_pass_eagerly():
  calls = []

  def network(kept):
    calls.append(1)
    return tf.zeros_like(kept), 0.1 * kept

  coupling = tfp_realnvp.AffineCoupling(network, [True, False])
  flow = tfp_realnvp.RealNVPChain.from_bijectors([coupling], (2,))
  dist = _distribution(flow, (2,))
  in_chain = _distribution(tfb.Chain([flow, tfb.Scale(2.0)]), (2,))
  x = tf.ones([3, 2])
  for call in [
    lambda: dist.log_prob(x),
    lambda: dist.log_prob(x, bijector_kwargs={'training': True}),
    lambda: dist.sample(2, seed=0),
    lambda: dist.experimental_sample_and_log_prob(2, seed=0),
    lambda: flow.inverse_and_log_det(x),
    lambda: in_chain.log_prob(x),
    lambda: in_chain.experimental_sample_and_log_prob(2, seed=0),
  ]:
    calls.clear()
    call()
    assert len(calls) == 1


@pytest.mark.parametrize(
  'mode',
  [
    'eager',
    pytest.param('graph', marks=pytest.mark.slow),
    pytest.param('xla', marks=pytest.mark.slow),
  ],
)
def test_moving_averages_move_once_per_call(mode):
  flow = _chain(norm=tfp_realnvp.BatchNormOptions(momentum=0.5))
  dist = _distribution(flow)

  def log_prob(x):
    return dist.log_prob(x, bijector_kwargs={'training': True})

  if mode != 'eager':
    log_prob = tf.function(log_prob, jit_compile=mode == 'xla')
  x = _pixels((4, 8, 8, 3))
  counts = [v for v in flow.variables if 'num_updates' in v.name]
  # 10 couplings: their batch norm; in each network the input's, the others.
  assert len(counts) == 10 * 3
  before = [v.numpy() for v in flow.variables if 'moving_mean' in v.name]
  for calls in (1, 2):
    log_prob(x)
    assert {v.numpy() for v in counts} == {calls}
  after = [v.numpy() for v in flow.variables if 'moving_mean' in v.name]
  assert all(np.any(a != b) for a, b in zip(after, before))
  dist.log_prob(x)
  dist.sample(2, seed=0)
  assert {v.numpy() for v in counts} == {2}


def test_log_prob_in_training_is_that_of_the_batch_statistics():
  flow = _chain(norm=_NO_MEMORY, dtype=tf.float64)
  dist = _distribution(flow)
  x = _pixels((4, 8, 8, 3), tf.float64)
  training = dist.log_prob(x, bijector_kwargs={'training': True})
  # Momentum 0: the moving statistics are those of the last batch.
  np.testing.assert_allclose(dist.log_prob(x), training, rtol=1e-10)


def test_training_gradient_is_that_of_finite_differences():
  flow = _chain((4, 4, 1), dtype=tf.float64, norm=_NO_MEMORY)
  dist = _distribution(flow, (4, 4, 1))
  x = _pixels((3, 4, 4, 1), tf.float64)

  def loss():
    lp = dist.log_prob(x, bijector_kwargs={'training': True})
    return tf.reduce_sum(lp)

  variables = flow.trainable_variables
  with tf.GradientTape() as tape:
    value = loss()
  gradients = tape.gradient(value, variables)
  rng = np.random.default_rng(0)
  directions = [rng.normal(size=v.shape) for v in variables]
  expected = sum((g * d).numpy().sum() for g, d in zip(gradients, directions))
  step = 1e-6
  values = []
  for sign in (1, -2):
    for variable, direction in zip(variables, directions):
      variable.assign_add(sign * step * direction)
    values.append(loss())
  difference = (values[0] - values[1]) / (2 * step)
  np.testing.assert_allclose(difference, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [{}, {'jit_compile': True}])
def test_functions_agree_with_eager(kwargs):
  dist = _distribution(_chain())
  x = _pixels((2, 8, 8, 3))
  np.testing.assert_allclose(
    tf.function(dist.log_prob, **kwargs)(x), dist.log_prob(x), rtol=1e-5
  )
  z = tf.random.stateless_normal(x.shape, [0, 1])
  forward = tf.function(dist.bijector.forward, **kwargs)
  np.testing.assert_allclose(forward(z), dist.bijector.forward(z), atol=0.05)
  # XLA draws other random numbers: hold its samples against their density.
  sample, log_prob = tf.function(
    lambda: dist.experimental_sample_and_log_prob(2, seed=[0, 1]), **kwargs
  )()
  np.testing.assert_allclose(log_prob, dist.log_prob(sample), rtol=1e-4)


def test_sample_dimensions():
  dist = _distribution(_chain(dtype=tf.float64))
  samples = dist.sample([2, 3], seed=0)
  assert samples.shape == [2, 3, 8, 8, 3]
  log_prob = dist.log_prob(samples)
  assert log_prob.shape == [2, 3]
  np.testing.assert_allclose(
    dist.log_prob(samples[1, 2]), log_prob[1, 2], rtol=1e-9
  )
  assert dist.event_shape == [8, 8, 3]
  assert dist.batch_shape == []


@pytest.mark.slow
def test_same_weights_at_another_size():
  flow = _chain(dtype=tf.float64)
  x = _pixels((1, 16, 24, 3), tf.float64)
  z, _ = flow.inverse_and_log_det(x)
  np.testing.assert_allclose(flow.forward_and_log_det(z)[0], x, atol=1e-8)
  unknown = _chain((None, None, 3), num_scales=2, dtype=tf.float64)
  np.testing.assert_array_equal(unknown.inverse(x), z)
  big = _distribution(unknown, (24, 8, 3))
  assert big.sample(2, seed=0).shape == [2, 24, 8, 3]


def test_split_latents_by_scale():
  flow = _chain((16, 16, 1), hidden_channels=1)
  z = tf.random.stateless_normal([2, 16, 16, 1], [0, 1])
  latents = flow.split_latents(z)
  assert [tuple(latent.shape) for latent in latents] == [
    (2, 8, 8, 2),
    (2, 4, 4, 4),
    (2, 4, 4, 4),
  ]
  np.testing.assert_array_equal(flow.merge_latents(latents), z)
  # The finest latents are one colour of the checkerboard.
  np.testing.assert_array_equal(
    latents[0], np.stack([z[:, ::2, 1::2, 0], z[:, 1::2, ::2, 0]], axis=-1)
  )
  with pytest.raises(ValueError, match='`latents` must have 3 elements.*got 1'):
    flow.merge_latents([z])
  vector = tfp_realnvp.RealNVPChain((3,))
  (only,) = vector.split_latents([1.0, 2.0, 3.0])
  np.testing.assert_array_equal(only, [1.0, 2.0, 3.0])


def test_the_first_factored_out_latents_depend_on_the_first_scale_alone():
  flow = _chain(dtype=tf.float64)
  x = _pixels((1, 8, 8, 3), tf.float64)
  first, last = flow.split_latents(flow.inverse(x))
  inner = next(
    b for b in flow.bijectors if isinstance(b, tfp_realnvp.FactorOut)
  )
  flow_testing.randomize(inner, seed=5)
  first_after, last_after = flow.split_latents(flow.inverse(tf.identity(x)))
  np.testing.assert_array_equal(first_after, first)
  assert np.abs(last_after - last).max() > 1e-3


def test_density_integrates_to_one():
  bijectors = [tfb.Scale(2.0), tfb.Shift(1.0)]
  flow = tfp_realnvp.RealNVPChain.from_bijectors(bijectors, (1,))
  dist = _distribution(flow, (1,))
  np.testing.assert_allclose(
    dist.log_prob([[0.0]]),
    tfd.Normal(-0.5, 0.5).log_prob([0.0]),
    rtol=1e-6,
  )
  vector = _distribution(
    _chain((2,), num_couplings=4, dtype=tf.float64, seed=3), (2,)
  )
  axis = np.linspace(-150, 150, 501)
  points = np.array(list(itertools.product(axis, axis)))
  mass = np.exp(vector.log_prob(points)).sum() * (axis[1] - axis[0]) ** 2
  np.testing.assert_allclose(mass, 1, atol=0.01)


def test_condition():
  flow = _chain((4, 4, 1), condition_size=2, dtype=tf.float64)
  dist = _distribution(flow, (4, 4, 1))
  x = _pixels((2, 4, 4, 1), tf.float64)
  condition = tf.constant([[1.0, 0.0], [0.0, 1.0]], tf.float64)
  kwargs = {'bijector_kwargs': {'condition': condition}}
  log_prob = dist.log_prob(x, **kwargs)
  one = dist.log_prob(x[1], bijector_kwargs={'condition': condition[1]})
  np.testing.assert_allclose(log_prob[1], one)
  other = dist.log_prob(x, bijector_kwargs={'condition': condition[::-1]})
  assert np.abs(other - log_prob).min() > 1e-3
  samples = dist.sample([3, 2], seed=0, **kwargs)
  assert samples.shape == [3, 2, 4, 4, 1]
  changed = flow.forward(
    flow.inverse(x, condition=condition), condition=condition[::-1]
  )
  assert np.abs(changed - x).max() > 1e-3
  with pytest.raises(ValueError, match=r'`condition` must be \[\.\.\., 2\]'):
    dist.log_prob(x)
  with pytest.raises(ValueError, match=r'`condition` must be \[\.\.\., 2\].*3'):
    flow.inverse(x, condition=np.zeros([2, 3]))
  with pytest.raises(
    ValueError, match='takes no `condition`, got one of shape'
  ):
    _chain((4, 4, 1), dtype=tf.float64).inverse(x, condition=condition)


def test_bfloat16_networks_stay_exactly_invertible():
  flow = _chain(compute_dtype=tf.bfloat16)
  x = _pixels((2, 8, 8, 3))
  z, log_det = flow.inverse_and_log_det(x)
  assert z.dtype == log_det.dtype == tf.float32
  back, _ = flow.forward_and_log_det(z)
  exact = _chain()
  error = np.abs(exact.forward_and_log_det(exact.inverse(x))[0] - x).max()
  # A network that rounds differently in the two directions would show.
  assert np.abs(back - x).max() < max(0.5, 10 * error)


@pytest.mark.slow
@pytest.mark.parametrize('event_shape', [(4, 4, 3), (4,)])
@pytest.mark.parametrize('jit_compile', [False, True])
def test_recomputed_networks_give_the_same_step(event_shape, jit_compile):
  x = _pixels((4, *event_shape))
  results = []
  for recompute in (False, True):
    flow = _chain(event_shape, recompute=recompute)
    dist = _distribution(flow, event_shape)

    def step(dist=dist):
      with tf.GradientTape() as tape:
        log_prob = dist.log_prob(x, bijector_kwargs={'training': True})
      return log_prob, tape.gradient(log_prob, dist.trainable_variables)

    log_prob, gradients = tf.function(step, jit_compile=jit_compile)()
    results.append([log_prob, *gradients, *flow.non_trainable_variables])
  for kept, recomputed in zip(*results):
    scale = max(1.0, np.abs(kept).max())
    np.testing.assert_allclose(recomputed, kept, atol=1e-4 * scale)


def test_lagged_statistics_reach_every_batch_norm():
  flow = _chain(norm=tfp_realnvp.BatchNormOptions(lagged=True))
  modules = flow.submodules
  lagged = [m.lagged for m in modules if hasattr(m, 'lagged')]
  lagged += [m.batch_norm.lagged for m in modules if hasattr(m, 'batch_norm')]
  assert len(lagged) == 10 * 2
  assert all(lagged)


def test_weights_restored_into_a_fresh_model_give_bit_equal_log_prob(tmp_path):
  dist = _distribution(_chain())
  x = _pixels((2, 8, 8, 3))
  path = tf.train.Checkpoint(flow=dist.bijector).save(str(tmp_path / 'ckpt'))
  names = [name for name, _ in tf.train.list_variables(path)]
  saved = [n for n in names if n.endswith('VARIABLE_VALUE')]
  assert len(saved) == len(dist.bijector.variables) + 1  # And the save counter.
  fresh = _distribution(flow_testing.chain((8, 8, 3), seed=9))
  assert np.all(fresh.log_prob(x) != dist.log_prob(x))
  tf.train.Checkpoint(flow=fresh.bijector).restore(path).assert_consumed()
  np.testing.assert_array_equal(fresh.log_prob(x), dist.log_prob(x))


@pytest.mark.slow
def test_same_seed_same_flow():
  x = _pixels((1, 8, 8, 3))
  make = lambda seed: _distribution(_chain(seed=seed)).log_prob(x)
  assert make(1) == make(1)
  assert make(1) != make(2)


def test_copy_overrides_name_and_validate_args_only():
  flow = _chain()
  checked = flow.copy(validate_args=True)
  with pytest.raises(tf.errors.InvalidArgumentError, match='must be pixels'):
    checked.inverse(tf.fill([1, 8, 8, 3], math.nan))
  with pytest.raises(ValueError, match=r"only override .*got \['num_scales'\]"):
    flow.copy(num_scales=2)


@pytest.mark.parametrize('event_shape', [(4, 4, 1), (2,)])
def test_an_empty_batch_moves_no_averages(event_shape):
  flow = flow_testing.chain(event_shape)
  averages = [v for v in flow.variables if 'num_updates' not in v.name]
  before = [v.numpy() for v in averages]
  z = flow.inverse(tf.zeros([0, *event_shape]), training=True)
  assert z.shape == [0, *event_shape]
  for variable, value in zip(averages, before):
    np.testing.assert_array_equal(variable, value)


def test_a_copy_of_a_copy_shares_the_variables():
  flow = _chain()
  copy = flow.copy(name='other').copy(validate_args=True)
  assert copy.name == 'other'
  assert copy.validate_args and copy.bijectors[0].validate_args
  assert [v.ref() for v in copy.variables] == [v.ref() for v in flow.variables]


def test_scale_parameters_of_nested_chains_count_once():
  inner = flow_testing.chain((4, 4, 1), num_scales=1)
  outer = tfp_realnvp.RealNVPChain.from_bijectors(
    [tfb.Invert(inner)], (4, 4, 1)
  )
  assert len(outer.scale_parameters) == len(inner.scale_parameters) == 16
