"""LogitTransform: maps pixels to the real line."""

import math
import numbers
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from tfp_realnvp import pixels
from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['LogitTransform']


class LogitTransform(flow_bijector.FlowBijector):
  """Maps pixels on `[0, num_levels)` to the real line (section 4.1).

  - Forward:  `y = logit(p)`, with `p = alpha + (1 - 2 alpha) x / num_levels`
  - Inverse:  `x = num_levels (sigmoid(y) - alpha) / (1 - 2 alpha)`
  - Forward log-det of each element:
    `log(1 - 2 alpha) - log(num_levels) - log(p) - log(1 - p)`

  The paper prints `p = alpha + (1 - alpha) x / 256`, whose logit is infinite at
  the top. The authors' code and this bijector use `p` on `[alpha, 1 - alpha]`.

  The inverse of a large `y` is outside `[0, num_levels)`, by at most
  `alpha / (1 - 2 alpha) num_levels`. If `|y|` is above 30 (float32: 10), `y`
  cannot be recovered from its pixel, because `sigmoid` saturates.

  Outside of graphs, `forward` warns once if all elements are integers: pixels
  without noise, which TFP has made floats of.
  """

  _takes = frozenset()

  def __init__(
    self,
    num_levels: int = 256,
    alpha: float = 0.05,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'logit_transform',
  ):
    """Initializes LogitTransform.

    Args:
      num_levels: Number of values a pixel can take; 256 for 8 bits.
      alpha: Distance of `p` from 0 and 1, in (0, 0.5). It must be larger than
        the rounding errors of `dtype`.
      validate_args: Python `bool`, whether `forward` raises
        `InvalidArgumentError` for elements that are NaN or outside
        `[0, num_levels)`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `num_levels` or `alpha` is out of range, also for the
        precision of `dtype`.
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
        f'`alpha` must be at least {_rounding(tf.as_dtype(dtype)):.1g} in '
        f'{tf.as_dtype(dtype).name}, got {alpha!r}.'
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
  def num_levels(self) -> int:
    """Number of values a pixel can take."""
    return self._num_levels

  @property
  def alpha(self) -> float:
    """Distance of `p` from 0 and 1."""
    return self._alpha

  @classmethod
  def _is_increasing(cls) -> bool:
    return True

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    del training, condition
    if self.validate_args:
      x = pixels.assert_on_range(x, self._num_levels)
    _warn_of_integers(x)
    slope = (1 - 2 * self._alpha) / self._num_levels
    log_p = _log(self._alpha + slope * x)
    # Computing `1 - p` from `x` avoids the rounding error of `p` near 1.
    log_1mp = _log(self._alpha + slope * (self._num_levels - x))
    return log_p - log_1mp, math.log(slope) - log_p - log_1mp

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    del training, condition
    slope = (1 - 2 * self._alpha) / self._num_levels
    x = (tf.sigmoid(y) - self._alpha) / slope
    ildj = -math.log(slope) - tf.math.softplus(-y) - tf.math.softplus(y)
    return x, ildj


def _warn_of_integers(x: tf.Tensor) -> None:
  if tf.executing_eagerly() and tf.size(x) and tf.reduce_all(x == tf.round(x)):
    logging.log_first_n(
      logging.WARNING,
      'All pixels are integers. So this is the density at the lower edges of '
      'their levels, not of the images. Add uniform noise on [0, 1), as '
      '`DensityEstimator` does.',
      1,
    )


def _log(p: tf.Tensor) -> tf.Tensor:
  """Returns `log(p)`, finite where rounding made `p` zero or negative."""
  rounding = _rounding(p.dtype)
  return tf.math.log(tf.where(tf.abs(p) < rounding, rounding, p))


def _rounding(dtype: tf.DType) -> np.number:
  one = dtype.as_numpy_dtype(1)
  return 4 * (np.nextafter(one, 2 * one) - one)
