import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
from tfp_realnvp.bijectors import logit_transform

tfd = tfp.distributions


def test_values_by_hand():
  bijector = logit_transform.LogitTransform(dtype=tf.float64)
  x = np.array([0.0, 64.0, 128.0, 256.0])
  p = np.array([0.05, 0.275, 0.5, 0.95])
  y, fldj = bijector.forward_and_log_det(x)
  np.testing.assert_allclose(y, np.log(p / (1 - p)), atol=1e-12)
  np.testing.assert_allclose(
    fldj, np.log(0.9 / 256) - np.log(p) - np.log(1 - p), atol=1e-12
  )


def test_other_levels_and_alpha():
  bijector = logit_transform.LogitTransform(16, 0.25, dtype=tf.float64)
  assert (bijector.num_levels, bijector.alpha) == (16, 0.25)
  np.testing.assert_allclose(
    bijector.forward(np.array([0.0, 8.0])), [-math.log(3), 0], atol=1e-12
  )


def test_far_latents_go_slightly_beyond_the_range():
  far = logit_transform.LogitTransform().inverse(tf.constant([-100.0, 100.0]))
  np.testing.assert_allclose(far, [-256 / 18, 256 + 256 / 18], rtol=1e-6)


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_what_far_latents_become_has_a_finite_density(dtype):
  bijector = logit_transform.LogitTransform(dtype=dtype)
  far = tf.constant([-1000.0, -40.0, -17.0, 17.0, 40.0, 1000.0], dtype)
  y, fldj = bijector.forward_and_log_det(bijector.inverse(far))
  assert np.isfinite(y).all()
  assert np.isfinite(fldj).all()
  assert np.all(np.sign(y) == np.sign(far))
  # What no latent becomes is not hidden.
  y, _ = bijector.forward_and_log_det(tf.constant([-15.0, 271.0], dtype))
  assert np.isnan(y).all()


def test_is_increasing():
  assert logit_transform.LogitTransform()._internal_is_increasing()


@pytest.mark.parametrize('value', [-1.0, 256.0, np.nan])
def test_validate_args_finds_what_is_no_pixel(value):
  x = tf.constant([1.0, value])
  checked = logit_transform.LogitTransform(validate_args=True)
  for forward in (checked.forward, tf.function(checked.forward)):
    with pytest.raises(
      tf.errors.InvalidArgumentError, match=r'`x` must be pixels on \[0, 256\)'
    ):
      forward(tf.identity(x))


@hypothesis.settings(
  max_examples=4, deadline=None, derandomize=True, database=None
)
@hypothesis.given(
  value=st.floats(max_value=-(2**-10), width=32)
  | st.floats(min_value=17, width=32)
  | st.just(math.nan),
  of_chain=st.booleans(),
)
def test_a_value_off_the_range_is_found_in_graphs(value, of_chain):
  bijector = logit_transform.LogitTransform(17, validate_args=True)
  if of_chain:
    bijector = flow_testing.chain(
      (2, 2, 1), num_scales=1, logit_transform=bijector, validate_args=True
    )
  forward = bijector.inverse if of_chain else bijector.forward
  with pytest.raises(
    tf.errors.InvalidArgumentError, match='`x` must be pixels'
  ):
    tf.function(forward)(tf.constant([[[[1.0], [value]], [[2.0], [3.0]]]]))


def test_num_levels_may_be_of_numpy():
  assert logit_transform.LogitTransform(np.int64(8)).num_levels == 8


def test_small_alpha_is_exact_at_both_ends():
  x = np.array([0.0, 1e-5, 255.9999, 256.0], np.float32)
  values = [
    logit_transform.LogitTransform(alpha=1e-6, dtype=dtype).forward_and_log_det(
      x.astype(dtype.as_numpy_dtype)
    )
    for dtype in (tf.float32, tf.float64)
  ]
  for single, double in zip(*values):
    np.testing.assert_allclose(single, double, rtol=2e-6)


def test_more_levels_than_the_dtype_holds_are_an_error():
  for dtype, levels in ((tf.float16, 2**8), (tf.bfloat16, 2**5)):
    logit_transform.LogitTransform(levels, alpha=0.1, dtype=dtype)
    with pytest.raises(ValueError, match='`num_levels` must be at most'):
      logit_transform.LogitTransform(2 * levels, alpha=0.1, dtype=dtype)


def test_integers_are_warned_of(monkeypatch):
  messages = []
  monkeypatch.setattr(
    logit_transform.logging,
    'log_first_n',
    lambda level, message, n: messages.append(message),
  )
  flow = flow_testing.chain(
    (2, 2, 1),
    num_scales=1,
    logit_transform=logit_transform.LogitTransform(17),
  )
  base = flow_testing.isotropic_normal((2, 2, 1))
  dist = tfd.TransformedDistribution(base, flow)
  images = np.array([[[[3], [0]], [[16], [8]]]], np.uint8)
  dist.log_prob(images + np.float32(0.5))
  dist.log_prob(images[:0])
  tf.function(dist.log_prob)(np.float32(images))
  assert not messages
  dist.log_prob(images)
  dist.log_prob(np.float32(images))
  assert len(messages) == 2
  assert 'lower edges' in messages[0]
