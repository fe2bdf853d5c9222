"""Bijectors on drawn shapes, masks and parameters, and on hostile input.

An error or a right answer, never a wrong one. `PROPERTY_EXAMPLES=50` tries as
many examples of every property.
"""

import functools
import math
import os

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp import visualization
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import flow_sequence

tfb = tfp.bijectors

_ERRORS = (TypeError, ValueError, tf.errors.InvalidArgumentError)

_EXAMPLES = int(os.environ.get('PROPERTY_EXAMPLES', '4'))


def _settings(max_examples):
  return hypothesis.settings(
    max_examples=max(1, max_examples),
    deadline=None,
    derandomize=True,
    phases=[hypothesis.Phase.generate],  # To shrink takes minutes.
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )


class _Network(tf.Module):
  """From `[N, ..., in_size]`; quick, of any rank, and sees the whole event."""

  def __init__(self, in_size, out_size, dtype):
    super().__init__()
    kernel = tf.fill([in_size, 2 * out_size], tf.cast(0.2, dtype))
    self.kernel = tf.Variable(kernel)

  def __call__(self, x):
    x += tf.reduce_mean(x, axis=list(range(1, x.shape.rank - 1)), keepdims=True)
    return tf.tanh(tf.tensordot(x, self.kernel, 1))


def _coupling(mask, event_shape, dtype):
  """A coupling of any mask, with a network of the sizes that it asks for."""
  size = event_shape[-1]
  kept = np.asarray([] if callable(mask) else mask)
  is_split = kept.size and kept.size == kept.shape[-1]
  sizes = (kept.sum(), (~kept).sum()) if is_split else (size, size)
  return tfp_realnvp.AffineCoupling(_Network(*sizes, dtype), mask, dtype=dtype)


_side, _flag, _parity = st.integers(1, 4), st.booleans(), st.integers(0, 1)
_image = st.tuples(_side, _side, st.integers(2, 4))
_vector = st.tuples(st.integers(2, 6))


@st.composite
def _bits(draw, shape):
  count = math.prod(shape)
  bits = st.lists(_flag, min_size=count, max_size=count)
  return np.reshape(draw(bits.filter(lambda b: 0 < sum(b) < count)), shape)


@st.composite
def _couplings(draw, shapes, mask_of):
  event_shape = draw(shapes)
  mask = mask_of(draw, event_shape)
  make = functools.partial(_coupling, mask, event_shape)
  return flow_testing.Case(make, event_shape)


def _any_mask(draw, shape):
  """Of pixels or of elements, itself or as a function."""
  flat = (*shape[:-1], 1)
  mask = draw(_bits(shape if math.prod(flat) == 1 or draw(_flag) else flat))
  return (lambda _: mask) if draw(_flag) else mask


def _checkerboard(draw, shape):
  del shape
  return functools.partial(tfp_realnvp.checkerboard_mask, parity=draw(_parity))


def _channel(draw, shape):
  return tfp_realnvp.channel_mask(shape, draw(_parity))


@st.composite
def _batch_norms(draw):
  arguments = {
    'num_channels': draw(_side),
    'epsilon': draw(st.floats(1e-5, 1)),
    'momentum': draw(st.floats(0, 0.99)),
    'lagged': draw(_flag),
  }
  make = functools.partial(tfp_realnvp.BatchNormBijector, **arguments)
  return flow_testing.Case(make, (arguments['num_channels'],))


@st.composite
def _squeezes(draw):
  block, (height, width, channels) = draw(_side), draw(_image)
  order = draw(st.sampled_from(['ordinary', 'checkerboard']))
  make = functools.partial(tfp_realnvp.Squeeze, block, order)
  return flow_testing.Case(make, (block * height, block * width, channels))


@st.composite
def _factor_outs(draw):
  inner = draw(st.one_of(CASES['coupling_any_mask'], CASES['coupling_vector']))
  make, (*space, channels) = inner.make, inner.event_shape
  if draw(_flag):  # Not one of ours, and of vectors.
    make, space = lambda dtype: tfb.Scale(tf.constant(0.5, dtype)), ()
  return flow_testing.Case(
    lambda dtype: tfp_realnvp.FactorOut(make(dtype=dtype), dtype=dtype),
    (*space, 2 * channels),
  )


