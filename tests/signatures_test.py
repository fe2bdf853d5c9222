import collections
import math
import os
import subprocess
import sys

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
import tensorflow_probability as tfp

from tests import flow_testing
from tests import program_testing
from tests import serving_testing
import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions


@pytest.fixture(scope='module', autouse=True)
def report_calls():
  yield
  print(
    f'\nrequests to exported signatures: {dict(serving_testing.Served.calls)}'
  )


@pytest.fixture(scope='module')
def images_model(tmp_path_factory):
  bijectors = serving_testing.flow(num_scales=2, batch_norm=False).bijectors
  # The logit, a coupling, and the rest in two scales: quick to trace.
  flow = tfp_realnvp.RealNVPChain.from_bijectors(
    [*bijectors[:2], *bijectors[-3:]], serving_testing.SHAPE
  )
  dist = serving_testing.distribution(bijector=flow)
  return serving_testing.Served(tmp_path_factory.mktemp('images'), dist)


@pytest.fixture(scope='module')
def draws_model(tmp_path_factory):
  flow = serving_testing.two_couplings(
    logit_transform=tfp_realnvp.LogitTransform(17), seed=2
  )
  return serving_testing.Served(
    tmp_path_factory.mktemp('draws'),
    serving_testing.distribution(bijector=flow),
    num_levels=17,
    num_draws=5,
    seed=3,
  )


@pytest.fixture(scope='module')
def vectors_model(tmp_path_factory):
  """Conditional, float64, two bijectors in a chain."""
  flow = serving_testing.flow(
    (3,),
    num_couplings=2,
    hidden_units=(8,),
    condition_size=2,
    dtype=tf.float64,
  )
  chain = tfb.Chain([tfb.Shift(tf.constant(1.0, tf.float64)), flow])
  return serving_testing.Served(
    tmp_path_factory.mktemp('vectors'),
    serving_testing.distribution((3,), chain, tf.float64),
    num_levels=None,
    condition_size=2,
    max_samples=8,
  )


def _images(count=7, num_levels=256, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, num_levels, [count, *serving_testing.SHAPE]).astype(
    np.uint8
  )


def _condition(count=5, seed=0):
  return np.random.default_rng(seed).normal(size=[count, 2])


def _nested(model, condition):
  flow = model.distribution.bijector.bijectors[1]
  return {flow.name: {'condition': condition}}


# What the library answers.


def _log_prob(model, x, noise=0.5, **kwargs):
  x = tf.constant(x, model.distribution.dtype) + noise
  return model.distribution.log_prob(x, bijector_kwargs=kwargs).numpy()


def _round(x, num_levels=256):
  return np.clip(np.floor(x), 0, num_levels - 1).astype(np.uint8)


def _decode(model, latents, **kwargs):
  return model.distribution.bijector.forward(latents, **kwargs).numpy()


def _sample(model, number, temperature, seed, **kwargs):
  base = model.distribution.distribution
  latents = temperature * base.sample(number, seed=[0, seed])  # Its mean is 0.
  return _decode(model, latents, **kwargs)


def test_tensorflow_alone_gives_the_librarys_answers(images_model, tmp_path):
  images = _images()
  inputs, outputs = str(tmp_path / 'inputs.npz'), str(tmp_path / 'outputs.npz')
  np.savez(inputs, images=images)
  environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  program_testing.run_program(
    'serving_client',
    images_model.path,
    inputs,
    outputs,
    check=True,
    cwd=tmp_path,
    env=environment,
  )
  answers = np.load(outputs)
  log_prob = _log_prob(images_model, images)
  np.testing.assert_allclose(answers['log_prob'], log_prob, rtol=1e-5)
  np.testing.assert_allclose(
    answers['bits_per_dim'], -log_prob / (32 * math.log(2)), rtol=1e-5
  )
  flow = images_model.distribution.bijector
  latents = flow.inverse(images + np.float32(0.5))
  np.testing.assert_allclose(answers['latents'], latents, atol=1e-4)
  np.testing.assert_array_equal(answers['images'], images)


