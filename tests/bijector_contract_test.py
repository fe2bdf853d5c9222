"""Laws that hold for every bijector of `bijector_cases`.

Each law runs once for a fixed case, and on `PROPERTY_EXAMPLES` (default: 4)
examples of a drawn case, or on fewer where the law is slow.
"""

import math
import os
import tempfile

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import bijector_cases
from tfp_realnvp.bijectors import composition

tfb = tfp.bijectors

_ERRORS = (TypeError, ValueError, tf.errors.InvalidArgumentError)
_DTYPES = st.sampled_from([tf.float64, tf.float32])
# Cases whose costly laws run with the slow tests.
_SLOW = (
  *('chain_image', 'chain_one_scale', 'chain_periodic', 'chain_conditional'),
  *('chain_spline', 'any_chain_image', 'any_chain_vector'),
)
_EXAMPLES = int(os.environ.get('PROPERTY_EXAMPLES', '4'))
# How far float32 may be from float64, relative to the largest value.
_FLOAT32_TOLERANCE = 2e-4


def _law(cost=1, names=bijector_cases.CASES):
  """Makes `test(name, draw)` a test of each of `names`.

  Args:
    cost: Divides the number of examples of drawn cases.
    names: Names of cases.

  Returns:
    A decorator.
  """

  def decorate(test):
    def case(name):
      is_slow = cost > 1 and name in _SLOW
      return pytest.param(name, marks=pytest.mark.slow if is_slow else ())

    @pytest.mark.parametrize('name', map(case, names))
    def run(name):
      divisor = cost * (6 if name == 'any_chain_image' else 1)
      is_drawn = name in bijector_cases.DRAWN
      settings = hypothesis.settings(
        # The first example of a fixed case has the first value of all choices.
        max_examples=max(1, _EXAMPLES // divisor) if is_drawn else 1,
        deadline=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate],  # To shrink takes minutes.
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
      )
      settings(hypothesis.given(st.data())(lambda d: test(name, d.draw)))()

    return run

  return decorate


def _draw(name, draw, dtype=tf.float64, batch_shape=(3,)):
  """Draws a case, its bijector with random variables, and data."""
  case = draw(bijector_cases.CASES[name])
  seed = draw(st.integers(0, 2**16))
  x, bijector = case.data(batch_shape, dtype, seed), case.bijector(dtype, seed)
  hypothesis.note(f'{bijector.parameters} of {x}')
  return case, bijector, x


def _data_to_latent(case, bijector):
  return tfb.Invert(bijector) if case.generative else bijector


def _assert_close(value, expected, *scales, factor=1e3):
  """Asserts equality up to rounding of the largest of `expected, *scales`."""
  eps = np.finfo(value.dtype.as_numpy_dtype).eps
  sizes = [np.abs(scale).max(initial=1) for scale in (expected, *scales)]
  assert value.shape == expected.shape
  np.testing.assert_allclose(value, expected, 0, factor * eps * max(sizes))


@_law()
def test_round_trip(name, draw):
  batch_shape = draw(st.sampled_from([(2,), (), (2, 3)]))
  case, bijector, x = _draw(name, draw, draw(_DTYPES), batch_shape)
  z_shape = case.to_latent(bijector, x)[0].shape
  latents = tf.random.stateless_normal(z_shape, [0, 1], dtype=x.dtype)
  for to, back, value in (
    (case.to_latent, case.to_data, x),
    (case.to_data, case.to_latent, latents),
  ):
    there, log_det = to(bijector, value)
    again, inverse_log_det = back(bijector, there)
    assert log_det.shape == batch_shape
    # `high` is the largest datum, of whose size intermediate values can be.
    _assert_close(again, value, there, case.high)
    size = math.prod(case.event_shape)
    _assert_close(-inverse_log_det, log_det, there, size)


def _assert_log_det_of_jacobian(case, bijector, x, log_det):
  size = math.prod(case.event_shape)
  for event, value in zip(x, log_det):
    copies = tf.tile(event[tf.newaxis], [size] + [1] * event.shape.rank)
    with tf.GradientTape() as tape:  # Copy i gives row i.
      tape.watch(copies)
      z, _ = case.to_latent(bijector, copies)
      trace = tf.linalg.trace(tf.reshape(z, [size, size]))
    jacobian = tf.reshape(tape.gradient(trace, copies), [size, size])
    expected = np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-8)


