"""The registry of bijectors that `bijector_contract_test` tests."""

import functools
import math

from hypothesis import strategies as st
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp.bijectors import flow_sequence

tfb = tfp.bijectors


class Case:
  """A bijector to test, and data for its data -> latent direction."""

  def __init__(
    self, make, event_shape, low=-2.0, high=2.0, kwargs=None, generative=False
  ):
    self.make = make
    self.event_shape = event_shape
    self.low = low
    self.high = high
    self.kwargs = kwargs or {}
    self.generative = generative

  def bijector(self, dtype=tf.float64, seed=0):
    return flow_testing.randomize(self.make(dtype=dtype), seed)

  def data(self, batch_shape=(2,), dtype=tf.float64, seed=1):
    rng = np.random.default_rng(seed)
    shape = tuple(batch_shape) + self.event_shape
    return tf.constant(rng.uniform(self.low, self.high, shape), dtype)

  def to_latent(self, bijector, x, **kwargs):
    kwargs = self.kwargs | kwargs
    if self.generative:
      return bijector.inverse_and_log_det(x, **kwargs)
    return bijector.forward_and_log_det(x, **kwargs)

  def to_data(self, bijector, z, **kwargs):
    kwargs = self.kwargs | kwargs
    if self.generative:
      return bijector.forward_and_log_det(z, **kwargs)
    return bijector.inverse_and_log_det(z, **kwargs)


# With momentum 0 the moving statistics are those of the last batch.
_NO_MEMORY = tfp_realnvp.BatchNormOptions(momentum=0.0)


def _network(factory, in_channels, out_channels, dtype, mask=None):
  return factory(
    tfp_realnvp.NetworkSpec(
      in_channels=in_channels, out_channels=out_channels, mask=mask, dtype=dtype
    )
  )


_residual = functools.partial(
  _network,
  tfp_realnvp.ResidualNetworks(
    hidden_channels=3, num_blocks=1, batch_norm=_NO_MEMORY, seed=1
  ),
)
_dense = functools.partial(
  _network, tfp_realnvp.DenseNetworks(hidden_units=(4, 4), seed=1)
)


def _checkerboard(dtype, mask=tfp_realnvp.checkerboard_mask):
  network = _residual(2, 2, dtype, mask)
  return tfp_realnvp.AffineCoupling(network, mask, dtype=dtype)


def _channel(dtype):
  mask = tfp_realnvp.channel_mask((4, 4, 3))
  network = _residual(1, 2, dtype)
  return tfp_realnvp.AffineCoupling(network, mask, dtype=dtype)


def _vector(dtype):
  mask = [True, False, True, False, False]
  return tfp_realnvp.AffineCoupling(_dense(2, 3, dtype), mask, dtype=dtype)


def _spline(dtype, mask=(True, False, True, False, False), condition_size=None):
  mask = np.array(mask)
  spec = tfp_realnvp.NetworkSpec(
    in_channels=mask.sum(),
    out_channels=(~mask).sum(),
    params_per_channel=3 * 4 - 1,
    condition_size=condition_size,
    dtype=dtype,
  )
  network = tfp_realnvp.DenseNetworks(hidden_units=(4, 4), seed=1)(spec)
  return tfp_realnvp.SplineCoupling(network, mask, num_bins=4, dtype=dtype)


_norm = functools.partial(
  tfp_realnvp.BatchNormBijector, num_channels=3, momentum=0.0
)
_squeeze = tfp_realnvp.Squeeze
_chain = functools.partial(flow_testing.chain, norm=_NO_MEMORY, seed=1)
_image_chain = functools.partial(_chain, (4, 4, 1), num_scales=1)
_vector_chain = functools.partial(_chain, (3,), num_couplings=4)
_pixels = {'low': 0.0, 'high': 256.0}
_generative = functools.partial(Case, generative=True)
_conditional = functools.partial(
  _generative, kwargs={'condition': np.array([0.5, -1.0])}
)

