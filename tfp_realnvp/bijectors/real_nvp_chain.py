"""RealNVPChain: the multi-scale architecture of Real NVP as one bijector."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import architecture
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import conditioner
from tfp_realnvp.bijectors import factor_out
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.bijectors import flow_sequence
from tfp_realnvp.bijectors import logit_transform as logit_transform_lib
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import dense
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.networks import residual

tfb = tfp.bijectors

__all__ = ['RealNVPChain']

_BATCH_NORM = moving_statistics.BatchNormOptions()
_NUM_COUPLINGS = 8  # For vectors.


class RealNVPChain(flow_bijector.FlowBijector):
  """Real NVP: `forward` is latent -> data (`g`), `inverse` is `f`, its inverse.

  Images `[H, W, C]`, pixels on `[0, 256)` (section 3.6 of the paper): the
  logit, then at every scale three couplings with alternating checkerboard
  masks, a squeeze, three with alternating channel-wise masks, and half of the
  variables factored out; at the last scale four checkerboard couplings. The
  weights fit images of any size that the scales can halve, not only
  `event_shape`. Latents have the event shape of the data; `split_latents` takes
  them apart by scale.

  Vectors `[D]`: `num_couplings` couplings with alternating halves.

  Every coupling is followed by a `BatchNormBijector`, unless `batch_norm` is
  `None`.

  #### Examples

  ```python
  networks = ResidualNetworks(num_blocks=8, hidden_channels=64)
  flow = RealNVPChain((32, 32, 3), num_scales=2, networks=networks)
  base = tfd.Sample(tfd.Normal(0., 1.), sample_shape=(32, 32, 3))
  dist = tfd.TransformedDistribution(base, flow)
  images = dist.sample(16, seed=0)                            # [16, 32, 32, 3]
  log_prob = dist.log_prob(images)                            # [16], in nats
  loss = -dist.log_prob(images, bijector_kwargs={'training': True})
  ```

  #### References

  [1]: Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio. Density estimation
       using Real NVP. _ICLR_, 2017. https://arxiv.org/abs/1605.08803
  """

  _is_generative = True

  def __init__(
    self,
    event_shape: Sequence[int | None],
    num_scales: int | None = None,
    num_couplings: int | None = None,
    networks: Callable[[coupling_network.NetworkSpec], Callable] | None = None,
    batch_norm: moving_statistics.BatchNormOptions | None = _BATCH_NORM,
    condition_size: int | None = None,
    logit_transform: tfb.Bijector | str | None = 'default',
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'real_nvp_chain',
  ):
    """Initializes RealNVPChain.

    Args:
      event_shape: `(H, W, C)` for images, where `H` and `W` may be `None`;
        `(D,)` for vectors.
      num_scales: How many scales, for images only. By default the image is
        halved down to 4 pixels, or for as long as both sides are even.
      num_couplings: How many couplings, for vectors only; by default 8.
      networks: Function from a `NetworkSpec` to the network of a coupling; by
        default `ResidualNetworks()` for images and `DenseNetworks()` for
        vectors. A function that builds a Keras model is as good.
      batch_norm: How the `BatchNormBijector` after each coupling works, or
        `None` for none.
      condition_size: Size `K` of the `condition` of a conditional flow
        (appendix F), which then is an argument of every call: `[..., K]`.
      logit_transform: `tfb.Bijector` or `None`, from data to the real line;
        'default' is `LogitTransform()` for images and `None` for vectors.
      validate_args: Python `bool`, whether to check values at run time.
      dtype: Dtype of events and variables.
      name: Name of the bijector.

    Raises:
      TypeError: If an argument is of another type.
      ValueError: If an argument is out of range, or not for such events.
    """
    parameters = dict(locals())
    event_shape = _check_event_shape(event_shape)
    is_image = len(event_shape) == 3
    name_of_other = 'num_couplings' if is_image else 'num_scales'
    if parameters[name_of_other] is not None:
      raise ValueError(
        f'`{name_of_other}` is for {"vectors" if is_image else "images"} only, '
        f'got {parameters[name_of_other]!r} with `event_shape` {event_shape!r}.'
      )
    util.check_int(num_couplings, 'num_couplings', optional=True)
    util.check_int(condition_size, 'condition_size', optional=True)
    moving_statistics.check_batch_norm(batch_norm)
    if networks is None:
      networks = residual.ResidualNetworks if is_image else dense.DenseNetworks
      networks = networks()
    if not callable(networks):
      raise TypeError(f'`networks` must be callable, got {networks!r}.')
    if isinstance(logit_transform, str) and logit_transform == 'default':
      logit_transform = None
      if is_image:
        logit_transform = logit_transform_lib.LogitTransform(
          validate_args=validate_args, dtype=dtype
        )
    if not isinstance(logit_transform, (tfb.Bijector, type(None))):
      raise TypeError(
        "`logit_transform` must be a tfb.Bijector, None or 'default', got "
        f'{logit_transform!r}.'
      )
    with tf.name_scope(name) as name:
      builder = architecture.CouplingBuilder(
        networks,
        batch_norm,
        condition_size,
        dtype=dtype,
        validate_args=validate_args,
      )
      channels = event_shape[-1]
      if is_image:
        num_scales = _check_num_scales(event_shape, num_scales)
        bijectors = architecture.image_components(builder, channels, num_scales)
      else:
        bijectors = architecture.vector_components(
          builder, channels, num_couplings or _NUM_COUPLINGS
        )
      if logit_transform is not None:
        bijectors = [logit_transform, *bijectors]
      self._hold(bijectors, event_shape, dtype, parameters, name)

  @classmethod
  def from_bijectors(
    cls,
    bijectors: Sequence[tfb.Bijector],
    event_shape: Sequence[int | None],
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'real_nvp_chain',
  ) -> 'RealNVPChain':
    """Makes a chain of given components.

    Args:
      bijectors: The components, in data -> latent order.
      event_shape: See the constructor.
      validate_args: Python `bool`.
      dtype: Dtype of the events.
      name: Name of the bijector.

    Raises:
      TypeError: If `bijectors` does not hold bijectors.
      ValueError: If `event_shape` is not that of images or vectors.
    """
    parameters = {k: v for k, v in locals().items() if k != 'cls'}
    event_shape = _check_event_shape(event_shape)
    return cls._holding(list(bijectors), event_shape, dtype, parameters)

  @classmethod
  def _holding(
    cls,
    bijectors: Sequence[tfb.Bijector],
    event_shape: Sequence[int | None],
    dtype: tf.DType,
    parameters: dict[str, Any],
  ) -> 'RealNVPChain':
    chain = cls.__new__(cls)
    with tf.name_scope(parameters['name']) as name:
      chain._hold(bijectors, event_shape, dtype, parameters, name)
    return chain

  def _hold(
    self,
    bijectors: Sequence[tfb.Bijector],
    event_shape: tuple[int | None, ...],
    dtype: tf.DType,
    parameters: dict[str, Any],
    name: str,
  ) -> None:
    self._event_shape = event_shape
    self._sequence = flow_sequence.FlowSequence(
      bijectors, event_ndims=len(event_shape), dtype=dtype
    )
    self._takes = composition.takes(self._sequence)
    super().__init__(
      forward_min_event_ndims=len(event_shape),
      validate_args=parameters['validate_args'],
      dtype=dtype,
      parameters=parameters,
      name=name,
    )

  @property
  def bijectors(self) -> list[tfb.Bijector]:
    """The components, in data -> latent order."""
    return self._sequence.bijectors

  @property
  def scale_parameters(self) -> tuple[tf.Variable, ...]:
    """The learned magnitudes, which the paper regularizes (section 4.1).

    Those of weight normalization and of the log-scales, as a tuple of
    `tf.Variable`s.
    """
    return tuple(
      variable
      for module in self.submodules
      if not isinstance(module, RealNVPChain)  # Its networks are there too.
      for variable in getattr(module, 'scale_parameters', ())
    )

  def copy(self, **override_parameters_kwargs: Any) -> 'RealNVPChain':
    """Creates a copy that shares the variables.

    Args:
      **override_parameters_kwargs: `name` or `validate_args`.

    Returns:
      A `RealNVPChain`.

    Raises:
      ValueError: For other overrides: they describe another architecture, which
        could not share the variables.
    """
    overrides = override_parameters_kwargs
    architecture_overrides = sorted(set(overrides) - {'name', 'validate_args'})
    if architecture_overrides:
      raise ValueError(
        'A copy shares its variables and can only override `name` and '
        f'`validate_args`, got {architecture_overrides}; build a new '
        'RealNVPChain.'
      )
    bijectors = self.bijectors
    if 'validate_args' in overrides:
      bijectors = [
        b.copy(validate_args=overrides['validate_args']) for b in bijectors
      ]
    parameters = {**self.parameters, **overrides}
    return self._holding(bijectors, self._event_shape, self.dtype, parameters)

  def split_latents(self, z: Any) -> list[tf.Tensor]:
    """Takes latents apart by scale.

    Args:
      z: `[..., H, W, C]`, or `[..., D]`.

    Returns:
      List with the latents of each scale, finest first. Of `[32, 32, 3]` at
      three scales: `[16, 16, 6]`, `[8, 8, 12]` and, what is left, `[8, 8, 12]`.
    """
    z = util.to_tensor(z, self.dtype, 'z')
    self.forward_event_shape(z.shape)
    return factor_out.split_scales(self.bijectors, z)

  def merge_latents(self, latents: Sequence[Any]) -> tf.Tensor:
    """Undoes `split_latents`.

    Args:
      latents: List with the latents of each scale, finest first.

    Returns:
      `[..., H, W, C]`, or `[..., D]`.
    """
    if not isinstance(latents, (list, tuple)):
      raise TypeError(f'`latents` must be a list, got {type(latents)}.')
    latents = [util.to_tensor(z, self.dtype, 'latents') for z in latents]
    z = factor_out.merge_scales(self.bijectors, latents)
    self.forward_event_shape(z.shape)
    return z

  def _forward_and_log_det(
    self,
    x: tf.Tensor,
    training: bool = False,
    condition: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    condition = self._broadcast(condition, x)
    return self._sequence.inverse_and_log_det(x, training, condition)

  def _inverse_and_log_det(
    self,
    y: tf.Tensor,
    training: bool = False,
    condition: tf.Tensor | None = None,
  ) -> tuple[tf.Tensor, tf.Tensor]:
    condition = self._broadcast(condition, y)
    return self._sequence.forward_and_log_det(y, training, condition)

  def _broadcast(
    self, condition: tf.Tensor | None, x: tf.Tensor
  ) -> tf.Tensor | None:
    """Broadcasts the condition once, for all couplings."""
    if condition is None:
      return None
    return conditioner.broadcast_condition(
      condition, x, self.forward_min_event_ndims
    )

  def _shape_after(
    self, shape: tf.TensorShape, direction: str
  ) -> tf.TensorShape:
    if shape[-1] not in (None, self._event_shape[-1]):
      raise ValueError(
        f'{self.name}: events must end in {self._event_shape[-1]} channels, as '
        f'`event_shape` does; got shape {shape}.'
      )
    opposite = {'forward': 'inverse', 'inverse': 'forward'}[direction]
    return getattr(self._sequence, f'{opposite}_event_shape')(shape)

  def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    return self._sequence.inverse_event_shape_tensor(shape)

  def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
    return self._sequence.forward_event_shape_tensor(shape)


def _check_event_shape(event_shape: Any) -> tuple[int | None, ...]:
  """Returns the event shape as a tuple of ints and `None`."""
  try:
    result = tuple(tf.TensorShape(event_shape))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'`event_shape` must be (H, W, C) or (D,), got {event_shape!r}.'
    ) from error
  if len(result) not in (1, 3) or 0 in result or result[-1] is None:
    raise ValueError(
      '`event_shape` must be (H, W, C) or (D,), the last element known; got '
      f'{result!r}.'
    )
  return result


def _check_num_scales(
  event_shape: Sequence[int | None], num_scales: int | None
) -> int:
  """Returns how many scales there are, after a check that they fit."""
  util.check_int(num_scales, 'num_scales', optional=True)
  sides = event_shape[:2]
  if num_scales is None:
    if None in sides:
      raise ValueError(
        '`num_scales` must be given where height and width are not: '
        f'`event_shape` is {event_shape!r}.'
      )
    num_scales = 1
    while all(
      side % 2**num_scales == 0 and side > 4 * 2 ** (num_scales - 1)
      for side in sides
    ):
      num_scales += 1
  for side in sides:
    if side is not None and side % 2 ** (num_scales - 1):
      raise ValueError(
        f'`event_shape` {event_shape!r} cannot be halved {num_scales - 1} '
        f'times for `num_scales` {num_scales}: height and width must be '
        f'divisible by '
        f'{2 ** (num_scales - 1)}.'
      )
  return num_scales