@_law()
def test_log_det_is_that_of_the_automatic_jacobian(name, draw):
  case, bijector, x = _draw(name, draw, batch_shape=(2,))
  hypothesis.assume(math.prod(case.event_shape) <= 100)
  _, log_det = case.to_latent(bijector, x)
  _assert_log_det_of_jacobian(case, bijector, x, log_det)


@_law(names=bijector_cases.FIXED)
def test_log_det_in_training_is_that_of_the_batch_statistics(name, draw):
  case, bijector, x = _draw(name, draw, batch_shape=(2,))
  z, log_det = case.to_latent(bijector, x, training=True)
  # With momentum 0 the moving statistics are now those of the batch, and
  # evaluation holds them constant.
  np.testing.assert_allclose(case.to_latent(bijector, x)[0], z, atol=1e-9)
  _assert_log_det_of_jacobian(case, bijector, x, log_det)


@_law(cost=4)
def test_float32_is_near_float64(name, draw):
  case, exact_bijector, exact_x = _draw(name, draw)
  bijector, x = case.make(dtype=tf.float32), tf.cast(exact_x, tf.float32)
  for variable, exact in zip(bijector.variables, exact_bijector.variables):
    variable.assign(tf.cast(exact, tf.float32))
  z, log_det = case.to_latent(bijector, x)
  assert z.dtype == log_det.dtype == tf.float32
  back, _ = case.to_data(bijector, z)
  exact_z, exact_log_det = case.to_latent(exact_bijector, exact_x)
  for value, exact in (
    (z, exact_z),
    (log_det, exact_log_det),
    (back, exact_x),
  ):
    scale = max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(value, exact, atol=_FLOAT32_TOLERANCE * scale)


@_law(cost=4)
def test_tfp_methods_agree_with_the_pair(name, draw):
  case, bijector, x = _draw(name, draw)
  z, log_det = case.to_latent(bijector, x)
  direct, kwargs = _data_to_latent(case, bijector), case.kwargs
  fldj = direct.forward_log_det_jacobian
  np.testing.assert_array_equal(direct.forward(x, **kwargs), z)
  np.testing.assert_array_equal(fldj(tf.identity(x), **kwargs), log_det)
  size = math.prod(case.event_shape)
  ildj = direct.inverse_log_det_jacobian(tf.identity(z), **kwargs)
  _assert_close(ildj, -log_det, z, size)
  back = direct.inverse(tf.identity(z), **kwargs)
  _assert_close(back, x, z, case.high)
  more = direct.forward_min_event_ndims + 1
  np.testing.assert_allclose(
    fldj(tf.identity(x), event_ndims=more, **kwargs),
    tf.reduce_sum(log_det),
    rtol=1e-12,
  )


@_law()
def test_an_event_has_the_same_answer_alone(name, draw):
  shapes = [(2, 3), (0,), (1,), (3,), (2, 2), (2, 0)]
  batch_shape = draw(st.sampled_from(shapes))
  case, bijector, x = _draw(name, draw, batch_shape=batch_shape)
  kwargs = {
    name: np.random.default_rng(0).normal(size=(*batch_shape, len(value)))
    for name, value in case.kwargs.items()
  }
  z, log_det = case.to_latent(bijector, x, **kwargs)
  assert log_det.shape == batch_shape
  assert z.shape[: len(batch_shape)] == batch_shape
  for i in np.ndindex(*batch_shape):
    own = {name: value[i] for name, value in kwargs.items()}
    z_alone, log_det_alone = case.to_latent(bijector, x[i], **own)
    _assert_close(z[i], z_alone)
    _assert_close(log_det[i], log_det_alone, math.prod(case.event_shape))


@pytest.mark.slow
@_law(cost=4)
def test_a_graph_of_unknown_sizes_has_the_same_answer(name, draw):
  case, bijector, x = _draw(name, draw, draw(_DTYPES))
  channels = case.event_shape[-1:]
  shape = [None] * (x.shape.rank - len(channels)) + list(channels)
  spec = tf.TensorSpec(shape, x.dtype)
  graph = tf.function(lambda x: case.to_latent(bijector, x), [spec])
  for part in (x, x[:1]):
    for got, expected in zip(graph(part), case.to_latent(bijector, part)):
      _assert_close(got, expected, math.prod(case.event_shape))


