"""AffineCoupling: the coupling layer of Real NVP."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_realnvp.bijectors import coupling

__all__ = ['AffineCoupling']


class AffineCoupling(coupling.Coupling):
  """Scales and shifts part of its input by functions of the rest.

  - Forward:  `y = b x + (1 - b) (x exp(log_scale(b x)) + shift(b x))`  (eq. 9)
  - Inverse:  `x = b y + (1 - b) (y - shift(b y)) exp(-log_scale(b y))`
  - Forward log-det: `sum((1 - b) log_scale(b x))` over the event

  where `b` is the mask. The event shape is `[H, W, C]` or `[D]`; leading
  dimensions are batch dimensions.

  A mask that varies only over the last dimension (`channel_mask`) splits it:
  the network maps the kept channels to the shift and the log-scale of the other
  channels (eq. 7). With other masks (`checkerboard_mask`), the input of the
  network is the whole event, zero where `b` is False. Its outputs where `b` is
  True are not used, but must be finite.

  #### Examples

  ```python
  network = keras.Sequential([
      keras.Input([1]),
      keras.layers.Dense(64, activation='relu'), keras.layers.Dense(2)])
  coupling = AffineCoupling(network, mask=channel_mask((2,)))
  dist = tfd.TransformedDistribution(
      tfd.MultivariateNormalDiag([0., 0.]), tfb.Invert(coupling))
  ```
  """

  def __init__(
    self,
    shift_and_log_scale_fn: Callable,
    mask: Any,
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'affine_coupling',
  ):
    """Initializes AffineCoupling.

    Args:
      shift_and_log_scale_fn: The network. Its input is `[N, H, W, K]` or
        `[N, K]`, with all batch dimensions merged. It returns the shift and the
        log-scale of the part that changes, as a pair or concatenated along the
        last dimension, shift first. If it has an argument `training`, that is
        passed. If it has an argument `condition` and the flow gets a condition,
        that is passed as `[N, size]`. A network with variables must be a Keras
        layer or model, or a `tf.Module`. Its variables become variables of the
        bijector; a Keras network that is not built creates them in its first
        call. Variables that are frozen in Keras are not trainable.
      mask: Boolean, True where the input passes through unchanged. `[D]` for
        vectors; `[H, W, 1]`, `[1, 1, C]` or `[H, W, C]` for images. For images
        of any size, a function from the event shape `(H, W, C)` to such a mask,
        such as `checkerboard_mask`.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `shift_and_log_scale_fn` is not callable, or `mask` is not
        boolean.
      ValueError: If `mask` has another rank, is all True, or is all False and
        the network has no argument `condition`.
    """
    super().__init__(
      shift_and_log_scale_fn,
      mask,
      parameters=dict(locals()),
      network_argument='shift_and_log_scale_fn',
      num_outputs=2,
    )

  @property
  def shift_and_log_scale_fn(self) -> Callable:
    """The network."""
    return self.network

  def _transform(
    self, changed: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    return changed * tf.exp(log_scale) + shift, log_scale

  def _transform_back(
    self, changed: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor]:
    return (changed - shift) * tf.exp(-log_scale), log_scale