@st.composite
def _logits(draw):
  levels, alpha = draw(st.integers(1, 1000)), draw(st.floats(1e-5, 0.49))
  make = functools.partial(tfp_realnvp.LogitTransform, levels, alpha)
  return flow_testing.Case(make, (), 0.0, float(levels))


@st.composite
def _sequences(draw):
  case = draw(CASES['coupling_any_mask'])
  order = draw(st.permutations(range(4)))

  def make(dtype):
    one = tf.constant(1.0, dtype)
    norm = tfp_realnvp.BatchNormBijector(case.event_shape[-1], dtype=dtype)
    parts = [case.make(dtype=dtype), norm, tfb.Shift(one), tfb.Scale(2 * one)]
    return flow_sequence.FlowSequence([parts[i] for i in order], 3, dtype=dtype)

  return flow_testing.Case(make, case.event_shape)


@st.composite
def _chains(draw, is_image):
  size = draw(st.none() | _side)
  hidden = draw(_side)
  arguments = {
    'batch_norm': draw(_flag),
    'condition_size': size,
    'seed': draw(st.integers(0, 9)),
  }
  if is_image:
    scales, (height, width, channels) = draw(st.integers(1, 2)), draw(_image)
    event_shape = (scales * height, scales * width, channels - 1)
    arguments |= {'num_scales': scales, 'hidden_channels': hidden}
  else:
    event_shape = draw(_vector)
    arguments |= {'num_couplings': draw(_side), 'hidden_units': (hidden,)}
  make = functools.partial(flow_testing.chain, event_shape, **arguments)
  kwargs = {'condition': np.linspace(-1, 1, size)} if size else {}
  limits = (0.0, 256.0) if is_image else (-2.0, 2.0)
  return flow_testing.Case(make, event_shape, *limits, kwargs, generative=True)


CASES = {
  'coupling_checkerboard': _couplings(_image, _checkerboard),
  'coupling_channel': _couplings(_image | _vector, _channel),
  'coupling_any_mask': _couplings(_image, _any_mask),
  'coupling_vector': _couplings(_vector, lambda draw, s: draw(_bits(s))),
  'batch_norm': _batch_norms(),
  'squeeze': _squeezes(),
  'factor_out': _factor_outs(),
  'logit': _logits(),
  'sequence': _sequences(),
  'chain_image': _chains(is_image=True),
  'chain_vector': _chains(is_image=False),
}

_DTYPES = st.sampled_from([tf.float32, tf.float64])


def _property(test, names=tuple(CASES), cost=1):
  """Runs `test(name, draw)` for every case, on examples that it draws."""

  @pytest.mark.parametrize('name', names)
  def run(name):
    examples = _EXAMPLES // (cost * (6 if name == 'chain_image' else 1))
    on_examples = hypothesis.given(st.data())(lambda d: test(name, d.draw))
    _settings(examples)(on_examples)()

  return run


def _draw(name, draw, dtype=tf.float64, batch_shape=(3,)):
  case, seed = draw(CASES[name]), draw(st.integers(0, 2**16))
  x, bijector = case.data(batch_shape, dtype, seed), case.bijector(dtype, seed)
  hypothesis.note(f'{bijector.parameters} of {x}')
  return case, bijector, x


def _assert_close(value, expected, *scales, factor=1e3):
  """Equal up to rounding, of numbers as large as the largest of `scales`."""
  eps = np.finfo(value.dtype.as_numpy_dtype).eps
  sizes = [np.abs(scale).max(initial=1) for scale in (expected, *scales)]
  assert value.shape == expected.shape
  np.testing.assert_allclose(value, expected, 0, factor * eps * max(sizes))


@_property
def test_round_trip(name, draw):
  batch_shape = draw(st.sampled_from([(), (2,), (2, 3)]))
  case, bijector, x = _draw(name, draw, draw(_DTYPES), batch_shape)
  z, log_det = case.to_latent(bijector, x)
  back, inverse_log_det = case.to_data(bijector, z)
  assert log_det.shape == batch_shape
  _assert_close(back, x, z)
  _assert_close(-inverse_log_det, log_det, z, math.prod(case.event_shape))