@pytest.mark.slow
@_law(cost=4)
def test_xla(name, draw):
  tolerances = {tf.float64: 1e-9, tf.float32: 1e-3}
  if 'chain' in name:  # The parts of chains are also compiled in float32.
    del tolerances[tf.float32]
  for dtype, tolerance in tolerances.items():
    case, bijector, x = _draw(name, draw, dtype)
    z, log_det = case.to_latent(bijector, x)
    to_latent = tf.function(case.to_latent, jit_compile=True)
    to_data = tf.function(case.to_data, jit_compile=True)
    for got, expected in zip(to_latent(bijector, x), (z, log_det)):
      np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    back, _ = to_data(bijector, z)
    np.testing.assert_allclose(back, x, rtol=tolerance, atol=tolerance)


@_law(cost=4)
def test_event_shapes(name, draw):
  case, bijector, x = _draw(name, draw)
  z, _ = case.to_latent(bijector, x)
  direct = _data_to_latent(case, bijector)
  for batch in ((), (5,), (5, 2)):
    data, latent = batch + case.event_shape, batch + tuple(z.shape[1:])
    assert direct.forward_event_shape(data) == latent
    assert direct.inverse_event_shape(latent) == data
    for tensor, expected in (
      (direct.forward_event_shape_tensor(data), latent),
      (direct.inverse_event_shape_tensor(latent), data),
    ):
      np.testing.assert_array_equal(tensor, expected)
  unknown = tf.TensorShape(None)
  assert direct.forward_event_shape(unknown).rank is None
  assert direct.inverse_event_shape(unknown).rank is None
  if case.event_shape:
    with pytest.raises(ValueError, match=r'at least . dimensions, got shape'):
      direct.forward_event_shape(case.event_shape[1:])


@_law(cost=4)
def test_copy_shares_variables(name, draw):
  case, bijector, x = _draw(name, draw)
  copy = bijector.copy(name='another')
  assert copy.name == 'another'
  assert type(copy) is type(bijector)
  assert set(copy.parameters) == set(bijector.parameters)
  assert [v.ref() for v in copy.variables] == [
    v.ref() for v in bijector.variables
  ]
  np.testing.assert_array_equal(
    case.to_latent(copy, x)[0], case.to_latent(bijector, x)[0]
  )
  assert bijector.copy(validate_args=True).validate_args
  assert not bijector.validate_args


@_law(cost=4)
def test_equal_arguments_do_not_share_a_cache(name, draw):
  case, one, x = _draw(name, draw)
  for bijector in (one, case.bijector(seed=2)):
    z = _data_to_latent(case, bijector).forward(x, **case.kwargs)
    np.testing.assert_array_equal(z, case.to_latent(bijector, x)[0])


@_law()
def test_compositions_of_tfp_have_the_same_answer(name, draw):
  case, bijector, x = _draw(name, draw)
  direct = _data_to_latent(case, bijector)
  part = draw(st.sampled_from([direct, tfb.Invert(tfb.Invert(direct))]))
  half, size = tf.constant(0.5, x.dtype), math.prod(case.event_shape)
  chain = tfb.Chain([part, tfb.Scale(half), tfb.Shift(half)])
  kwargs = composition.nested_kwargs(chain, **case.kwargs)
  if part is direct:
    assert kwargs == ({direct.name: case.kwargs} if case.kwargs else {})
  z, log_det = case.to_latent(bijector, (x + half) * half)
  _assert_close(chain.forward(x, **kwargs), z)
  back = chain.inverse(tf.identity(z), **kwargs)
  _assert_close(back, x, z, case.high)
  for event_ndims, expected in (
    (len(case.event_shape), log_det - size * np.log(2)),
    (x.shape.rank, tf.reduce_sum(log_det) - 3 * size * np.log(2)),
  ):
    fldj = chain.forward_log_det_jacobian(x, event_ndims, **kwargs)
    _assert_close(fldj, expected, size)


@_law(cost=4)
def test_gradients_reach_input_and_variables(name, draw):
  case, bijector, x = _draw(name, draw)
  with tf.GradientTape() as tape:
    tape.watch(x)
    z, log_det = case.to_latent(bijector, x, training=True)
    loss = tf.reduce_sum(z**3) - tf.reduce_sum(log_det**2)
  variables = bijector.trainable_variables
  for gradient in tape.gradient(loss, [x, *variables]):
    assert gradient is not None
    assert np.isfinite(gradient).all()
    # Networks of drawn cases may see no pixel, or have dead hidden units.
    assert np.any(gradient != 0) or name in bijector_cases.DRAWN