FIXED = {
  'coupling_checkerboard': Case(_checkerboard, (4, 4, 2)),
  'coupling_pixel_mask': Case(
    functools.partial(
      _checkerboard,
      mask=lambda shape: np.random.default_rng(0).uniform(size=(4, 4, 1)) < 0.3,
    ),
    (4, 4, 2),
  ),
  'coupling_channel': Case(_channel, (4, 4, 3)),
  'coupling_vector': Case(_vector, (5,)),
  'coupling_spline': Case(_spline, (5,), low=-6, high=6),
  'coupling_spline_of_one_element': Case(
    functools.partial(_spline, mask=[False], condition_size=2),
    (1,),
    kwargs={'condition': np.array([0.5, -1.0])},
  ),
  'batch_norm': Case(_norm, (3,)),
  'batch_norm_lagged': Case(functools.partial(_norm, lagged=True), (3,)),
  'squeeze': Case(_squeeze, (4, 6, 3)),
  'squeeze_checkerboard': Case(
    functools.partial(_squeeze, order='checkerboard'), (4, 6, 3)
  ),
  'squeeze_3': Case(functools.partial(_squeeze, 3, 'checkerboard'), (6, 3, 2)),
  'factor_out': Case(
    lambda dtype: tfp_realnvp.FactorOut(_checkerboard(dtype), dtype=dtype),
    (4, 4, 4),
  ),
  'logit': Case(tfp_realnvp.LogitTransform, (), **_pixels),
  'logit_17': Case(
    functools.partial(tfp_realnvp.LogitTransform, 17, 0.01), (), 0.0, 17.0
  ),
  'chain_image': _generative(
    functools.partial(_image_chain, num_scales=2), (4, 4, 1), **_pixels
  ),
  'chain_one_scale': _generative(
    functools.partial(_image_chain, batch_norm=False), (4, 4, 1), **_pixels
  ),
  'chain_conditional': _conditional(
    functools.partial(_image_chain, condition_size=2), (4, 4, 1), **_pixels
  ),
  'chain_periodic': _generative(
    functools.partial(_image_chain, padding='periodic', logit_transform=None),
    (4, 4, 1),
  ),
  'chain_vector': _generative(_vector_chain, (3,)),
  'chain_spline': _generative(
    functools.partial(
      _vector_chain,
      num_couplings=2,
      couplings=tfp_realnvp.SplineCouplings(
        num_bins=4, batch_norm=_NO_MEMORY, permutation_seed=0
      ),
    ),
    (3,),
  ),
  'chain_vector_conditional': _conditional(
    functools.partial(_vector_chain, condition_size=2), (3,)
  ),
}


class _Network(tf.Module):
  """A quick network of any rank, which sees the whole event."""

  def __init__(self, in_size, out_size, dtype):
    super().__init__()
    kernel = tf.fill([in_size, 2 * out_size], tf.cast(0.2, dtype))
    self.kernel = tf.Variable(kernel)

  def __call__(self, x):
    x += tf.reduce_mean(x, axis=list(range(1, x.shape.rank - 1)), keepdims=True)
    return tf.tanh(tf.tensordot(x, self.kernel, 1))


def _coupling(mask, event_shape, dtype):
  """A coupling with any mask, and a network of the sizes that it needs."""
  size = event_shape[-1]
  kept = np.asarray([] if callable(mask) else mask)
  is_split = kept.size and kept.size == kept.shape[-1]
  sizes = (kept.sum(), (~kept).sum()) if is_split else (size, size)
  return tfp_realnvp.AffineCoupling(_Network(*sizes, dtype), mask, dtype=dtype)


_side, _flag, _parity = st.integers(1, 4), st.booleans(), st.integers(0, 1)
_image = st.tuples(_side, _side, st.integers(2, 4))
_vectors = st.tuples(st.integers(2, 6))


@st.composite
def _bits(draw, shape):
  count = math.prod(shape)
  bits = st.lists(_flag, min_size=count, max_size=count)
  return np.reshape(draw(bits.filter(lambda b: 0 < sum(b) < count)), shape)


@st.composite
def _couplings(draw, shapes, mask_of):
  event_shape = draw(shapes)
  mask = mask_of(draw, event_shape)
  return Case(functools.partial(_coupling, mask, event_shape), event_shape)


