"""RealNVPChain: the multi-scale architecture of Real NVP as one bijector."""

import functools
import inspect
import itertools

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import affine_coupling
from tfp_realnvp import batch_norm as batch_norm_lib
from tfp_realnvp import factor_out
from tfp_realnvp import flow_bijector
from tfp_realnvp import logit_transform as logit_transform_lib
from tfp_realnvp import mask as mask_lib
from tfp_realnvp import network
from tfp_realnvp import squeeze

tfb = tfp.bijectors

__all__ = ['RealNVPChain']


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

  Every coupling is followed by a `BatchNormBijector`.

  #### Examples

  ```python
  flow = RealNVPChain(event_shape=(32, 32, 3), num_scales=2, num_blocks=8,
                      hidden_channels=64)
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
    event_shape,
    num_scales=None,
    num_blocks=4,
    hidden_channels=32,
    num_couplings=None,
    batch_norm=True,
    lagged_batch_norm=False,
    lagged_network_norm=False,
    momentum=0.9,
    synchronized=False,
    condition_size=None,
    logit_transform='default',
    recompute_networks=False,
    compute_dtype=None,
    bijectors=None,
    dtype=tf.float32,
    seed=None,
    validate_args=False,
    name='real_nvp_chain',
  ):
    """Initializes RealNVPChain.

    Args:
      event_shape: `(H, W, C)` for images, where `H` and `W` may be `None`;
        `(D,)` for vectors.
      num_scales: `int`, images only: how many scales. By default the image is
        halved down to 4 pixels, or for as long as both sides are even.
      num_blocks: `int`, residual blocks of each coupling's network; for
        vectors, its hidden layers.
      hidden_channels: `int`, channels within the networks at the first scale;
        they double with every halving. For vectors, units of a hidden layer.
      num_couplings: `int`, vectors only: how many couplings, by default 8.
      batch_norm: Python `bool`, whether a `BatchNormBijector` follows each
        coupling.
      lagged_batch_norm: Python `bool`, whether the `BatchNormBijector`s train
        on lagged statistics (appendix E).
      lagged_network_norm: Python `bool`, the same for batch normalization
        within the networks; it slows learning at first.
      momentum: `float`, momentum of the moving statistics.
      synchronized: Python `bool`, whether all batch statistics are those of
        all replicas of a `tf.distribute.Strategy` together.
      condition_size: `int`, size `K` of the `condition` of a conditional flow
        (appendix F), which then is an argument of every call: `[..., K]`.
      logit_transform: `tfb.Bijector` or `None`, from data to the real line;
        'default' is `LogitTransform()` for images and `None` for vectors.
      recompute_networks: Python `bool`, whether training computes the networks'
        activations again in the backward pass instead of keeping them: a
        fraction of the memory for about a third more time.
      compute_dtype: Dtype of the networks' activations, by default `dtype`;
        `tf.bfloat16`, or `tf.float16` with loss scaling, see
        `DensityEstimator`. All else stays in `dtype`, and so invertible.
      bijectors: List of `tfb.Bijector`s, data -> latent: the components,
        instead of those that arguments describe, which then must not be given:
        all from `num_scales` to `compute_dtype`, and `seed`.
      dtype: Dtype of events and variables.
      seed: `int` or stateless seed, of the initial weights.
      validate_args: Python `bool`, whether to check values at run time.
      name: Name of the bijector.

    Raises:
      ValueError: If an argument is out of range, or not for such events.
    """
    parameters = dict(locals())
    given = [n for n, default in _defaults() if parameters[n] is not default]
    if bijectors is not None and given:
      raise ValueError(
        'The architecture is that of `bijectors`, so that '
        f'`{given[0]}` has no effect, got {parameters[given[0]]!r}.'
      )
    try:
      event_shape = tuple(tf.TensorShape(event_shape))
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'`event_shape` must be (H, W, C) or (D,), got {event_shape!r}.'
      ) from error
    if (
      len(event_shape) not in (1, 3)
      or 0 in event_shape
      or event_shape[-1] is None
    ):
      raise ValueError(
        '`event_shape` must be (H, W, C) or (D,), the last element known; got '
        f'{event_shape!r}.'
      )
    is_image = len(event_shape) == 3
    for argument, value, kind in (
      ('num_scales', num_scales, 'images'),
      ('num_couplings', num_couplings, 'vectors'),
    ):
      if value is None:
        continue
      if is_image != (kind == 'images'):
        raise ValueError(
          f'`{argument}` is for {kind} only, got {value!r} with `event_shape` '
          f'{event_shape!r}.'
        )
      flow_bijector.check_int(value, argument)
    hidden_channels = flow_bijector.check_int(
      hidden_channels, 'hidden_channels'
    )
    num_blocks = flow_bijector.check_int(num_blocks, 'num_blocks')
    if is_image and bijectors is None:
      num_scales = _check_num_scales(event_shape, num_scales)
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
      if bijectors is None:
        builder = _Builder(
          num_blocks=num_blocks,
          hidden_channels=hidden_channels,
          batch_norm=batch_norm,
          lagged_batch_norm=lagged_batch_norm,
          lagged_network_norm=lagged_network_norm,
          momentum=momentum,
          synchronized=synchronized,
          condition_size=condition_size,
          recompute_networks=recompute_networks,
          compute_dtype=compute_dtype,
          dtype=dtype,
          seed=seed,
          validate_args=validate_args,
        )
        if is_image:
          bijectors = builder.scales(event_shape[-1], num_scales)
        else:
          bijectors = builder.vector(event_shape[-1], num_couplings or 8)
        if logit_transform is not None:
          bijectors = [logit_transform] + bijectors
      self._channels = event_shape[-1]
      self._sequence = flow_bijector.FlowSequence(
        bijectors, event_ndims=len(event_shape), dtype=dtype
      )
      parameters['bijectors'] = list(bijectors)
      super().__init__(
        forward_min_event_ndims=len(event_shape),
        validate_args=validate_args,
        dtype=dtype,
        parameters=parameters,
        name=name,
      )

  @property
  def bijectors(self):
    """The components, in data -> latent order."""
    return self._sequence.bijectors

  @property
  def _takes(self):
    return flow_bijector.takes(self._sequence)

  @property
  def scale_parameters(self):
    """The learned magnitudes, which the paper regularizes (section 4.1).

    Those of weight normalization and of the log-scales, as a tuple of
    `tf.Variable`s.
    """
    variables = itertools.chain.from_iterable(
      getattr(module, 'scale_parameters', ()) for module in self.submodules
    )
    # A chain within this one gives those of its networks again.
    return tuple({id(variable): variable for variable in variables}.values())

  def copy(self, **override_parameters_kwargs):
    """Creates a copy that shares the variables.

    Args:
      **override_parameters_kwargs: `name` or `validate_args`.

    Returns:
      A `RealNVPChain`.

    Raises:
      ValueError: For other overrides: they describe another architecture, which
        could not share the variables.
    """
    overrides = dict(override_parameters_kwargs)
    architecture = sorted(set(overrides) - {'name', 'validate_args'})
    if architecture:
      raise ValueError(
        'A copy shares its variables and can only override `name` and '
        f'`validate_args`, got {architecture}; build a new RealNVPChain.'
      )
    overrides |= _defaults()
    if 'validate_args' in overrides:
      overrides['bijectors'] = [
        bijector.copy(validate_args=overrides['validate_args'])
        for bijector in self.bijectors
      ]
    return super().copy(**overrides)

  def split_latents(self, z):
    """Takes latents apart by scale.

    Args:
      z: `[..., H, W, C]`, or `[..., D]`.

    Returns:
      List with the latents of each scale, finest first. Of `[32, 32, 3]` at
      three scales: `[16, 16, 6]`, `[8, 8, 12]` and, what is left, `[8, 8, 12]`.
    """
    z = flow_bijector.to_tensor(z, self.dtype, 'z')
    self.forward_event_shape(z.shape)
    latents = []
    for factor, after in _factor_outs(self.bijectors):
      for bijector in reversed(after):
        z = bijector.inverse(z)
      z, latent = factor.split(z)
      latents.append(latent)
    return latents + [z]

  def merge_latents(self, latents):
    """Undoes `split_latents`.

    Args:
      latents: List with the latents of each scale, finest first.

    Returns:
      `[..., H, W, C]`, or `[..., D]`.
    """
    scales = list(_factor_outs(self.bijectors))
    if not isinstance(latents, (list, tuple)):
      raise TypeError(f'`latents` must be a list, got {type(latents)}.')
    if len(latents) != len(scales) + 1:
      raise ValueError(
        f'`latents` must have {len(scales) + 1} elements, one for each scale; '
        f'got {len(latents)}.'
      )
    latents = [
      flow_bijector.to_tensor(z, self.dtype, 'latents') for z in latents
    ]
    *latents, z = latents
    for (factor, after), latent in zip(reversed(scales), reversed(latents)):
      z = factor.merge(z, latent)
      for bijector in after:
        z = bijector.forward(z)
    self.forward_event_shape(z.shape)
    return z

  def _forward_and_log_det(self, x, **kwargs):
    return self._sequence.inverse_and_log_det(x, **kwargs)

  def _inverse_and_log_det(self, y, **kwargs):
    return self._sequence.forward_and_log_det(y, **kwargs)

  def _shape_after(self, shape, direction):
    if shape[-1] not in (None, self._channels):
      raise ValueError(
        f'{self.name}: events must end in {self._channels} channels, as '
        f'`event_shape` does; got shape {shape}.'
      )
    opposite = {'forward': 'inverse', 'inverse': 'forward'}[direction]
    return getattr(self._sequence, f'{opposite}_event_shape')(shape)

  def _forward_event_shape_tensor(self, shape):
    return self._sequence.inverse_event_shape_tensor(shape)

  def _inverse_event_shape_tensor(self, shape):
    return self._sequence.forward_event_shape_tensor(shape)


def _defaults():
  """The arguments that describe the components, and their defaults."""
  parameters = inspect.signature(RealNVPChain.__init__).parameters
  others = (
    'self',
    'event_shape',
    'bijectors',
    'dtype',
    'validate_args',
    'name',
  )
  return [(n, p.default) for n, p in parameters.items() if n not in others]


class _Builder:
  """Assembles the components of the paper's architecture."""

  def __init__(
    self,
    num_blocks,
    hidden_channels,
    batch_norm,
    lagged_batch_norm,
    lagged_network_norm,
    momentum,
    synchronized,
    condition_size,
    recompute_networks,
    compute_dtype,
    dtype,
    seed,
    validate_args,
  ):
    self._num_blocks = num_blocks
    self._hidden_channels = hidden_channels
    self._batch_norm = batch_norm
    norm = {'momentum': momentum, 'synchronized': synchronized}
    self._norm = {'lagged': lagged_batch_norm, **norm}
    self._network_norm = {'lagged': lagged_network_norm, **norm}
    self._network = {
      'condition_size': condition_size,
      'recompute': recompute_networks,
      'compute_dtype': compute_dtype,
      'dtype': dtype,
    }
    self._bijector = {'dtype': dtype, 'validate_args': validate_args}
    self._seed = network.stateless_seed(seed)
    self._num_couplings = itertools.count()

  def scales(self, channels, num_scales, scale=0):
    """The components from scale number `scale` on, which has `channels`."""
    hidden = self._hidden_channels * 2**scale
    with tf.name_scope(f'scale_{scale}'):
      if scale == num_scales - 1:
        return self._checkerboard_couplings(channels, hidden, 4)
      ordinary = squeeze.Squeeze(**self._bijector)
      checkerboard = squeeze.Squeeze(order='checkerboard', **self._bijector)
      this_scale = [
        *self._checkerboard_couplings(channels, hidden, 3),
        ordinary,
        *self._channel_couplings(4 * channels, 2 * hidden, 3),
        tfb.Invert(ordinary),
      ]
    next_scale = flow_bijector.FlowSequence(
      self.scales(2 * channels, num_scales, scale + 1),
      event_ndims=3,
      dtype=self._bijector['dtype'],
    )
    factored = factor_out.FactorOut(next_scale, **self._bijector)
    return this_scale + [checkerboard, factored, tfb.Invert(checkerboard)]

  def vector(self, size, num_couplings):
    """The components for vectors of `size` elements."""
    result = []
    for i in range(num_couplings):
      mask = mask_lib.channel_mask((size,), parity=(i + 1) % 2)
      dense = network.DenseNetwork(
        int(mask.sum()),
        int((~mask).sum()),
        hidden_size=self._hidden_channels,
        num_layers=self._num_blocks,
        seed=self._next_seed(),
        name=f'network_{i}',
        **self._network,
      )
      result += self._coupling(dense, mask, size, f'coupling_{i}')
    return result

  def _checkerboard_couplings(self, channels, hidden, count):
    result = []
    for i in range(count):
      mask = functools.partial(mask_lib.checkerboard_mask, parity=(i + 1) % 2)
      residual = self._residual_network(
        channels,
        channels,
        hidden,
        mask=mask,
        initial_magnitude=0.0,
        name=f'checkerboard_network_{i}',
      )
      result += self._coupling(residual, mask, channels, f'checkerboard_{i}')
    return result

  def _channel_couplings(self, channels, hidden, count):
    result = []
    for i in range(count):
      mask = mask_lib.channel_mask((None, None, channels), parity=(i + 1) % 2)
      residual = self._residual_network(
        int(mask.sum()), int((~mask).sum()), hidden, name=f'channel_network_{i}'
      )
      result += self._coupling(residual, mask, channels, f'channel_{i}')
    return result

  def _residual_network(self, in_channels, out_channels, hidden, **kwargs):
    return network.ResidualNetwork(
      in_channels,
      out_channels,
      hidden_channels=hidden,
      num_blocks=self._num_blocks,
      seed=self._next_seed(),
      **self._network_norm,
      **self._network,
      **kwargs,
    )

  def _coupling(self, coupling_network, mask, channels, name):
    """A coupling and the batch norm that follows it."""
    coupling = affine_coupling.AffineCoupling(
      coupling_network, mask, name=name, **self._bijector
    )
    if not self._batch_norm:
      return [coupling]
    norm = batch_norm_lib.BatchNormBijector(
      channels, name=f'{name}_batch_norm', **self._norm, **self._bijector
    )
    return [coupling, norm]

  def _next_seed(self):
    return tf.random.fold_in(self._seed, next(self._num_couplings))


def _check_num_scales(event_shape, num_scales):
  """Returns how many scales there are, after a check that they fit."""
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


def _factor_outs(bijectors):
  """Yields each `FactorOut`, outermost first, and what stands after it."""
  for i, bijector in enumerate(bijectors):
    if isinstance(bijector, factor_out.FactorOut):
      yield bijector, bijectors[i + 1 :]
      yield from _factor_outs(bijector.bijector.bijectors)