@pytest.mark.slow
@pytest.mark.parametrize('count', [0, 1, 7])
def test_any_number_of_images(images_model, draws_model, count):
  images = _images(count, num_levels=17)
  for model in (images_model, draws_model):
    whole = model('log_prob', images=_images(7, num_levels=17))
    answers = model('log_prob', images=images)
    assert (
      answers['log_prob'].shape == answers['bits_per_dim'].shape == (count,)
    )
    if count == 7:
      for name, value in answers.items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-5)
    latents = model('encode', images=images)['latents']
    np.testing.assert_array_equal(
      model('decode', latents=latents)['images'], images
    )


def test_decode_undoes_encode_of_every_level(images_model):
  images = np.arange(256, dtype=np.uint8).reshape([8, *serving_testing.SHAPE])
  latents = images_model('encode', images=images)['latents']
  back = images_model('decode', latents=latents)['images']
  assert back.dtype == np.uint8
  np.testing.assert_array_equal(back, images)


def test_latents_of_each_scale(images_model):
  answers = images_model('encode', images=_images())
  assert sorted(answers) == ['latents', 'latents_0', 'latents_1']
  expected = images_model.distribution.bijector.split_latents(
    answers['latents']
  )
  np.testing.assert_array_equal(answers['latents_0'], expected[0])
  np.testing.assert_array_equal(answers['latents_1'], expected[1])
  # The finest are one colour of the checkerboard.
  np.testing.assert_array_equal(
    answers['latents_0'][..., :2], answers['latents'][:, ::2, 1::2]
  )


def test_sample_is_the_librarys_at_any_temperature(images_model):
  scalars = {'number': 3, 'seed': -4}
  for temperature in (1.0, 0.5):
    samples = images_model('sample', temperature=temperature, **scalars)
    expected = _sample(images_model, 3, temperature, -4)
    assert samples['images'].dtype == np.uint8
    assert np.mean(samples['images'] != _round(expected)) < 0.03
  again = images_model('sample', temperature=0.5, **scalars)
  np.testing.assert_array_equal(again['images'], samples['images'])
  other = images_model('sample', temperature=0.5, number=3, seed=5)
  assert np.mean(other['images'] != samples['images']) > 0.5
  # Of the distribution itself, at temperature 1.
  np.testing.assert_allclose(
    images_model.distribution.sample(3, seed=[0, -4]),
    _sample(images_model, 3, 1.0, -4),
    rtol=1e-5,
  )


def test_draws_are_averaged_in_probability(draws_model):
  images = _images(50, num_levels=17)
  noise = tf.random.stateless_uniform(
    [5, *serving_testing.SHAPE], [0, 3]
  ).numpy()
  draws = [_log_prob(draws_model, images, u).astype(np.float64) for u in noise]
  expected = np.log(np.mean(np.exp(draws), axis=0))
  answers = draws_model('log_prob', images=images)
  np.testing.assert_allclose(answers['log_prob'], expected, rtol=1e-5)
  assert np.all(answers['log_prob'] > np.mean(draws, axis=0))
  # The draws are the same for every image, whatever the batch.
  alone = draws_model('log_prob', images=images[9:10])
  np.testing.assert_allclose(
    alone['log_prob'], answers['log_prob'][9:10], rtol=1e-5
  )
  # `encode` uses the midpoints.
  np.testing.assert_allclose(
    draws_model('encode', images=images)['latents'],
    draws_model.distribution.bijector.inverse(images + np.float32(0.5)),
    atol=1e-4,
  )


def test_conditional_vectors_in_float64(vectors_model):
  x, condition = np.random.default_rng(1).normal(size=[5, 3]), _condition()
  nested = _nested(vectors_model, condition)
  answers = vectors_model('log_prob', x=x, condition=condition)
  log_prob = _log_prob(vectors_model, x, 0.0, **nested)
  np.testing.assert_allclose(answers['log_prob'], log_prob, rtol=1e-12)
  other = vectors_model('log_prob', x=x, condition=condition + 1)
  assert np.abs(other['log_prob'] - log_prob).min() > 1e-3
  latents = vectors_model('encode', x=x, condition=condition)
  assert list(latents) == ['latents']
  back = vectors_model('decode', condition=condition, **latents)['x']
  np.testing.assert_allclose(back, x, rtol=1e-12)
  samples = vectors_model(
    'sample', temperature=np.float64(0.7), seed=2, condition=condition
  )
  np.testing.assert_allclose(
    samples['x'], _sample(vectors_model, 5, 0.7, 2, **nested), rtol=1e-12
  )


