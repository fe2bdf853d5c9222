"""Tests the errors that wrong arguments of the library raise.

Errors that depend on the state of an object are in the test of its module.
"""

import dataclasses
import functools
import math
import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp import visualization
from tfp_realnvp.bijectors import flow_sequence
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.paper import presets

tfb = tfp.bijectors
tfd = tfp.distributions

_partial = functools.partial
_AffineCoupling = tfp_realnvp.AffineCoupling
_BatchNorm = tfp_realnvp.BatchNormBijector
_Chain = tfp_realnvp.RealNVPChain
_Dense = tfp_realnvp.DenseNetworks
_FactorOut = tfp_realnvp.FactorOut
_FlowSequence = flow_sequence.FlowSequence
_Logit = tfp_realnvp.LogitTransform
_Residual = tfp_realnvp.ResidualNetworks
_SplineCoupling = tfp_realnvp.SplineCoupling
_spline = _partial(_SplineCoupling, abs, [True, False])
_Squeeze = tfp_realnvp.Squeeze
_channel_mask = tfp_realnvp.channel_mask
_checkerboard_mask = tfp_realnvp.checkerboard_mask

_PRESET = tfp_realnvp.Preset(
  image_shape=(4, 4, 1),
  num_levels=17,
  num_scales=1,
  networks=_Residual(num_blocks=1, hidden_channels=2),
)
_preset = _partial(dataclasses.replace, _PRESET)
_pair = lambda x: (x, x)
_sequence = _FlowSequence([tfb.Exp()], event_ndims=2)
_normal = tfd.Normal(0.0, 1.0)
_picture = np.zeros([2, 2, 1], np.uint8)
_grid = _partial(visualization.image_grid, _picture[np.newaxis])
_side_by_side = _partial(visualization.side_by_side, _picture)


def _network(factory=coupling_network.CouplingNetwork, **changes):
  sizes = {'in_channels': 1, 'out_channels': 1} | changes
  return factory(tfp_realnvp.NetworkSpec(**sizes))


def _log_prob(x):
  base = flow_testing.isotropic_normal((8, 8, 3))
  flow = flow_testing.chain((8, 8, 3))
  return tfd.TransformedDistribution(base, flow).log_prob(x)


def _couple(mask, shape, network=_pair, condition=None):
  return _AffineCoupling(network, mask).forward(
    tf.ones(shape), condition=condition
  )


# Calls that raise a `TypeError`, and its message.
_TYPE_ERRORS = [
  # Couplings.
  (lambda: _AffineCoupling(_pair, [1, 0]), '`mask` must be boolean, got int64'),
  (
    lambda: _couple(lambda _: np.full([4, 4, 1], 2), [4, 4, 1]),
    '`mask` must be boolean, got int64',
  ),
  # Other bijectors.
  (lambda: _sequence.forward(None), '`x` must be convertible.*None'),
  *[
    (
      _partial(_FlowSequence, bijectors, event_ndims=1),
      '`bijectors` must be a list',
    )
    for bijectors in ([], tfb.Exp(), [3])
  ],
  (
    lambda: _log_prob(tf.zeros([2, 8, 8, 3], tf.int32)),
    '`y` must have dtype float32, got int32',
  ),
  # Presets.
  (
    lambda: _PRESET.distribution(num_scales=2),
    '`num_scales` .* preset, .*replace.* 2',
  ),
  (
    lambda: _PRESET.distribution(event_shape=(8, 8, 1)),
    '`event_shape` follows from',
  ),
  (
    lambda: _PRESET.distribution(logit_transform=None),
    '`logit_transform` .* got None',
  ),
  (lambda: _PRESET.distribution(num_levels=8), 'num_levels'),
]

