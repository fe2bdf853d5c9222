"""SplineCoupling: a coupling layer of monotonic splines."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import coupling

tfb = tfp.bijectors

__all__ = ['SplineCoupling']

_LOG_BOUND = 3.0


class SplineCoupling(coupling.Coupling):
  """Transforms part of its input by monotonic rational-quadratic splines.

  `y = b x + (1 - b) spline(x; network(b x))`, where `b` is the mask. Each
  changed element has a spline on `[-bound, bound]` with `num_bins` bins. The
  network computes the widths and the heights of the bins and the slopes where
  they meet. Their logarithms are `raw / (1 + |raw| / 3)`, between -3 and 3;
  then the bins are scaled to fill the interval. Beyond the interval the spline
  is the identity (linear tails). A network that returns zeros gives the
  identity.

  The mask must vary only over the last dimension (`channel_mask`), which is
  split as in `AffineCoupling`.

  #### Examples

  ```python
  network = keras.Sequential([
      keras.Input([1]),
      keras.layers.Dense(64, activation='relu'), keras.layers.Dense(3 * 8 - 1)])
  coupling = SplineCoupling(network, mask=channel_mask((2,)), num_bins=8)
  ```

  #### References

  [1]: Conor Durkan, Artur Bekasov, Iain Murray, George Papamakarios. Neural
       Spline Flows. _NeurIPS_, 2019. https://arxiv.org/abs/1906.04032
  """

  def __init__(
    self,
    spline_params_fn: Callable,
    mask: Any,
    num_bins: int = 8,
    bound: float = 5.0,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'spline_coupling',
  ):
    """Initializes SplineCoupling.

    Args:
      spline_params_fn: The network. It returns `3 num_bins - 1` unconstrained
        numbers for each changed channel, in one tensor `[N, ..., C (3 num_bins
        - 1)]`, those of a channel side by side: widths, heights and slopes. For
        everything else see `shift_and_log_scale_fn` of `AffineCoupling`.
      mask: Boolean, True where the input passes through unchanged: `[D]` for
        vectors, `[1, 1, C]` for images.
      num_bins: Number of bins of each spline.
      bound: The splines change values between `-bound` and `bound`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `spline_params_fn` is not callable, or `mask` is not
        boolean.
      ValueError: If `mask` varies over other dimensions, is all True, or is all
        False and the network has no argument `condition`; if `num_bins` is not
        an int of at least 2, or `bound` is not positive.
    """
    parameters = dict(locals())
    check_spline(num_bins, bound)
    self._num_bins = num_bins
    self._bound = float(bound)
    super().__init__(
      spline_params_fn,
      mask,
      parameters=parameters,
      network_argument='spline_params_fn',
      num_outputs=1,
      params_per_output=3 * num_bins - 1,
    )
    if self._channel_split is None:
      raise ValueError(
        f'`mask` must vary only over the last dimension, got {mask!r}.'
      )

  @property
  def spline_params_fn(self) -> Callable:
    """The network."""
    return self.network

  def _transform(
    self, changed: tf.Tensor, params: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    spline = self._spline(changed, params)
    return (
      self._within(changed, spline.forward, changed),
      self._within(changed, spline.forward_log_det_jacobian, 0.0),
    )

  def _transform_back(
    self, changed: tf.Tensor, params: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    spline = self._spline(changed, params)
    x = self._within(changed, spline.inverse, changed)
    return x, self._within(x, spline.forward_log_det_jacobian, 0.0)

  def _within(self, x: tf.Tensor, function: Callable, beyond: Any) -> tf.Tensor:
    """Returns `function(x)` between the bounds, `beyond` elsewhere."""
    inside = tf.abs(x) < self._bound
    return tf.where(inside, function(tf.where(inside, x, 0)), beyond)

  def _spline(self, changed: tf.Tensor, params: tf.Tensor) -> tfb.Bijector:
    bins = self._num_bins
    params = tf.reshape(params, util.dims(changed) + [3 * bins - 1])
    params = util.soft_bound(params, _LOG_BOUND)
    widths, heights, slopes = tf.split(params, [bins, bins, bins - 1], axis=-1)
    # TFP pads the knots with `range_min` and the slopes with 1. In
    # `tf.vectorized_map`, TensorFlow pads with 0 whatever is asked for. So the
    # knots begin at 0, and a bin at each end, which is not used, has the
    # outermost slopes.
    one = tf.ones_like(widths[..., :1])
    extend = lambda inner: tf.concat([one, inner, one], axis=-1)
    length = 2 * self._bound
    spline = tfb.RationalQuadraticSpline(
      extend(length * tf.nn.softmax(widths)),
      extend(length * tf.nn.softmax(heights)),
      extend(tf.exp(slopes)),
      range_min=0.0,
      validate_args=self.validate_args,
    )
    shift = tfb.Shift(tf.constant(self._bound + 1, self.dtype))
    return tfb.Chain([tfb.Invert(shift), spline, shift])


def check_spline(num_bins: Any, bound: Any) -> None:
  """Raises a `ValueError` unless these are arguments of a `SplineCoupling`."""
  util.check_int(num_bins, 'num_bins', 2)
  util.check_positive(bound, 'bound')
