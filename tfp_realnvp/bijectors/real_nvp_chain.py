"""RealNVPChain: the multi-scale architecture of Real NVP as one bijector."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import architecture
from tfp_realnvp.bijectors import batch_norm
from tfp_realnvp.bijectors import composition
from tfp_realnvp.bijectors import conditioner
from tfp_realnvp.bijectors import couplings as couplings_lib
from tfp_realnvp.bijectors import factor_out
from tfp_realnvp.bijectors import flow_bijector
from tfp_realnvp.bijectors import flow_sequence
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import moving_statistics

tfb = tfp.bijectors

__all__ = ['RealNVPChain']


class RealNVPChain(flow_bijector.FlowBijector):
  """Real NVP: `forward` maps latents to data, `inverse` data to latents.

  Images `[H, W, C]`, with pixels on `[0, 256)` (section 3.6 of the paper): the
  logit; at every scale three couplings with alternating checkerboard masks, a
  squeeze, three couplings with alternating channel-wise masks, and half of the
  variables factored out; at the last scale four checkerboard couplings. The
  same weights work for images of any size that can be halved often enough.
  Latents have the event shape of the data; `split_latents` splits them by
  scale. A `BatchNormBijector` follows every coupling.

  Vectors `[D]`: `num_couplings` couplings with alternating halves. A new flow
  is close to the identity, so standardize the data. `D` = 1 needs a condition.

  #### Examples

  ```python
  flow = RealNVPChain((32, 32, 3), num_scales=2)
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
    couplings: couplings_lib.Couplings | None = None,
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
      networks: Function from a `NetworkSpec` to the network of a coupling, such
        as a Keras model; by default `ResidualNetworks()` for images and
        `DenseNetworks()` for vectors.
      couplings: `AffineCouplings`, or `SplineCouplings` for vectors; by default
        `AffineCouplings(batch_norm=BatchNormOptions())` for images and
        `AffineCouplings()` for vectors.
      condition_size: Size `K` of the condition of a conditional flow (appendix
        F). Every call then needs `condition`, `[..., K]`.
      logit_transform: `tfb.Bijector` from data to the real line, or `None`;
        'default' is `LogitTransform()` for images and `None` for vectors.
      validate_args: Python `bool`, whether to check values at run time.
      dtype: Dtype of events and variables.
      name: Name of the bijector.

    Raises:
      TypeError: If an argument is of another type.
      ValueError: If an argument is out of range, or not for such events.
    """
    parameters = dict(locals())
    with tf.name_scope(name) as name:
      bijectors = architecture.components(
        event_shape,
        num_scales,
        num_couplings,
        networks,
        couplings,
        condition_size,
        logit_transform,
        dtype=dtype,
        validate_args=validate_args,
      )
      self._hold(bijectors, parameters, name)

  @classmethod
  def from_bijectors(
    cls,
    bijectors: Sequence[tfb.Bijector],
    event_shape: Sequence[int | None],
    validate_args: bool = False,
    dtype: tf.DType = tf.float32,
    name: str = 'real_nvp_chain',
  ) -> 'RealNVPChain':
    """Creates a chain of the given components.

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
    return cls._holding(list(bijectors), parameters)

  @classmethod
  def _holding(
    cls, bijectors: list[tfb.Bijector], parameters: dict[str, Any]
  ) -> 'RealNVPChain':
    chain = cls.__new__(cls)
    with tf.name_scope(parameters['name']) as name:
      chain._hold(bijectors, parameters, name)
    return chain

  def _hold(
    self, bijectors: list[tfb.Bijector], parameters: dict[str, Any], name: str
  ) -> None:
    event_shape = architecture.check_event_shape(parameters['event_shape'])
    self._event_shape = event_shape
    self._sequence = flow_sequence.FlowSequence(
      bijectors, event_ndims=len(event_shape), dtype=parameters['dtype']
    )
    self._takes = composition.takes(self._sequence)
    super().__init__(
      forward_min_event_ndims=len(event_shape),
      validate_args=parameters['validate_args'],
      dtype=parameters['dtype'],
      parameters=parameters,
      name=name,
    )
    self._has_statistics = any(
      isinstance(module, moving_statistics.MovingStatistics)
      for module in self.submodules
    )

  @property
  def bijectors(self) -> list[tfb.Bijector]:
    """The components, in data -> latent order."""
    return self._sequence.bijectors

  @property
  def scale_parameters(self) -> tuple[tf.Variable, ...]:
    """Magnitudes of weight normalization and log-scales (section 4.1).

    The paper regularizes them.
    """
    return tuple(
      variable
      for module in self.submodules
      # The parts of a nested chain are submodules, too.
      if not isinstance(module, RealNVPChain)
      for variable in getattr(module, 'scale_parameters', ())
    )

  def copy(self, **override_parameters_kwargs: Any) -> 'RealNVPChain':
    """Creates a copy that shares the variables.

    Args:
      **override_parameters_kwargs: `name` or `validate_args`.

    Raises:
      ValueError: For other overrides, because another architecture cannot share
        the variables.
    """
    overrides = override_parameters_kwargs
    others = sorted(set(overrides) - {'name', 'validate_args'})
    if others:
      raise ValueError(
        'A copy shares its variables and can only override `name` and '
        f'`validate_args`, got {others}; build a new RealNVPChain.'
      )
    checks = {k: v for k, v in overrides.items() if k == 'validate_args'}
    bijectors = [b.copy(**checks) if checks else b for b in self.bijectors]
    return self._holding(bijectors, {**self.parameters, **overrides})

  def split_latents(self, z: Any) -> list[tf.Tensor]:
    """Splits latents by scale.

    Args:
      z: `[..., H, W, C]`, or `[..., D]`.

    Returns:
      List of the latents of each scale, finest first. With three scales,
      `[32, 32, 3]` is split into `[16, 16, 6]`, `[8, 8, 12]` and `[8, 8, 12]`.
    """
    z = util.to_tensor(z, self.dtype, 'z')
    self.forward_event_shape(z.shape)
    return factor_out.split_scales(self.bijectors, z)

  def merge_latents(self, latents: Sequence[Any]) -> tf.Tensor:
    """Undoes `split_latents`.

    Args:
      latents: List of the latents of each scale, finest first.

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
    self, x: tf.Tensor, training: bool = False, condition: Any = None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    condition = self._broadcast(condition, x)
    y, fldj = self._sequence.inverse_and_log_det(x, training, condition)
    if self._has_statistics:
      y = batch_norm.warn_if_fitted(y, self)
    return y, fldj

  def _inverse_and_log_det(
    self, y: tf.Tensor, training: bool = False, condition: Any = None
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

  def _shape_after(self, shape: tf.TensorShape, direction: str) -> Any:
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