# Calls that raise a `ValueError`, and its message.
_VALUE_ERRORS = [
  # Masks.
  (
    lambda: _channel_mask((8, 8, 1)),
    r'`event_shape`.*can be split.*8, 8, 1',
  ),
  (lambda: _channel_mask((None,)), '`event_shape`.*None'),
  (
    lambda: _checkerboard_mask((4, 4)),
    r'`event_shape` must be \(H, W, C\)',
  ),
  *[
    (_partial(mask, event_shape), '`event_shape` must')
    for mask in (_channel_mask, _checkerboard_mask)
    for event_shape in ('444', (2.5, 4, 1), (True, 4, 1))
  ],
  # Couplings.
  (
    lambda: _AffineCoupling(_pair, [[True, False]]),
    r'`mask` must have 1 or 3.*\(1, 2\)',
  ),
  (
    lambda: _AffineCoupling(_pair, [True, True]),
    r'`mask` must change a part.*\[ True,  True\]',
  ),
  (
    lambda: _AffineCoupling(_pair, [False, False]),
    r'`mask` must keep a part .*`condition`, got .*\[False, False\]',
  ),
  (
    lambda: _SplineCoupling(_pair, _checkerboard_mask),
    '`mask` must vary only over the last dimension, got <function',
  ),
  (
    lambda: _SplineCoupling(lambda x: x, [True, False]).forward(
      tf.ones([5, 2])
    ),
    r'`spline_params_fn` must have .* 23; got .*\(5, 1\)',
  ),
  (
    lambda: _SplineCoupling(_pair, [True, False]).forward(tf.ones([5, 2])),
    '`spline_params_fn` must return one tensor; got',
  ),
  (lambda: _couple([True, False], [5, 3]), r'`mask` of shape \(2,\).*\(3,\)'),
  (
    lambda: _couple(_checkerboard_mask((5, 5, 2)), [1, 4, 4, 2]),
    r'`mask` of shape \(5, 5, 1\).*4, 4, 2',
  ),
  (
    lambda: _couple(lambda _: np.eye(4) > 0, [4, 4, 4]),
    r'`mask` must have 3 .* \(4, 4\)',
  ),
  (
    lambda: _couple([True, False], [5, 2], lambda x: [tf.ones([5, 2])] * 2),
    r'as many channels .* 1; got .*\(5, 2\)',
  ),
  *[
    (
      _partial(_couple, [True, False], [5, 2], lambda x, v=output: v),
      '`shift_and_log_scale_fn` must return',
    )
    for output in (None, tf.ones([5, 3]), (tf.ones([5, 1]),) * 3)
  ],
  *[
    (
      _partial(
        _couple, [True, False], [5, 2], lambda x, condition: (x, x), condition
      ),
      r'`condition` must have .* \(5,\)',
    )
    for condition in (1.0, np.ones([4, 1]), np.ones([2, 5, 1]))
  ],
  (
    lambda: _couple([True, False], [5, 2], condition=tf.ones([5, 1])),
    'takes no `condition`, got one of shape',
  ),
  # Batch norm.
  (
    lambda: _BatchNorm(2).forward(tf.ones([5, 3])),
    r'`num_channels` = 2, got shape \(5, 3\)',
  ),
  # Squeeze.
  (
    lambda: _Squeeze().forward(tf.ones([2, 5, 4, 1])),
    'divisible by `block_size` 2.*5, 4, 1',
  ),
  (
    lambda: _Squeeze().inverse(tf.ones([2, 4, 4, 3])),
    'divisible by .* 4, got .*4, 4, 3',
  ),
  # FactorOut.
  (
    lambda: _FactorOut(tfb.Exp()).forward(tf.ones([2, 3])),
    r'odd number of channels.*\(2, 3\)',
  ),
  (
    lambda: _FactorOut(tfb.Exp()).merge(tf.ones([2, 1]), tf.ones([2, 3])),
    r'`onward` and `latent` .*\(2, 3\)',
  ),
  # LogitTransform.
  (lambda: _Logit(alpha=1e-7), '`alpha` must be at least .*float32'),
  # FlowSequence, and what all flows share.
  (
    lambda: _sequence.forward_and_log_det(tf.ones([2, 2]), event_ndims=1),
    '`event_ndims` must be an int of at least 2, got 1',
  ),
  (
    lambda: _sequence.forward_and_log_det(tf.ones([2, 2]), event_ndims=3),
    '`event_ndims` must be at most 2',
  ),
  (
    lambda: _sequence.forward(tf.ones([2])),
    r'`x` must have at least 2 .*\(2,\)',
  ),
  (
    lambda: tf.function(_sequence.forward).get_concrete_function(
      tf.TensorSpec(None)
    ),
    '`x` must have a known rank',
  ),
  *[
    (
      lambda make=make: make().inverse(tf.ones([5, 2]), condition=np.zeros(3)),
      r'takes no `condition`, .*\(3,\)',
    )
    for make in (
      lambda: _BatchNorm(2),
      lambda: _FactorOut(_BatchNorm(2)),
      lambda: _Chain((2,)),
    )
  ],
  # RealNVPChain.
  (lambda: _Chain((4, 4)), r'`event_shape` must be .* got \(4, 4\)'),
  (
    lambda: _Chain((4, 4, None)),
    r'`event_shape` must be .* got \(4, 4, None\)',
  ),
  (
    lambda: _Chain((9, 8, 3), num_scales=2),
    r'`event_shape` \(9, 8, 3\) cannot be halved',
  ),
  (lambda: _Chain((None, None, 3)), '`num_scales` must be given'),
  (
    lambda: _Chain((3,), num_scales=2),
    '`num_scales` is for images only, got 2',
  ),
  (
    lambda: _Chain((8, 8, 3), num_couplings=2),
    '`num_couplings` is for vectors only',
  ),
  (lambda: _Chain((1,)), r'`event_shape` \(1,\) cannot be .* got None'),
  (
    lambda: _Chain((2, 2, 1), couplings=tfp_realnvp.SplineCouplings()),
    '`couplings` must be AffineCouplings .* images, got SplineCouplings',
  ),
  (
    lambda: _Chain(
      (2, 2, 1), couplings=tfp_realnvp.AffineCouplings(permutation_seed=0)
    ),
    '`couplings` must be .* without `permutation_seed`.* permutation_seed=0',
  ),
  (
    lambda: _log_prob(tf.zeros([2, 8, 8, 1])),
    r'end in 3 channels.*\(2, 8, 8, 1\)',
  ),
  (
    lambda: _log_prob(tf.zeros([2, 9, 8, 3])),
    'divisible by `block_size` 2.*9, 8, 3',
  ),
  # Networks.
  (lambda: _Dense(hidden_units=(1.5,)), '`hidden_units` must be .* got 1.5'),
  (
    lambda: _network(_Residual(compute_dtype='int8')),
    "`compute_dtype` must be .* got 'int8'",
  ),
  # Presets.
  (lambda: tfp_realnvp.preset('svhn'), "`name` must be .*cifar10.* 'svhn'"),
  (
    lambda: _preset(image_shape=(4, 4)),
    r'`image_shape` must be \(H, W, C\).*\(4, 4\)',
  ),
  (
    lambda: _preset(image_shape=(4, None, 1)),
    '`image_shape` must be .*None',
  ),
  (
    lambda: presets.DataOptions(condition_size=3),
    '`condition_feature` and `condition_size` .* got None and 3',
  ),
  (
    lambda: presets.DataOptions(condition_feature='label'),
    "`condition_feature` and `condition_size` .* got 'label' and None",
  ),
  (
    lambda: _PRESET.distribution(base=_normal),
    r'`base` must .* event_shape=\[\]',
  ),
  (
    lambda: _PRESET.distribution(
      base=tfd.Sample(_normal, (4, 4, 1)), dtype=tf.float64
    ),
    '`base` must .* float64 .*dtype=float32',
  ),
  # Pictures.
  (
    lambda: visualization.image_grid(np.zeros([2, 2, 3])),
    r'`images` must .* got \(2, 2, 3\)',
  ),
  (
    lambda: visualization.image_grid(np.zeros([1, 2, 2, 3])),
    '`images` must be uint8, got float64',
  ),
  (lambda: _grid(marked=iter([1])), r'`marked` .* 1 images, got \[1\]'),
  (
    lambda: visualization.manifold(np.zeros([3, 2])),
    r'`latents` must be four, .*\(3, 2\)',
  ),
  (
    lambda: visualization.keep_coarse(
      flow_testing.chain((2,), num_couplings=1),
      np.zeros([3, 2]),
      np.zeros([1, 2]),
    ),
    r'`fresh` must .* \(3, 2\), got \(1, 2\)',
  ),
  (
    lambda: _side_by_side(np.zeros([2, 2, 1])),
    '`left` and .* uint8, .* float64',
  ),
  (
    lambda: _side_by_side(np.zeros([3, 3, 1], np.uint8)),
    r'`left` and `right` .*\(3, 3, 1\)',
  ),
]