@_law(cost=4)
def test_checkpoint_restores_every_variable(name, draw):
  case, bijector, x = _draw(name, draw)
  fresh = case.bijector(seed=2)
  with tempfile.TemporaryDirectory() as folder:
    path = tf.train.Checkpoint(bijector=bijector).save(f'{folder}/ckpt')
    restored = tf.train.Checkpoint(bijector=fresh).restore(path)
    restored.assert_existing_objects_matched()
  for got, expected in zip(
    case.to_latent(fresh, x), case.to_latent(bijector, x)
  ):
    np.testing.assert_array_equal(got, expected)


@_law()
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
      'chain' in name or ('logit' in name and to == case.to_data)
    ):
      again = back(bijector, y)[0][1]
      _assert_close(again, tf.constant(spoiled[1]), y[1], case.high)


@_law()
def test_an_event_of_another_size_is_refused_or_inverted(name, draw):
  case, bijector, x = _draw(name, draw)
  shape = list(x.shape)
  axis = draw(st.integers(min(1, len(shape) - 1), len(shape) - 1))
  shape[axis] = draw(st.integers(0, 6))
  x = tf.random.stateless_uniform(shape, [0, 1], case.low, case.high, x.dtype)
  spec = tf.TensorSpec([None] * len(shape), x.dtype)
  known = lambda x: case.to_latent(bijector, x)
  for to_latent in (known, tf.function(known, [spec])):
    try:
      z, log_det = to_latent(x)
    except _ERRORS:
      continue
    back, inverse_log_det = case.to_data(bijector, z)
    _assert_close(back, x, z, case.high)
    _assert_close(-inverse_log_det, log_det, z, math.prod(shape))


@_law(cost=4)
def test_wrong_input_is_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  wrong = [
    (_ERRORS, 'must', value)
    for value in (
      x > 0,
      tf.cast(x, tf.complex128),
      tf.as_string(x),
      x.numpy().astype(object),
      tf.ragged.constant([[0.5], [0.5, 0.5]], dtype=x.dtype),
      'a',
      None,
      object(),
    )
  ]
  for dtype in ('int32', 'float32'):
    message = f'must have dtype float64, got {dtype}'
    wrong.append((TypeError, message, tf.cast(x, dtype)))
  if case.event_shape:
    wrong.append((ValueError, 'must have at least . dimensions', x[0, 0]))
  for argument, method in (
    ('x', bijector.forward),
    ('x', bijector.forward_and_log_det),
    ('y', bijector.inverse),
    ('y', bijector.inverse_log_det_jacobian),
  ):
    for error, message, value in wrong:
      with pytest.raises(error, match=f'`{argument}` {message}'):
        method(value, **case.kwargs)


@_law()
def test_wrong_training_and_event_ndims_are_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  for training in (1, 0.0, None, 'no', np.True_, tf.zeros([])):
    with pytest.raises(TypeError, match='`training` must'):
      case.to_latent(bijector, x, training=training)
  event_ndims = draw(st.sampled_from([-1, 9, 3.0, 'a', True, [3], math.nan]))
  with pytest.raises(ValueError, match='`event_ndims` must'):
    case.to_latent(bijector, x, event_ndims=event_ndims)
  z, _ = case.to_latent(bijector, x)
  to_data = _data_to_latent(case, bijector).inverse
  with pytest.raises(ValueError, match='`training` must be False, got True'):
    to_data(z, training=True, **case.kwargs)
  with pytest.raises(TypeError, match='`training` must be a Python bool'):
    to_data(z, training=tf.constant(True), **case.kwargs)


@_law(4, [n for n in bijector_cases.CASES if 'coupling' in n or 'chain' in n])
def test_a_wrong_condition_is_refused(name, draw):
  case, bijector, x = _draw(name, draw)
  size = len(case.kwargs.get('condition', [0]))
  wrong = [1.0, True, False, 'a', [['a']], {}, object(), [math.nan] * 9]
  wrong += [np.zeros(shape) for shape in ([4, size], [2, 3, size], [3, 0])]
  wrong += [tf.zeros([3, size], dtype) for dtype in (tf.int32, tf.float32)]
  for condition in wrong:
    with pytest.raises(_ERRORS, match='`condition`'):
      case.to_latent(bijector, x, condition=condition)
