"""LogitTransform: from pixels to the real line."""

import math
import numbers

import numpy as np
import tensorflow as tf

from tfp_realnvp import pixels
from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['LogitTransform']


class LogitTransform(flow_bijector.FlowBijector):
  """Takes pixels on `[0, num_levels)` to the real line (section 4.1).

  - Forward:  `y = logit(p)`, with `p = alpha + (1 - 2 alpha) x / num_levels`
  - Inverse:  `x = num_levels (sigmoid(y) - alpha) / (1 - 2 alpha)`
  - Log-det:  `log(1 - 2 alpha) - log(num_levels) - log(p) - log(1 - p)`, of
    each element

  The paper prints `p = alpha + (1 - alpha) x / 256`, which is infinite at the
  top; its authors' code, and this, map onto `[alpha, 1 - alpha]`. A latent far
  out is taken slightly beyond `[0, num_levels)`, never farther than
  `alpha / (1 - 2 alpha) num_levels` on either side. Pixels are dense there:
  what a latent beyond 30 (float32: 10) loses by rounding cannot be got back.
  """

  _takes = frozenset()

  def __init__(
    self,
    num_levels=256,
    alpha=0.05,
    validate_args=False,
    dtype=tf.float32,
    name='logit_transform',
  ):
    """Initializes LogitTransform.

    Args:
      num_levels: `int`, how many values a pixel can take; 256 for 8 bits.
      alpha: `float` in (0, 0.5), distance kept from 0 and 1; more than the
        rounding of `dtype`.
      validate_args: Python `bool`, whether `forward` raises
        `InvalidArgumentError` for elements that are NaN or outside
        `[0, num_levels)`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `num_levels` or `alpha` is out of range, or there are more
        levels than `dtype` can hold.
    """
    parameters = dict(locals())
    num_levels = util.check_int(num_levels, 'num_levels')
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < 0.5:
      raise ValueError(f'`alpha` must be in (0, 0.5), got {alpha!r}.')
    alpha = float(alpha)
    if dtype is not None:
      pixels.check_num_levels(num_levels, tf.as_dtype(dtype))
    if dtype is not None and alpha < _rounding(tf.as_dtype(dtype)):
      raise ValueError(
        f'`alpha` must be at least {_rounding(tf.as_dtype(dtype)):.1g}, which '
        f'{tf.as_dtype(dtype).name} can tell from 0; got {alpha!r}.'
      )
    with tf.name_scope(name) as name:
      self._num_levels = num_levels
      self._alpha = alpha
      super().__init__(
        forward_min_event_ndims=0,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def num_levels(self):
    """How many values a pixel can take."""
    return self._num_levels

  @property
  def alpha(self):
    """Distance kept from 0 and 1."""
    return self._alpha

  @classmethod
  def _is_increasing(cls):
    return True

  def _forward_and_log_det(self, x, training=False, condition=None):
    del training, condition
    if self.validate_args:
      x = pixels.assert_on_range(x, self._num_levels)
    slope = (1 - 2 * self._alpha) / self._num_levels
    log_p = _log(self._alpha + slope * x)
    # Of 1 - p, without the rounding of p that is near 1.
    log_1mp = _log(self._alpha + slope * (self._num_levels - x))
    return log_p - log_1mp, math.log(slope) - log_p - log_1mp

  def _inverse_and_log_det(self, y, training=False, condition=None):
    del training, condition
    slope = (1 - 2 * self._alpha) / self._num_levels
    x = (tf.sigmoid(y) - self._alpha) / slope
    ildj = -math.log(slope) - tf.math.softplus(-y) - tf.math.softplus(y)
    return x, ildj


def _log(p):
  """log(p), finite where only rounding has made `p` zero or negative."""
  rounding = _rounding(p.dtype)
  return tf.math.log(tf.where(tf.abs(p) < rounding, rounding, p))


def _rounding(dtype):
  one = dtype.as_numpy_dtype(1)
  return 4 * (np.nextafter(one, 2 * one) - one)