def test_a_base_with_a_mean_and_variables(tmp_path):
  loc = tf.Variable([1.0, -2.0])
  base = tfd.MultivariateNormalDiag(loc, [2.0, 3.0])
  dist = tfd.TransformedDistribution(base, tfb.Scale([10.0, 100.0]))
  model = serving_testing.Served(tmp_path, dist, num_levels=None)
  x = np.array([[3.0, -4.0]], np.float32)
  np.testing.assert_allclose(
    model('log_prob', x=x)['log_prob'], dist.log_prob(x), rtol=1e-6
  )
  scalars = {'number': 2, 'seed': 1}
  mean = model('sample', temperature=0.0, **scalars)['x']
  np.testing.assert_allclose(mean, [[10.0, -200.0]] * 2, rtol=1e-6)
  whole = model('sample', temperature=1.0, **scalars)['x']
  half = model('sample', temperature=0.5, **scalars)['x']
  np.testing.assert_allclose(half, (whole + mean) / 2, rtol=1e-5)
  np.testing.assert_allclose(whole, dist.sample(2, seed=[0, 1]), rtol=1e-5)


def _reshaped_latents():
  base = tfd.MultivariateNormalDiag(tf.range(32.0) / 8, 1 + tf.range(32.0) / 32)
  return base, tfb.Chain(
    [
      serving_testing.two_couplings(),
      tfb.Reshape(serving_testing.SHAPE, [32]),
    ]
  )


def _reshaped_latents_of_unknown_shape():
  base = flow_testing.isotropic_normal((32,))
  return base, tfb.Chain(
    [serving_testing.two_couplings(), tfb.Reshape(serving_testing.SHAPE)]
  )


def _reshaped_data():
  base = flow_testing.isotropic_normal(serving_testing.SHAPE)
  return base, tfb.Chain(
    [
      tfb.Reshape([32], serving_testing.SHAPE),
      serving_testing.two_couplings(),
    ]
  )


def _inverted_reshape():
  base = flow_testing.isotropic_normal((8, 4))
  bijectors = [
    serving_testing.two_couplings(),
    tfb.Invert(tfb.Reshape([8, 4], serving_testing.SHAPE)),
  ]
  return base, tfb.Chain(bijectors)


@pytest.mark.slow
@pytest.mark.parametrize(
  'build',
  [
    _reshaped_latents,
    _reshaped_latents_of_unknown_shape,
    _reshaped_data,
    _inverted_reshape,
  ],
)
def test_a_base_of_another_event_shape(build, tmp_path):
  base, bijector = build()
  dist = tfd.TransformedDistribution(base, flow_testing.randomize(bijector))
  model = serving_testing.Served(tmp_path, dist)
  images = _images(3).reshape([3, *dist.event_shape])
  np.testing.assert_allclose(
    model('log_prob', images=images)['log_prob'],
    _log_prob(model, images),
    rtol=1e-5,
  )
  latents = model('encode', images=images)['latents']
  assert latents.shape == (3, *base.event_shape)
  np.testing.assert_allclose(
    latents, bijector.inverse(images + np.float32(0.5)), atol=1e-4
  )
  np.testing.assert_array_equal(
    model('decode', latents=latents)['images'], images
  )
  samples = model('sample', number=5, temperature=1.0, seed=2)['images']
  assert samples.shape == (5, *dist.event_shape)
  assert np.mean(samples != _round(dist.sample(5, seed=[0, 2]))) < 0.03
  mean = model('sample', number=1, temperature=0.0, seed=2)['images']
  np.testing.assert_array_equal(
    mean, _round(bijector.forward(base.mean()[np.newaxis]))
  )