def _any_mask(draw, shape):
  """A mask of pixels or of elements, or a function that returns one."""
  flat = (*shape[:-1], 1)
  mask = draw(_bits(shape if math.prod(flat) == 1 or draw(_flag) else flat))
  return (lambda _: mask) if draw(_flag) else mask


def _any_checkerboard(draw, shape):
  del shape
  return functools.partial(tfp_realnvp.checkerboard_mask, parity=draw(_parity))


def _any_channels(draw, shape):
  return tfp_realnvp.channel_mask(shape, draw(_parity))


_any_coupling = _couplings(_image, _any_mask)
_any_vector_coupling = _couplings(_vectors, lambda draw, s: draw(_bits(s)))


@st.composite
def _batch_norms(draw):
  arguments = {
    'num_channels': draw(_side),
    'epsilon': draw(st.floats(1e-5, 1)),
    'momentum': draw(st.floats(0, 0.99)),
    'lagged': draw(_flag),
  }
  make = functools.partial(tfp_realnvp.BatchNormBijector, **arguments)
  return Case(make, (arguments['num_channels'],))


@st.composite
def _squeezes(draw):
  block, (height, width, channels) = draw(_side), draw(_image)
  order = draw(st.sampled_from(['ordinary', 'checkerboard']))
  make = functools.partial(_squeeze, block, order)
  return Case(make, (block * height, block * width, channels))


@st.composite
def _factor_outs(draw):
  inner = draw(_any_coupling | _any_vector_coupling)
  make, (*space, channels) = inner.make, inner.event_shape
  if draw(_flag):  # A bijector of TFP, for vectors.
    make, space = lambda dtype: tfb.Scale(tf.constant(0.5, dtype)), ()
  return Case(
    lambda dtype: tfp_realnvp.FactorOut(make(dtype=dtype), dtype=dtype),
    (*space, 2 * channels),
  )


@st.composite
def _logits(draw):
  levels, alpha = draw(st.integers(1, 1000)), draw(st.floats(1e-5, 0.49))
  make = functools.partial(tfp_realnvp.LogitTransform, levels, alpha)
  return Case(make, (), 0.0, float(levels))


@st.composite
def _sequences(draw):
  case = draw(_any_coupling)
  order = draw(st.permutations(range(4)))

  def make(dtype):
    one = tf.constant(1.0, dtype)
    norm = tfp_realnvp.BatchNormBijector(case.event_shape[-1], dtype=dtype)
    parts = [case.make(dtype=dtype), norm, tfb.Shift(one), tfb.Scale(2 * one)]
    return flow_sequence.FlowSequence([parts[i] for i in order], 3, dtype=dtype)

  return Case(make, case.event_shape)


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
    event_shape = draw(_vectors)
    arguments |= {'num_couplings': draw(_side), 'hidden_units': (hidden,)}
    if draw(_flag):
      arguments['couplings'] = tfp_realnvp.SplineCouplings(
        num_bins=draw(st.integers(2, 9)),
        bound=draw(st.floats(0.1, 10)),
        batch_norm=tfp_realnvp.BatchNormOptions() if draw(_flag) else None,
        permutation_seed=draw(st.none() | st.integers(0, 9)),
      )
  make = functools.partial(flow_testing.chain, event_shape, **arguments)
  kwargs = {'condition': np.linspace(-1, 1, size)} if size else {}
  limits = (0.0, 256.0) if is_image else (-2.0, 2.0)
  return _generative(make, event_shape, *limits, kwargs)


DRAWN = {
  'any_coupling_checkerboard': _couplings(_image, _any_checkerboard),
  'any_coupling_channel': _couplings(_image | _vectors, _any_channels),
  'any_coupling': _any_coupling,
  'any_coupling_vector': _any_vector_coupling,
  'any_batch_norm': _batch_norms(),
  'any_squeeze': _squeezes(),
  'any_factor_out': _factor_outs(),
  'any_logit': _logits(),
  'any_sequence': _sequences(),
  'any_chain_image': _chains(is_image=True),
  'any_chain_vector': _chains(is_image=False),
}

# Hypothesis strategies that draw a `Case`.
CASES = {name: st.just(case) for name, case in FIXED.items()} | DRAWN