@pytest.mark.parametrize(
  'error, call, message',
  [(TypeError, *row) for row in _TYPE_ERRORS]
  + [(ValueError, *row) for row in _VALUE_ERRORS],
)
def test_errors_name_the_argument_and_show_the_value(error, call, message):
  with pytest.raises(error, match=message):
    call()


def _int(minimum, maximum=math.inf):
  return lambda value: (
    isinstance(value, (int, np.integer))
    and not isinstance(value, bool)
    and minimum <= value <= maximum
  )


def _real(minimum, maximum=math.inf):
  return lambda value: (
    isinstance(value, (int, float, np.integer, np.floating))
    and minimum <= value <= maximum
  )


def _optional(is_right):
  return lambda value: value is None or is_right(value)


_never = lambda value: False
_is_sequence = lambda value: isinstance(value, (list, tuple))
_is_parity = lambda value: value is True or _int(0, 1)(value)
_SMALL = _Residual(num_blocks=1, hidden_channels=1)
_chain = _partial(_Chain, (2, 2, 1), networks=_SMALL)
_moving = moving_statistics.MovingStatistics
_manifold = _partial(visualization.manifold, np.zeros([4, 2]))
_to_uint8 = _partial(visualization.to_uint8, np.zeros([2]))
# Callables, the name of an argument of each, and which values are right.
_ARGUMENTS = [
  (_checkerboard_mask, 'event_shape', _never),
  (
    lambda event_shape: _checkerboard_mask((event_shape, 4, 1)),
    'event_shape',
    lambda value: _int(0)(value) or tf.is_tensor(value),
  ),
  (_partial(_checkerboard_mask, (4, 4, 1)), 'parity', _is_parity),
  (_channel_mask, 'event_shape', _is_sequence),
  (
    lambda event_shape: _channel_mask((4, 4, event_shape)),
    'event_shape',
    _int(2),
  ),
  (_partial(_channel_mask, (2,)), 'parity', _is_parity),
  (
    _partial(_AffineCoupling, mask=[True, False]),
    'shift_and_log_scale_fn',
    _never,
  ),
  (_partial(_AffineCoupling, abs), 'mask', _never),
  (_BatchNorm, 'num_channels', _int(1)),
  (_partial(_BatchNorm, 2), 'epsilon', _real(1e-9, 1e9)),
  (_partial(_BatchNorm, 2), 'momentum', _optional(_real(0, 0.9))),
  (_Squeeze, 'block_size', _int(1)),
  (_Squeeze, 'order', _never),
  (_FactorOut, 'bijector', _never),
  (_Logit, 'num_levels', _int(1)),
  (_Logit, 'alpha', lambda v: isinstance(v, np.floating | float) and v == 0.25),
  (_partial(_FlowSequence, event_ndims=1), 'bijectors', _never),
  (_partial(_FlowSequence, [tfb.Exp()]), 'event_ndims', _int(0)),
  (_chain, 'num_scales', _optional(_int(1, 2))),
  (_chain, 'num_couplings', _optional(_never)),
  (_chain, 'networks', _optional(_never)),
  (_chain, 'couplings', _optional(_never)),
  (tfp_realnvp.AffineCouplings, 'batch_norm', _optional(_never)),
  (tfp_realnvp.AffineCouplings, 'permutation_seed', _optional(_int(0))),
  (tfp_realnvp.SplineCouplings, 'num_bins', _int(2)),
  (tfp_realnvp.SplineCouplings, 'bound', _real(1e-9, 1e9)),
  (_spline, 'num_bins', _int(2)),
  (_spline, 'bound', _real(1e-9, 1e9)),
  (
    _partial(_SplineCoupling, mask=[True, False]),
    'spline_params_fn',
    _never,
  ),
  (_partial(_SplineCoupling, abs), 'mask', _never),
  (_chain, 'condition_size', _optional(_int(1))),
  (_chain, 'logit_transform', _optional(_never)),
  (_network, 'in_channels', _int(1)),
  (_network, 'out_channels', _int(1)),
  (_network, 'condition_size', _optional(_int(1))),
  (_partial(_network, _SMALL), 'in_channels', _int(1)),
  (_Residual, 'hidden_channels', _int(1)),
  (_Residual, 'num_blocks', _int(1)),
  (_Residual, 'batch_norm', _optional(_never)),
  (_Residual, 'padding', _never),
  (_Dense, 'hidden_units', _is_sequence),
  (_Dense, 'activation', callable),
  (_moving, 'num_channels', _int(1)),
  (_partial(_moving, 1), 'momentum', _real(0, 0.9)),
  (tfp_realnvp.BatchNormOptions, 'momentum', _real(0, 0.9)),
  (_preset, 'image_shape', _never),
  (_preset, 'data', _never),
  (_preset, 'training', _never),
  (_preset, 'num_levels', _int(1)),
  (_preset, 'num_scales', _optional(_int(1))),
  (presets.TrainingOptions, 'batch_size', _int(1)),
  (presets.DataOptions, 'center_crop', _optional(_int(1))),
  (presets.DataOptions, 'smallest_side', _optional(_int(1))),
  (presets.TrainingOptions, 'learning_rate', _real(0, 1e30)),
  (presets.TrainingOptions, 'clip_norm', _real(0, 1e30)),
  (presets.TrainingOptions, 'l2_coefficient', _real(0, 1e30)),
  (_PRESET.distribution, 'base', _optional(_never)),
  (visualization.image_grid, 'images', _never),
  (_grid, 'num_columns', _int(1)),
  (_grid, 'zoom', _int(1)),
  (_grid, 'padding', _int(0)),
  (_manifold, 'num_angles', _int(1)),
  (_to_uint8, 'num_levels', _int(1)),
  (_partial(visualization.side_by_side, right=_picture), 'left', _never),
  (_side_by_side, 'right', _never),
  (_partial(_side_by_side, _picture), 'gap', _int(0)),
]
_VALUES = [True, 2, 2.0, 2.5, 1.5, 0.5, 0.25, -1, 0, 1, None, 'a', {}, 1j]
_VALUES += [math.nan, math.inf, np.int64(2), np.int64(0), np.float32(0.25)]
_VALUES += [np.array([2, 2]), [2], (2,), object(), tf.constant(2)]
# Arguments that are objects; the errors of the others are a `ValueError`.
_OBJECTS = ('base', 'batch_norm', 'bijector', 'bijectors', 'logit_transform')
_OBJECTS += ('couplings', 'networks', 'shift_and_log_scale_fn')
_OBJECTS += ('data', 'spline_params_fn', 'training')
# Arguments whose errors show a shape or a dtype instead of the value.
_ARRAYS = ('mask', 'images', 'left', 'right')


@pytest.mark.parametrize('function, argument, is_right', _ARGUMENTS)
def test_wrong_arguments_are_refused_by_name(function, argument, is_right):
  error = TypeError if argument in _OBJECTS else ValueError
  if argument == 'mask':
    error = (TypeError, ValueError)
  for value in _VALUES:
    if is_right(value):
      function(**{argument: value})
      continue
    shown = '' if argument in _ARRAYS else re.escape(repr(value))
    message = f'(?s)`{argument}` .*(must|only).* got.*{shown}'
    with pytest.raises(error, match=message):
      function(**{argument: value})