@_property
def test_log_det_is_that_of_the_automatic_jacobian(name, draw):
  case, bijector, x = _draw(name, draw, batch_shape=())
  size = math.prod(case.event_shape)
  hypothesis.assume(size <= 100)
  x = tf.tile(x[tf.newaxis], [size] + [1] * x.shape.rank)
  with tf.GradientTape() as tape:  # Of element i in event i: a row each.
    tape.watch(x)
    z, log_det = case.to_latent(bijector, x)
    trace = tf.linalg.trace(tf.reshape(z, [size, size]))
  jacobian = tf.reshape(tape.gradient(trace, x), [size, size])
  expected = np.linalg.slogdet(jacobian)[1]
  np.testing.assert_allclose(log_det, np.full(size, expected), atol=1e-8)


@_property
def test_an_event_has_the_same_answer_alone(name, draw):
  batch_shape = draw(st.sampled_from([(0,), (1,), (3,), (2, 2), (2, 0)]))
  case, bijector, x = _draw(name, draw, batch_shape=batch_shape)
  condition = case.kwargs.get('condition')
  if condition is not None:
    size = (*batch_shape, len(condition))
    condition = np.random.default_rng(0).normal(size=size)
  case.kwargs = {}
  z, log_det = case.to_latent(bijector, x, condition=condition)
  assert log_det.shape == batch_shape
  assert z.shape[: len(batch_shape)] == batch_shape
  for i in np.ndindex(*batch_shape):
    own = None if condition is None else condition[i]
    z_alone, log_det_alone = case.to_latent(bijector, x[i], condition=own)
    _assert_close(z[i], z_alone)
    _assert_close(log_det[i], log_det_alone, math.prod(case.event_shape))


@functools.partial(_property, cost=4)
def test_a_graph_of_unknown_sizes_has_the_same_answer(name, draw):
  case, bijector, x = _draw(name, draw, draw(_DTYPES))
  channels = case.event_shape[-1:]
  shape = [None] * (x.shape.rank - len(channels)) + list(channels)
  spec = tf.TensorSpec(shape, x.dtype)
  graph = tf.function(lambda x: case.to_latent(bijector, x), [spec])
  for got, expected in zip(graph(x), case.to_latent(bijector, x)):
    _assert_close(got, expected, math.prod(case.event_shape))


@_property
def test_compositions_of_tfp_have_the_same_answer(name, draw):
  case, bijector, x = _draw(name, draw)
  z, log_det = case.to_latent(bijector, x)
  direct = tfb.Invert(bijector) if case.generative else bijector
  half = tf.constant(0.5, x.dtype)
  chain = tfb.Chain([tfb.Invert(tfb.Invert(direct)), tfb.Scale(half)])
  kwargs = composition.nested_kwargs(chain, **case.kwargs)
  _assert_close(chain.forward(2 * x, **kwargs), z)
  _assert_close(chain.inverse(tf.identity(z), **kwargs), 2 * x, z)
  size, ndims = math.prod(case.event_shape), len(case.event_shape)
  ldj = chain.forward_log_det_jacobian(2 * x, ndims, **kwargs)
  _assert_close(ldj, log_det - size * np.log(2), size)


@_property
def test_no_value_spoils_another_event_or_passes_for_a_right_one(name, draw):
  case, bijector, x = _draw(name, draw, draw(_DTYPES))
  value = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e30, 1e-310]))
  for to, back, clean in (
    (case.to_latent, case.to_data, x),
    (case.to_data, case.to_latent, case.to_latent(bijector, x)[0]),
  ):
    spoiled = np.array(clean)
    event = spoiled.reshape(3, -1)[1]
    event[draw(st.integers(0, event.size - 1))] = value
    y, log_det = to(bijector, tf.constant(spoiled))
    for got, expected in zip((y, log_det), to(bijector, clean)):
      others = tf.gather(expected, [0, 2])
      _assert_close(tf.gather(got, [0, 2]), others, math.prod(case.event_shape))
    is_finite = np.isfinite(y[1]).all() and np.isfinite(log_det[1])
    if not np.isfinite(value):
      assert not is_finite
    # Rounding loses what stands beside 1e30: the logit has limits, and a chain
    # has couplings that add it to the others.
    elif is_finite and not (
      name.startswith('chain') or (name == 'logit' and to == case.to_data)
    ):
      _assert_close(back(bijector, y)[0][1], tf.constant(spoiled[1]), y[1])