@pytest.mark.parametrize('num_levels', [2**31, 2**40])
def test_levels_up_to_the_precision_of_the_flow(num_levels, tmp_path):
  logit = tfp_realnvp.LogitTransform(num_levels, dtype=tf.float64)
  dist = serving_testing.distribution((2,), tfb.Invert(logit), tf.float64)
  model = serving_testing.Served(tmp_path, dist, num_levels=num_levels)
  dtype = np.int32 if num_levels == 2**31 else np.int64
  images = np.array([[0, num_levels - 1], [5, num_levels // 3]], dtype)
  latents = model('encode', images=images)['latents']
  back = model('decode', latents=latents)['images']
  assert back.dtype == dtype
  np.testing.assert_array_equal(back, images)
  with pytest.raises(
    tf.errors.InvalidArgumentError, match=r'`images` must be on .*got\] \[-1\]'
  ):
    model('log_prob', images=np.array([[5, -1]], dtype))


def test_levels_beyond_8_bits(tmp_path):
  bijector = tfb.Invert(tfp_realnvp.LogitTransform(1000))
  model = serving_testing.Served(
    tmp_path, serving_testing.distribution((2,), bijector), num_levels=1000
  )
  images = np.array([[0, 999], [300, 5]], np.int32)
  np.testing.assert_allclose(
    model('log_prob', images=images)['log_prob'],
    _log_prob(model, images),
    rtol=1e-5,
  )
  latents = model('encode', images=images)
  back = model('decode', **latents)['images']
  assert back.dtype == np.int32
  np.testing.assert_array_equal(back, images)
  # The logit takes latents far out slightly beyond the levels.
  far = model('decode', latents=np.array([[50, -50]], np.float32))
  np.testing.assert_array_equal(far['images'], [[999, 0]])
  for value in (-1, 1000):
    with pytest.raises(
      tf.errors.InvalidArgumentError,
      match=rf'`images` must be on \[0, 1000\), got\] \[{value}\]',
    ):
      model('log_prob', images=np.array([[5, value]], np.int32))


def _scalars(**kwargs):
  values = {'number': 2, 'temperature': 1.0, 'seed': 0} | kwargs
  dtypes = {'number': np.int32, 'seed': np.int32, 'temperature': np.float32}
  return {name: np.asarray(v, dtypes[name]) for name, v in values.items()}


@pytest.mark.parametrize(
  'signature, inputs, message',
  [
    ('log_prob', {'images': np.zeros([2, 8, 4, 2], np.uint8)}, r'2,8,4,2'),
    ('encode', {'images': np.zeros([2, 4, 4, 1], np.uint8)}, r'2,4,4,1'),
    (
      'log_prob',
      {'images': np.zeros(serving_testing.SHAPE, np.uint8)},
      r'\[4,4,2\].*\[\?,4',
    ),
    ('decode', {'latents': np.zeros([1, 8, 8, 2], np.float32)}, r'1,8,8,2'),
    (
      'decode',
      {'latents': np.full([1, *serving_testing.SHAPE], np.nan, np.float32)},
      r'`latents` must be finite, got\] \[nan',
    ),
    (
      'decode',
      {'latents': np.full([1, *serving_testing.SHAPE], 3e38, np.float32)},
      r'`latents` must be of finite `images`, got',
    ),
    ('sample', _scalars(number=-1), r'`number` must be on \[0, 1024\].*\[-1\]'),
    ('sample', _scalars(number=1025), r'`number` must be .*\[1025\]'),
    ('sample', _scalars(number=2**31 - 1), r'`number` must be .*2147483647'),
    ('sample', _scalars(number=[2]), r'Shape of tensor number \[1\]'),
    ('sample', _scalars(temperature=-0.5), r'`temperature` must be .*-0.5'),
    ('sample', _scalars(temperature=np.nan), r'`temperature` must be.*nan'),
    ('sample', _scalars(temperature=np.inf), r'`temperature` must be.*inf'),
    ('sample', _scalars(temperature=3e38), r'`latents` must be'),
  ],
)
def test_bad_requests(images_model, signature, inputs, message):
  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    images_model(signature, **inputs)


def test_pixels_beyond_the_levels(draws_model):
  images = _images(num_levels=17)
  images[3, 1, 2, 0] = 17
  for signature in ('log_prob', 'encode'):
    with pytest.raises(
      tf.errors.InvalidArgumentError,
      match=r'`images` must be on \[0, 17\), got\] \[17\]',
    ):
      draws_model(signature, images=images)


@pytest.mark.parametrize(
  'signature, kwargs, message',
  [
    ('log_prob', {'condition': _condition(1)}, r'are\] \[5 1\]'),
    ('encode', {'condition': _condition(4)}, r'are\] \[5 4\]'),
    ('log_prob', {'condition': np.full([5, 2], np.nan)}, '`condition` must be'),
    ('log_prob', {'condition': np.zeros([5, 3])}, r'condition \[5,3\]'),
    ('log_prob', {'x': np.full([5, 3], -np.inf)}, r'`x` must be finite.*-inf'),
    ('sample', {'condition': _condition(9)}, r'on \[0, 8\], got\] \[9\]'),
  ],
)
def test_bad_conditional_requests(vectors_model, signature, kwargs, message):
  inputs = {'x': np.zeros([5, 3]), 'condition': _condition()}
  if signature == 'sample':
    inputs = {'temperature': np.float64(1.0), 'seed': 0}
  with pytest.raises(tf.errors.InvalidArgumentError, match=message):
    vectors_model(signature, **inputs | kwargs)


@pytest.mark.slow
def test_checks_hold_below_python(images_model):
  """As TensorFlow Serving calls it: a session, which no signature guards."""
  expected = _log_prob(images_model, _images())
  v1 = tf.compat.v1
  with v1.Session(graph=tf.Graph()) as session:
    meta_graph = v1.saved_model.load(session, ['serve'], images_model.path)
    signature = meta_graph.signature_def['log_prob']
    options = config_pb2.CallableOptions(
      feed=[signature.inputs['images'].name],
      fetch=[signature.outputs['log_prob'].name],
    )
    call = session._make_callable_from_options(options)
    (log_prob,) = call(_images())
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5)
    for shape in [(2, 8, 4, 2), (2, 4, 4, 1), serving_testing.SHAPE, ()]:
      with pytest.raises(
        tf.errors.InvalidArgumentError, match='not compatible'
      ):
        call(np.zeros(shape, np.uint8))


class Library:
  """What the library answers to requests that are as they must be."""

  def __init__(self, model, num_levels, max_samples):
    self.model = model
    self.num_levels = num_levels
    self.max_samples = max_samples
    bijector = model.distribution.bijector
    functions = [
      model.distribution.log_prob,
      bijector.inverse,
      bijector.forward,
    ]
    self._functions = [tf.function(f, autograph=False) for f in functions]
    if num_levels is not None:
      for function in self._functions:  # Once for all sizes of batches.
        function.get_concrete_function(
          tf.TensorSpec([None, *serving_testing.SHAPE])
        )

  def accepts(self, inputs):
    """Whether inputs of the right names, dtypes and shapes are accepted."""
    rows = {len(v) for v in inputs.values() if v.ndim}
    number = max(rows | {0}) if 'number' not in inputs else inputs['number']
    return (
      len(rows) < 2
      and all(np.all(np.isfinite(v)) for v in inputs.values())
      and np.all(inputs.get('images', np.uint8(0)) < (self.num_levels or 1))
      and inputs.get('temperature', 0) >= 0
      and ('seed' not in inputs or 0 <= number <= self.max_samples)
    )

  def answer(self, signature, **inputs):
    rows = [len(v) for v in inputs.values() if v.ndim] or [inputs['number']]
    if rows[0]:
      return self._answer(signature, **inputs)
    # oneDNN's convolutions of no images fail.
    for name, value in inputs.items():
      if value.ndim:
        inputs[name] = np.zeros([1, *value.shape[1:]], value.dtype)
      elif name == 'number':
        inputs[name] = value + 1
    answers = self._answer(signature, **inputs)
    return {name: answer[:0] for name, answer in answers.items()}

  def _answer(self, signature, condition=None, **inputs):
    nested = {} if condition is None else _nested(self.model, condition)
    log_prob, inverse, _ = self._functions
    if signature == 'decode':
      return self._decode(inputs['latents'], nested)
    if signature == 'sample':
      number = inputs.get('number')
      number = len(condition) if number is None else number
      base = self.model.distribution.distribution
      latents = base.sample(number, seed=[0, inputs['seed']])
      return self._decode(inputs['temperature'] * latents, nested)
    (x,) = (tf.cast(x, self.model.distribution.dtype) for x in inputs.values())
    if self.num_levels is None:
      if signature == 'encode':
        return {'latents': inverse(x, **nested)}
      return {'log_prob': log_prob(x, bijector_kwargs=nested)}
    if signature == 'encode':
      return {'latents': inverse(x + 0.5)}
    noises = [0.5]
    if self.num_levels == 17:
      noises = tf.random.stateless_uniform([5, *serving_testing.SHAPE], [0, 3])
    log_probs = [log_prob(x + noise) for noise in noises]
    return {
      'log_prob': tf.reduce_logsumexp(log_probs, 0) - math.log(len(noises))
    }

  def _decode(self, latents, nested):
    x = self._functions[-1](latents, **nested)
    if not np.all(np.isfinite(x)):
      return None
    if self.num_levels is None:
      return {'x': x}
    return {'images': _round(x, self.num_levels).astype(float)}


@pytest.fixture(scope='module')
def libraries(images_model, draws_model, vectors_model):
  return [
    Library(images_model, 256, 1024),
    Library(draws_model, 17, 1024),
    Library(vectors_model, None, 8),
  ]


_DTYPES = ['uint8', 'int32', 'int64', 'float16', 'float32', 'float64', 'bool']
_mostly = lambda usual, rare: strategies.integers(0, 9).flatmap(
  lambda i: usual if i else rare
)


@strategies.composite
def _arrays(draw, spec, rows, num_levels):
  """A value for an input, most often one that its `TensorSpec` describes."""
  shape = [rows if size is None else size for size in spec.shape]
  sizes = strategies.lists(strategies.integers(0, 5), max_size=5)
  shape = draw(_mostly(strategies.just(shape), sizes))
  dtype = draw(
    _mostly(strategies.just(spec.dtype.name), strategies.sampled_from(_DTYPES))
  )
  rng = np.random.default_rng(draw(strategies.integers(0, 99)))
  if dtype in ('uint8', 'int32', 'int64') and spec.shape.rank:
    levels = draw(
      _mostly(strategies.just(num_levels or 9), strategies.just(256))
    )
    return rng.integers(0, levels, shape).astype(dtype)
  if not spec.shape.rank and dtype == spec.dtype.name == 'int32':
    ints = [-(2**31), -1, 0, 1, 3, 8, 9, 1024, 1025, 2**31 - 1]
    return np.full(shape, draw(strategies.sampled_from(ints)), dtype)
  scale = draw(strategies.sampled_from([0.0, 0.5, 1.0, 30.0, 1e9, 1e30, 3e38]))
  with np.errstate(all='ignore'):
    value = np.asarray(scale * rng.normal(size=shape), dtype)
  odd = draw(
    _mostly(
      strategies.none(), strategies.sampled_from([np.nan, np.inf, -np.inf])
    )
  )
  if odd is not None and value.size and value.dtype.kind == 'f':
    value.flat[rng.integers(value.size)] = odd
  return np.abs(value) if not spec.shape.rank and rng.integers(4) else value


@pytest.mark.slow
@hypothesis.given(strategies.data())
@hypothesis.settings(
  max_examples=100,
  deadline=None,
  derandomize=True,
  database=None,
  phases=[hypothesis.Phase.generate],
  suppress_health_check=list(hypothesis.HealthCheck),
)
def test_any_request_gets_the_librarys_answer_or_an_error(libraries, data):
  library = data.draw(strategies.sampled_from(libraries))
  names = ['log_prob', 'encode', 'decode', 'sample']
  signature = data.draw(strategies.sampled_from(names))
  function = library.model.signatures[signature]
  specs = function.structured_input_signature[1]
  rows = data.draw(strategies.sampled_from([0, 1, 2, 7, 9]))
  inputs = {}
  for name, spec in sorted(specs.items()):
    count = data.draw(_mostly(strategies.just(rows), strategies.just(1)))
    inputs[name] = data.draw(_arrays(spec, count, library.num_levels))
  fits = all(
    inputs[name].dtype == spec.dtype.as_numpy_dtype
    and spec.shape.is_compatible_with(inputs[name].shape)
    for name, spec in specs.items()
  )
  expected = None
  if fits and library.accepts(inputs):
    expected = library.answer(signature, **inputs)
  if expected is None:
    with pytest.raises((tf.errors.InvalidArgumentError, TypeError, ValueError)):
      library.model(signature, **inputs)
    return
  answers = library.model(signature, **inputs)
  for name, value in expected.items():
    # A pixel on the edge of a bin may round either way.
    tolerance = {'images': 1.0, 'latents': 1e-4}.get(name, 0.0)
    np.testing.assert_allclose(answers[name], value, rtol=1e-4, atol=tolerance)


def test_every_signature_is_traced_once(tmp_path):
  counts = collections.Counter()

  class Counted(tfp_realnvp.FlowBijector):
    def __init__(self):
      super().__init__(forward_min_event_ndims=1, dtype=tf.float32)

    def _forward_and_log_det(self, x, **kwargs):
      counts['forward'] += 1
      return 2 * x, tf.fill(tf.shape(x)[:-1], 2 * math.log(2.0))

    def _inverse_and_log_det(self, y, **kwargs):
      counts['inverse'] += 1
      return y / 2, tf.fill(tf.shape(y)[:-1], -2 * math.log(2.0))

  base = flow_testing.isotropic_normal((2,))
  dist = tfd.TransformedDistribution(base, Counted())
  serving_testing.Served(tmp_path, dist, num_draws=3)
  assert counts == {'forward': 2, 'inverse': 2}


def _close(answers, expected):
  assert answers
  for name, value in answers.items():
    np.testing.assert_allclose(
      np.asarray(value, float), expected[name], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('data', ['images', 'vectors'])
def test_onnx_and_openvino_give_the_same_answers(data, tmp_path):
  pytest.importorskip('tf2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  openvino = pytest.importorskip('openvino')
  if data == 'images':
    model = serving_testing.Served(tmp_path, serving_testing.distribution())
    inputs = {'images': _images()}
  else:
    # `SplineCoupling` does not convert.
    dist = serving_testing.distribution((3,))
    model = serving_testing.Served(tmp_path, dist, num_levels=None)
    x = np.random.default_rng(0).normal(size=[5, 3]).astype(np.float32)
    inputs = {'x': x}
  latents = model('encode', **inputs)['latents']
  cases = {'log_prob': inputs, 'encode': inputs, 'decode': {'latents': latents}}
  # Some CPUs would compute in bfloat16.
  float32 = {'INFERENCE_PRECISION_HINT': 'f32'}
  for signature, inputs in cases.items():
    path = str(tmp_path / f'{signature}.onnx')
    command = [sys.executable, '-m', 'tf2onnx.convert', '--opset=18']
    command += ['--saved-model', model.path, '--signature_def', signature]
    subprocess.run([*command, '--output', path], check=True)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    expected = model(signature, **inputs)
    assert set(names) == set(expected)
    _close(dict(zip(names, session.run(names, inputs))), expected)
    compiled = openvino.compile_model(path, 'CPU', float32)
    _close({name: compiled(inputs)[name] for name in names}, expected)
  # OpenVINO reads the default signature of a SavedModel itself.
  compiled = openvino.compile_model(model.path, 'CPU', float32)
  inputs = cases['log_prob']
  expected = model('log_prob', **inputs)
  _close({name: compiled(inputs)[name] for name in expected}, expected)
