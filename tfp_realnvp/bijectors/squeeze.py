"""Squeeze: trades space for channels."""

import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.bijectors import flow_bijector

__all__ = ['Squeeze']


class Squeeze(flow_bijector.FlowBijector):
  """Turns blocks of pixels into channels (section 3.6, figure 3 of the paper).

  - Forward: `[..., H, W, C] -> [..., H / b, W / b, b^2 C]`
  - Inverse: `[..., H, W, b^2 C] -> [..., b H, b W, C]`
  - Log-det: 0

  With the pixel of a block at row `dy`, column `dx`:

  - in ordinary order, output channel `b^2 c + b dy + dx` holds channel `c` of
    that pixel;
  - in checkerboard order, the pixels with even `dy + dx` come first, each with
    all its channels: for `b = 2`, `(0, 0), (1, 1), (0, 1), (1, 0)`. The first
    half of the channels then is one colour of the checkerboard.

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
    block_size=2,
    order='ordinary',
    validate_args=False,
    dtype=tf.float32,
    name='squeeze',
  ):
    """Initializes Squeeze.

    Args:
      block_size: `int` >= 1, the side `b` of a block.
      order: 'ordinary' or 'checkerboard', see the class docstring.
      validate_args: Python `bool`, whether to check sizes at run time. Those
        known when the graph is built are always checked.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      ValueError: If `block_size` or `order` is none of those.
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
      # The pixels of a block, counted row by row, as the channels take them.
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
  def block_size(self):
    """The side of a block, in pixels."""
    return self._block_size

  @property
  def order(self):
    """'ordinary' or 'checkerboard'."""
    return self._order

  @property
  def _is_permutation(self):
    return True

  def _forward_and_log_det(self, x, training=False, condition=None):
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

  def _inverse_and_log_det(self, y, training=False, condition=None):
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

  def _shape_after(self, shape, direction):
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

  def _forward_event_shape_tensor(self, shape):
    b = self._block_size
    sides, channels = shape[-3:-1] // b, shape[-1:] * b**2
    return tf.concat([shape[:-3], sides, channels], axis=0)

  def _inverse_event_shape_tensor(self, shape):
    b = self._block_size
    sides, channels = shape[-3:-1] * b, shape[-1:] // b**2
    return tf.concat([shape[:-3], sides, channels], axis=0)

  def _runtime_checks(self, height, width):
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


def _scale(size, numerator, denominator):
  return None if size is None else size * numerator // denominator


def _transpose(x, order):
  """Transposes the last five dimensions."""
  batch_ndims = x.shape.rank - 5
  return tf.transpose(
    x, [*range(batch_ndims), *(batch_ndims + axis for axis in order)]
  )