@_property
def test_an_event_of_another_size_is_refused_or_inverted(name, draw):
  case, bijector, x = _draw(name, draw)
  shape = list(x.shape)
  axis = draw(st.integers(min(1, len(shape) - 1), len(shape) - 1))
  shape[axis] = draw(st.integers(0, 6))
  x = tf.random.stateless_uniform(shape, [0, 1], dtype=x.dtype)
  spec = tf.TensorSpec([None] * len(shape), x.dtype)
  known = lambda x: case.to_latent(bijector, x)
  for to_latent in (known, tf.function(known, [spec])):
    try:
      z, log_det = to_latent(x)
    except _ERRORS:
      continue
    back, inverse_log_det = case.to_data(bijector, z)
    _assert_close(back, x, z)
    _assert_close(-inverse_log_det, log_det, z, math.prod(shape))


@_property
def test_what_is_no_event_is_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  hostile = {
    'integers': tf.cast(x, tf.int32),
    'float32': tf.cast(x, tf.float32),
    'booleans': x > 0,
    'complex': tf.cast(x, tf.complex128),
    'strings': tf.as_string(x),
    'objects': x.numpy().astype(object),
    'ragged': tf.ragged.constant([[0.5], [0.5, 0.5]], dtype=x.dtype),
    'text': 'a',
    'nothing': None,
    'anything': object(),
  }
  if case.event_shape:
    hostile['less than an event'] = x[(0,) * 2]
  value = hostile[draw(st.sampled_from(sorted(hostile)))]
  for method in ('forward', 'forward_and_log_det', 'inverse_log_det_jacobian'):
    with pytest.raises(_ERRORS, match='`[xy]` must'):
      getattr(bijector, method)(value, **case.kwargs)


@_property
def test_what_is_no_training_or_event_ndims_is_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  training = draw(st.sampled_from([1, 0.0, None, 'no', np.True_, tf.zeros([])]))
  with pytest.raises(TypeError, match='`training` must'):
    case.to_latent(bijector, x, training=training)
  event_ndims = draw(st.sampled_from([-1, 9, 3.0, 'a', True, [3], math.nan]))
  with pytest.raises(ValueError, match='`event_ndims` must'):
    case.to_latent(bijector, x, event_ndims=event_ndims)


@functools.partial(
  _property, names=[n for n in CASES if n.startswith(('coupling', 'chain'))]
)
def test_what_is_no_condition_is_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  size = len(case.kwargs.pop('condition', [0]))
  hostile = [1.0, True, False, 'a', [['a']], {}, object(), [math.nan] * 9]
  hostile += [np.zeros(shape) for shape in ([4, size], [2, 3, size], [3, 0])]
  hostile += [tf.zeros([3, size], dtype) for dtype in (tf.int32, tf.float32)]
  condition = draw(st.sampled_from(hostile))
  with pytest.raises(_ERRORS, match='`condition`'):
    case.to_latent(bijector, x, condition=condition)


