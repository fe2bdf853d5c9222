"""What holds for every bijector of the registry."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing

tfb = tfp.bijectors
tfd = tfp.distributions

pytestmark = pytest.mark.parametrize('name', flow_testing.CASES)

# How far float32 may be from float64, relative to the largest value.
_FLOAT32_TOLERANCE = 2e-4


def _jacobian_log_det(function, x):
  """Log |det| of the automatic Jacobian of `function` at one event `x`."""
  flat = tf.reshape(x, [-1])
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(flat)
    y = tf.reshape(function(tf.reshape(flat, x.shape)), [-1])
  jacobian = tape.jacobian(y, flat, experimental_use_pfor=False)
  return np.linalg.slogdet(jacobian.numpy())[1]


def _assert_log_det_of_jacobian(case, bijector, x, log_det):
  for event, value in zip(x, log_det):
    expected = _jacobian_log_det(
      lambda e: case.to_latent(bijector, e)[0], event
    )
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-8)


def test_round_trip(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  z, fldj = case.to_latent(bijector, x)
  back, ildj = case.to_data(bijector, z)
  np.testing.assert_allclose(back, x, rtol=0, atol=1e-8)
  np.testing.assert_allclose(ildj, -fldj, rtol=0, atol=1e-8)
  latent = tf.random.stateless_normal(z.shape, [0, 1], dtype=z.dtype)
  data, ildj = case.to_data(bijector, latent)
  again, fldj = case.to_latent(bijector, data)
  np.testing.assert_allclose(again, latent, rtol=0, atol=1e-8)
  np.testing.assert_allclose(ildj, -fldj, rtol=0, atol=1e-8)


def test_log_det_is_that_of_the_automatic_jacobian(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  _, log_det = case.to_latent(bijector, x)
  _assert_log_det_of_jacobian(case, bijector, x, log_det)


def test_log_det_in_training_is_that_of_the_batch_statistics(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  z, log_det = case.to_latent(bijector, x, training=True)
  # Momentum 0: the moving statistics now are those of the batch, so that
  # evaluation holds them constant.
  np.testing.assert_allclose(case.to_latent(bijector, x)[0], z, atol=1e-9)
  _assert_log_det_of_jacobian(case, bijector, x, log_det)


def test_float32_is_near_float64(name):
  case = flow_testing.CASES[name]
  z64, log_det64 = case.to_latent(case.bijector(), case.data())
  bijector = case.bijector(tf.float32)
  for variable, exact in zip(bijector.variables, case.bijector().variables):
    variable.assign(tf.cast(exact, tf.float32))
  x = case.data(dtype=tf.float32)
  z, log_det = case.to_latent(bijector, x)
  assert z.dtype == log_det.dtype == tf.float32
  for value, exact in ((z, z64), (log_det, log_det64)):
    scale = max(1.0, np.abs(exact).max())
    np.testing.assert_allclose(value, exact, atol=_FLOAT32_TOLERANCE * scale)
  back, _ = case.to_data(bijector, z)
  scale = max(1.0, np.abs(x).max())
  np.testing.assert_allclose(back, x, atol=_FLOAT32_TOLERANCE * scale)


def test_tfp_methods_agree_with_the_pair(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  z, log_det = case.to_latent(bijector, x)
  direct = tfb.Invert(bijector) if case.generative else bijector
  np.testing.assert_array_equal(direct.forward(x, **case.kwargs), z)
  fldj = direct.forward_log_det_jacobian
  np.testing.assert_array_equal(fldj(tf.identity(x), **case.kwargs), log_det)
  np.testing.assert_allclose(
    direct.inverse_log_det_jacobian(tf.identity(z), **case.kwargs), -log_det
  )
  np.testing.assert_allclose(
    direct.inverse(tf.identity(z), **case.kwargs), x, atol=1e-9
  )
  more = direct.forward_min_event_ndims + 1
  np.testing.assert_allclose(
    fldj(tf.identity(x), event_ndims=more, **case.kwargs),
    tf.reduce_sum(log_det),
    rtol=1e-12,
  )


def test_leading_dimensions_are_batch(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data((2, 3))
  z, log_det = case.to_latent(bijector, x)
  for index in np.ndindex(2, 3):
    z_one, log_det_one = case.to_latent(bijector, x[index])
    np.testing.assert_allclose(z[index], z_one, atol=1e-10)
    np.testing.assert_allclose(log_det[index], log_det_one, atol=1e-10)


def test_unknown_sizes(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  shape = [None] * len(x.shape[:-1]) + [x.shape[-1]]
  if not case.event_shape:
    shape = [None]
  graph = tf.function(
    lambda x: case.to_latent(bijector, x),
    input_signature=[tf.TensorSpec(shape, x.dtype)],
  )
  for batch_size in (1, 2):
    part = x[:batch_size]
    z, log_det = case.to_latent(bijector, part)
    z_graph, log_det_graph = graph(part)
    np.testing.assert_allclose(z_graph, z, atol=1e-10)
    np.testing.assert_allclose(log_det_graph, log_det, atol=1e-10)


@pytest.mark.slow
def test_xla(name):
  case = flow_testing.CASES[name]
  for dtype, tolerance in ((tf.float64, 1e-9), (tf.float32, 1e-3)):
    bijector, x = case.bijector(dtype), case.data(dtype=dtype)
    z, log_det = case.to_latent(bijector, x)
    to_latent = tf.function(case.to_latent, jit_compile=True)
    to_data = tf.function(case.to_data, jit_compile=True)
    for got, expected in zip(to_latent(bijector, x), (z, log_det)):
      np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    back, _ = to_data(bijector, z)
    np.testing.assert_allclose(back, x, rtol=tolerance, atol=tolerance)


def test_event_shapes(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  z, _ = case.to_latent(bijector, x)
  direct = tfb.Invert(bijector) if case.generative else bijector
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


def test_copy_shares_variables(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
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


def test_equal_arguments_do_not_share_a_cache(name):
  case = flow_testing.CASES[name]
  one, other = case.bijector(seed=1), case.bijector(seed=2)
  method = 'inverse' if case.generative else 'forward'
  x = case.data()
  z = getattr(one, method)(x, **case.kwargs)
  z_other = getattr(other, method)(x, **case.kwargs)
  np.testing.assert_array_equal(z, case.to_latent(one, x)[0])
  np.testing.assert_array_equal(z_other, case.to_latent(other, x)[0])


def test_inside_a_chain(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  direct = tfb.Invert(bijector) if case.generative else bijector
  kwargs = {direct.name: case.kwargs} if case.kwargs else {}
  half = tf.constant(0.5, x.dtype)
  chain = tfb.Chain([direct, tfb.Scale(half), tfb.Shift(half)])
  z, log_det = case.to_latent(bijector, (x + half) * half)
  np.testing.assert_allclose(chain.forward(x, **kwargs), z, atol=1e-12)
  np.testing.assert_allclose(
    chain.forward_log_det_jacobian(x, event_ndims=x.shape.rank, **kwargs),
    tf.reduce_sum(log_det) + x.shape.num_elements() * np.log(0.5),
    rtol=1e-10,
  )


def test_gradients_reach_input_and_variables(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data((3,))
  with tf.GradientTape() as tape:
    tape.watch(x)
    z, log_det = case.to_latent(bijector, x, training=True)
    loss = tf.reduce_sum(z**3) - tf.reduce_sum(log_det**2)
  variables = bijector.trainable_variables
  for gradient in tape.gradient(loss, [x, *variables]):
    assert gradient is not None
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)


def test_checkpoint_restores_every_variable(name, tmp_path):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(seed=1), case.data()
  path = tf.train.Checkpoint(bijector=bijector).save(str(tmp_path / 'ckpt'))
  fresh = case.bijector(seed=2)
  restored = tf.train.Checkpoint(bijector=fresh).restore(path)
  restored.assert_existing_objects_matched()
  for got, expected in zip(
    case.to_latent(fresh, x), case.to_latent(bijector, x)
  ):
    np.testing.assert_array_equal(got, expected)


def test_training_is_for_one_direction_only(name):
  case = flow_testing.CASES[name]
  bijector = case.bijector()
  z, _ = case.to_latent(bijector, case.data())
  to_data = bijector.forward if case.generative else bijector.inverse
  with pytest.raises(ValueError, match='`training` must be False, got True'):
    to_data(z, training=True, **case.kwargs)
  with pytest.raises(TypeError, match='`training` must be a Python bool'):
    to_data(z, training=tf.constant(True), **case.kwargs)


def test_wrong_dtype_and_rank(name):
  case = flow_testing.CASES[name]
  bijector, x = case.bijector(), case.data()
  with pytest.raises(TypeError, match='`x` must have dtype float64, got int32'):
    bijector.forward(tf.cast(x, tf.int32), **case.kwargs)
  with pytest.raises(
    TypeError, match='`y` must have dtype float64, got float32'
  ):
    bijector.inverse(tf.cast(x, tf.float32), **case.kwargs)
  if case.event_shape:
    with pytest.raises(ValueError, match='must have at least . dimensions'):
      bijector.forward(x[(0,) * 2], **case.kwargs)
