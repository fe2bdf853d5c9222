"""Squeeze: turns blocks of pixels into channels."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['Squeeze']


class Squeeze(flow_bijector.FlowBijector):
  """Turns blocks of pixels into channels (section 3.6, figure 3 of the paper).

  - Forward: `[..., H, W, C] -> [..., H / b, W / b, b^2 C]`
  - Inverse: `[..., H, W, b^2 C] -> [..., b H, b W, C]`
  - Log-det: 0

  where `b` is the block size. For the pixel `(dy, dx)` of a block:

  - In ordinary order, output channel `b^2 c + b dy + dx` is channel `c` of that
    pixel.
  - In checkerboard order, the pixels with even `dy + dx` come first, each with
    all its channels. For `b = 2` the order is `(0, 0), (1, 1), (0, 1), (1, 0)`:
    the first half of the channels is one color of the checkerboard.

  #### Examples

  ```python
  x = tf.reshape(tf.range(4.), [2, 2, 1])
  Squeeze().forward(x)                         # [[[0., 1., 2., 3.]]]
  Squeeze(order='checkerboard').forward(x)     # [[[0., 3., 1., 2.]]]
  ```
  """

  _takes = frozenset()

  def __init__(
    self,
    block_size: int = 2,
    order: str = 'ordinary',
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'squeeze',
  ):
    """Initializes Squeeze.

    Args:
      block_size: Side `b` of a block, in pixels.
      order: 'ordinary' or 'checkerboard', see the class docstring.
      validate_args: Python `bool`, whether to check sizes at run time. Static
        sizes are always checked.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `block_size` is not an int of at least 1, or `order` is not
        one of the two.
    """
    parameters = dict(locals())
    block_size = util.check_int(block_size, 'block_size')
    if not isinstance(order, str) or order not in ('ordinary', 'checkerboard'):
      raise ValueError(
        f"`order` must be 'ordinary' or 'checkerboard', got {order!r}."
      )
    with tf.name_scope(name) as name:
      self._block_size = block_size
      self._order = order
      # Pixels of a block, numbered row by row, in the order of the channels.
      pixels = range(block_size**2)
      self._pixel_order = sorted(
        pixels, key=lambda k: (k // block_size + k % block_size) % 2
      )
      self._pixel_rank = sorted(pixels, key=list(self._pixel_order).__getitem__)
      super().__init__(
        is_constant_jacobian=True,
        forward_min_event_ndims=3,
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def block_size(self) -> int:
    """Side of a block, in pixels."""
    return self._block_size

  @property
  def order(self) -> str:
    """'ordinary' or 'checkerboard'."""
    return self._order

  @property
  def _is_permutation(self) -> bool:
    return True

  def _forward_and_log_det(
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    del training, condition
    b = self._block_size
    *batch, height, width, channels = util.dims(x)
    with tf.control_dependencies(self._runtime_checks(height, width)):
      height, width = height // b, width // b
    y = tf.reshape(x, batch + [height, b, width, b, channels])
    if self._order == 'ordinary':
      y = _transpose(y, [0, 2, 4, 1, 3])
    else:
      y = _transpose(y, [0, 2, 1, 3, 4])
      y = tf.reshape(y, batch + [height, width, b**2, channels])
      y = tf.gather(y, self._pixel_order, axis=-2)
    y = tf.reshape(y, batch + [height, width, b**2 * channels])
    return y, tf.zeros(batch, x.dtype)

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    del training, condition
    b = self._block_size
    *batch, height, width, channels = util.dims(y)
    channels //= b**2
    if self._order == 'ordinary':
      x = tf.reshape(y, batch + [height, width, channels, b, b])
      x = _transpose(x, [0, 3, 1, 4, 2])
    else:
      x = tf.reshape(y, batch + [height, width, b**2, channels])
      x = tf.gather(x, self._pixel_rank, axis=-2)
      x = tf.reshape(x, batch + [height, width, b, b, channels])
      x = _transpose(x, [0, 2, 1, 3, 4])
    x = tf.reshape(x, batch + [height * b, width * b, channels])
    return x, tf.zeros(batch, y.dtype)

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    *batch, height, width, channels = shape
    b = self._block_size
    if direction == 'inverse':
      if channels is not None and channels % b**2:
        raise ValueError(
          f'{self.name}: the number of channels must be divisible by '
          f'`block_size`^2 = {b**2}, got shape {shape}.'
        )
      return tf.TensorShape(
        [*batch, _scale(height, b, 1), _scale(width, b, 1)]
        + [_scale(channels, 1, b**2)]
      )
    for side in (height, width):
      if side is not None and side % b:
        raise ValueError(
          f'{self.name}: height and width must be divisible by `block_size` '
          f'{b}, got shape {shape}.'
        )
    return tf.TensorShape(
      [*batch, _scale(height, 1, b), _scale(width, 1, b)]
      + [_scale(channels, b**2, 1)]
    )

  def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    b = self._block_size
    sides, channels = shape[-3:-1] // b, shape[-1:] * b**2
    return tf.concat([shape[:-3], sides, channels], axis=0)

  def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    b = self._block_size
    sides, channels = shape[-3:-1] * b, shape[-1:] // b**2
    return tf.concat([shape[:-3], sides, channels], axis=0)

  def _runtime_checks(
    self, height: int | tf.Tensor, width: int | tf.Tensor
  ) -> list[tf.Operation]:
    if not self.validate_args:
      return []
    return [
      tf.debugging.assert_equal(
        size % self._block_size,
        0,
        message=f'{self.name}: height and width must be divisible by '
        f'`block_size` {self._block_size}.',
      )
      for size in (height, width)
      if tf.is_tensor(size)
    ]


def _scale(size: int | None, numerator: int, denominator: int) -> int | None:
  return None if size is None else size * numerator // denominator


def _transpose(x: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
  """Transposes the last five dimensions."""
  batch_ndims = x.shape.rank - 5
  return tf.transpose(
    x, [*range(batch_ndims), *(batch_ndims + axis for axis in order)]
  )