@_settings(_EXAMPLES // 4)
@hypothesis.given(
  value=st.floats(max_value=-(2**-10), width=32)
  | st.floats(min_value=17, width=32)
  | st.just(math.nan),
  of_chain=_flag,
)
def test_what_is_no_pixel_is_found_in_graphs(value, of_chain):
  bijector = tfp_realnvp.LogitTransform(17, validate_args=True)
  if of_chain:
    bijector = tfp_realnvp.RealNVPChain(
      (2, 2, 1), 1, 1, 2, logit_transform=bijector, validate_args=True
    )
  forward = bijector.inverse if of_chain else bijector.forward
  with pytest.raises(
    tf.errors.InvalidArgumentError, match='`x` must be pixels'
  ):
    tf.function(forward)(tf.constant([[[[1.0], [value]], [[2.0], [3.0]]]]))


def _is_int(minimum, maximum=math.inf):
  return lambda value: (
    isinstance(value, (int, np.integer))
    and not isinstance(value, bool)
    and minimum <= value <= maximum
  )


def _is_real(minimum, maximum):
  return lambda value: (
    isinstance(value, (int, float, np.integer, np.floating))
    and minimum <= value <= maximum
  )


_CHAIN = functools.partial(
  tfp_realnvp.RealNVPChain,
  (2, 2, 1),
  networks=tfp_realnvp.ResidualNetworks(num_blocks=1, hidden_channels=1),
)
_never = lambda value: False
_picture = np.zeros([2, 2, 1], np.uint8)
_grid = functools.partial(visualization.image_grid, _picture[np.newaxis])
_side_by_side = visualization.side_by_side
# What takes an argument, the argument's name, and which values are right.
ARGUMENTS = [
  (tfp_realnvp.Squeeze, 'block_size', _is_int(1)),
  (tfp_realnvp.Squeeze, 'order', _never),
  (tfp_realnvp.LogitTransform, 'num_levels', _is_int(1)),
  (
    tfp_realnvp.LogitTransform,
    'alpha',
    lambda value: isinstance(value, (float, np.floating)) and value == 0.25,
  ),
  (tfp_realnvp.FactorOut, 'bijector', _never),
  (
    functools.partial(tfp_realnvp.AffineCoupling, mask=[True, False]),
    'shift_and_log_scale_fn',
    _never,
  ),
  (functools.partial(tfp_realnvp.AffineCoupling, abs), 'mask', _never),
  (
    functools.partial(flow_sequence.FlowSequence, event_ndims=1),
    'bijectors',
    _never,
  ),
  (
    functools.partial(flow_sequence.FlowSequence, [tfb.Exp()]),
    'event_ndims',
    _is_int(0),
  ),
  (tfp_realnvp.checkerboard_mask, 'event_shape', _never),
  (
    lambda event_shape: tfp_realnvp.checkerboard_mask((event_shape, 4, 1)),
    'event_shape',
    lambda value: _is_int(0)(value) or tf.is_tensor(value),
  ),
  (
    tfp_realnvp.channel_mask,
    'event_shape',
    lambda value: isinstance(value, (list, tuple)),
  ),
  (
    lambda event_shape: tfp_realnvp.channel_mask((4, 4, event_shape)),
    'event_shape',
    _is_int(2),
  ),
  (
    functools.partial(tfp_realnvp.channel_mask, (2,)),
    'parity',
    lambda value: value is True or _is_int(0, 1)(value),
  ),
  (visualization.image_grid, 'images', _never),
  (_grid, 'num_columns', _is_int(1)),
  (_grid, 'zoom', _is_int(1)),
  (_grid, 'padding', _is_int(0)),
  (functools.partial(_side_by_side, right=_picture), 'left', _never),
  (functools.partial(_side_by_side, _picture), 'right', _never),
  (
    functools.partial(_side_by_side, _picture, _picture),
    'gap',
    _is_int(0),
  ),
  (tfp_realnvp.BatchNormBijector, 'num_channels', _is_int(1)),
  *[
    (functools.partial(tfp_realnvp.BatchNormBijector, 2), name, is_right)
    for name, is_right in (
      ('epsilon', _is_real(1e-9, 1e9)),
      ('momentum', lambda value: value is None or _is_real(0, 0.9)(value)),
    )
  ],
  (tfp_realnvp.ResidualNetworks, 'hidden_channels', _is_int(1)),
  (tfp_realnvp.ResidualNetworks, 'num_blocks', _is_int(1)),
  (tfp_realnvp.ResidualNetworks, 'batch_norm', lambda v: v is None),
  (tfp_realnvp.ResidualNetworks, 'padding', _never),
  (
    tfp_realnvp.DenseNetworks,
    'hidden_units',
    lambda v: isinstance(v, (list, tuple)),
  ),
  (tfp_realnvp.DenseNetworks, 'activation', callable),
  (tfp_realnvp.BatchNormOptions, 'momentum', _is_real(0, 0.9)),
  (_CHAIN, 'num_scales', lambda v: v is None or _is_int(1, 2)(v)),
  (_CHAIN, 'num_couplings', lambda v: v is None),
  (_CHAIN, 'networks', lambda v: v is None),
  (_CHAIN, 'batch_norm', lambda v: v is None),
  (_CHAIN, 'condition_size', lambda v: v is None or _is_int(1)(v)),
  (_CHAIN, 'logit_transform', lambda v: v is None),
]
_HOSTILE = [True, 2, 2.0, 2.5, 0.25, -1, 0, None, 'a', math.nan, math.inf, 1j]
_HOSTILE += [np.int64(2), np.int64(0), np.float32(0.25), np.array([2, 2]), {}]
_HOSTILE += [[2], (2,), object(), tf.constant(2)]


@pytest.mark.parametrize('function, argument, is_right', ARGUMENTS)
def test_wrong_arguments_are_refused_by_name(function, argument, is_right):
  for value in _HOSTILE:
    if not is_right(value):
      with pytest.raises(_ERRORS, match=f'`{argument}`'):
        function(**{argument: value})
    else:
      function(**{argument: value})
