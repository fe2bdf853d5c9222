"""The paper's configuration for each of its data sets (section 4.1)."""

from collections.abc import Callable
import dataclasses
import math
import numbers
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import couplings
from tfp_realnvp.bijectors import logit_transform
from tfp_realnvp.bijectors import real_nvp_chain
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.networks import residual

tfd = tfp.distributions

__all__ = ['DataOptions', 'NAMES', 'Preset', 'TrainingOptions', 'preset']


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
  """Data set and preprocessing.

  Preprocessing has four steps, in this order. `None` skips a step.

  1. Crop the central square of side `center_crop`.
  2. Resize the image so that its smaller side is `smallest_side`.
  3. Crop to `Preset.image_shape`, at random in training and centrally in
     evaluation.
  4. Flip horizontally at random if `flip`, in training only.

  Attributes:
    tfds_name: Name of the data set in TensorFlow Datasets, or `None`.
    test_split: Name of the held-out split. The training split is `train`.
    condition_feature: Name of the feature that conditional flows (appendix F)
      are conditioned on, or `None`.
    condition_size: Size of the condition: the number of classes (one-hot) or of
      binary attributes.
    center_crop: See step 1.
    smallest_side: See step 2.
    flip: See step 4.
  """

  tfds_name: str | None = None
  test_split: str = 'validation'
  condition_feature: str | None = None
  condition_size: int | None = None
  center_crop: int | None = None
  smallest_side: int | None = None
  flip: bool = False

  def __post_init__(self) -> None:
    for name in ('condition_size', 'center_crop', 'smallest_side'):
      util.check_int(getattr(self, name), name, optional=True)
    if (self.condition_feature is None) != (self.condition_size is None):
      raise ValueError(
        '`condition_feature` and `condition_size` must be given together, got '
        f'{self.condition_feature!r} and {self.condition_size!r}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
  """Optimization.

  The defaults are the values that all models of the paper share: "We use a
  batch size of 64", "We optimize with ADAM with default hyperparameters and use
  an L2 regularization on the weight scale parameters with coefficient 5e-5"
  (section 4.1). `clip_norm` is from the authors' code.

  Attributes:
    batch_size: Number of images in a training step.
    learning_rate: Learning rate of Adam.
    l2_coefficient: L2 regularization of `RealNVPChain.scale_parameters`.
    clip_norm: Global norm to clip gradients to; 0 for no clipping.
  """

  batch_size: int = 64
  learning_rate: float = 1e-3
  l2_coefficient: float = 5e-5
  clip_norm: float = 100.0

  def __post_init__(self) -> None:
    util.check_int(self.batch_size, 'batch_size')
    for name in ('learning_rate', 'l2_coefficient', 'clip_norm'):
      value = getattr(self, name)
      if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(
          f'`{name}` must be finite and at least 0, got {value!r}.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """Data, architecture and optimization of one model.

  Use `dataclasses.replace` to change fields.

  Attributes:
    data: `DataOptions`.
    image_shape: `(H, W, C)` after preprocessing.
    num_levels: Number of values a pixel can take.
    alpha: See `LogitTransform`.
    num_scales: See `RealNVPChain`.
    networks: See `RealNVPChain`.
    batch_norm: See `AffineCouplings`.
    training: `TrainingOptions`.
    bits_per_dim: Result of the paper (table 1) on the test images of CIFAR-10
      or the validation images of the other data sets, or `None`.
  """

  data: DataOptions = DataOptions()
  image_shape: tuple[int, int, int]
  num_levels: int = 256
  alpha: float = 0.05
  num_scales: int | None
  networks: Callable
  batch_norm: moving_statistics.BatchNormOptions | None = (
    moving_statistics.BatchNormOptions()
  )
  training: TrainingOptions = TrainingOptions()
  bits_per_dim: float | None = None

  def __post_init__(self) -> None:
    shape = self.image_shape
    if not isinstance(shape, (list, tuple)) or not (
      len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    ):
      raise ValueError(
        f'`image_shape` must be (H, W, C), ints of at least 1; got {shape!r}.'
      )
    util.check_int(self.num_levels, 'num_levels')
    util.check_int(self.num_scales, 'num_scales', optional=True)
    for name, kind in (('data', DataOptions), ('training', TrainingOptions)):
      value = getattr(self, name)
      if not isinstance(value, kind):
        raise TypeError(f'`{name}` must be {kind.__name__}, got {value!r}.')

  def flow(
    self,
    dtype: tf.DType = tf.float32,
    validate_args: bool = False,
    **kwargs: Any,
  ) -> real_nvp_chain.RealNVPChain:
    """Builds the flow with initial weights.

    Args:
      dtype: Dtype of pixels, latents and variables.
      validate_args: Python `bool`, whether to check values at run time. Pixels
        that are NaN or outside `[0, num_levels)` then raise
        `InvalidArgumentError`.
      **kwargs: Other arguments of `RealNVPChain`, such as `condition_size`.

    Raises:
      TypeError: If an argument is determined by the preset.
    """
    dtype = tf.as_dtype(dtype)
    architecture = {
      'event_shape': self.image_shape,
      'num_scales': self.num_scales,
      'networks': self.networks,
      'couplings': couplings.AffineCouplings(batch_norm=self.batch_norm),
      'logit_transform': logit_transform.LogitTransform(
        self.num_levels, self.alpha, validate_args=validate_args, dtype=dtype
      ),
    }
    for name in architecture.keys() & kwargs.keys():
      raise TypeError(
        f'`{name}` follows from the fields of the preset, use '
        f'`dataclasses.replace` to change it; got {kwargs[name]!r}.'
      )
    return real_nvp_chain.RealNVPChain(
      **architecture, dtype=dtype, validate_args=validate_args, **kwargs
    )

  def distribution(
    self,
    base: tfd.Distribution | None = None,
    dtype: tf.DType = tf.float32,
    validate_args: bool = False,
    **kwargs: Any,
  ) -> tfd.TransformedDistribution:
    """Builds the distribution of images with initial weights.

    Args:
      base: `tfd.Distribution` of the latents, with event shape `image_shape`.
        Defaults to a standard normal distribution.
      dtype: See `flow`.
      validate_args: See `flow`.
      **kwargs: See `flow`.

    Returns:
      `tfd.TransformedDistribution` of pixels on `[0, num_levels)`.

    Raises:
      TypeError: If an argument is determined by the preset, or `base` is not a
        `tfd.Distribution`.
      ValueError: If `base` has another event shape or dtype.
    """
    flow = self.flow(dtype, validate_args, **kwargs)
    dtype = flow.dtype
    if base is None:
      zero, one = tf.zeros([], dtype), tf.ones([], dtype)
      base = tfd.Sample(tfd.Normal(zero, one), sample_shape=self.image_shape)
    if not isinstance(base, tfd.Distribution):
      raise TypeError(f'`base` must be a tfd.Distribution, got {base!r}.')
    if base.dtype != dtype or base.event_shape != self.image_shape:
      raise ValueError(
        f'`base` must have dtype {dtype.name} and event shape '
        f'{self.image_shape}, got {base!r}.'
      )
    return tfd.TransformedDistribution(base, flow, validate_args=validate_args)


def preset(name: str, image_size: int = 64) -> Preset:
  """Returns the configuration for a data set (section 4.1 of the paper).

  ```python
  dist = preset('celeb_a').distribution()
  ```

  Args:
    name: A data set of the paper, 'cifar10', 'imagenet32', 'imagenet64',
      'lsun_bedroom', 'lsun_tower', 'lsun_church_outdoor' or 'celeb_a'; 'mnist';
      'digits' for the handwritten digits that ship with scikit-learn; or
      'folder' for your own images.
    image_size: Height and width of the images, for 'folder' only.

  Raises:
    ValueError: If `name` is unknown.
  """
  if name == 'folder':
    num_blocks = 2 if image_size > 32 else 4
    return Preset(
      data=DataOptions(smallest_side=image_size, flip=True),
      image_shape=(image_size, image_size, 3),
      num_scales=None,
      networks=residual.ResidualNetworks(num_blocks=num_blocks),
    )
  if not isinstance(name, str) or name not in _PRESETS:
    raise ValueError(f'`name` must be one of {", ".join(NAMES)}; got {name!r}.')
  return _PRESETS[name]


# "Our multi-scale architecture is repeated recursively until the input of the
# last recursion is a 4 x 4 x c tensor. For datasets of images of size 32 x 32,
# we use 4 residual blocks with 32 hidden feature maps for the first coupling
# layers with checkerboard masking."
_IMAGES_32 = {
  'image_shape': (32, 32, 3),
  'num_scales': 4,
  'networks': residual.ResidualNetworks(num_blocks=4, hidden_channels=32),
}
# "Only 2 residual blocks are used for images of size 64 x 64."
_IMAGES_64 = {
  'image_shape': (64, 64, 3),
  'num_scales': 5,
  'networks': residual.ResidualNetworks(num_blocks=2, hidden_channels=32),
}
_SMALL = {
  'networks': residual.ResidualNetworks(num_blocks=2, hidden_channels=32),
  'batch_norm': moving_statistics.BatchNormOptions(lagged=True),
}
_LABELS = {'condition_feature': 'label', 'condition_size': 10}


def _lsun(category: str, bits_per_dim: float) -> Preset:
  return Preset(
    data=DataOptions(
      tfds_name=f'lsun/{category}',
      # "We downsample the image so that the smallest side is 96 pixels and take
      # random crops of 64 x 64."
      smallest_side=96,
      flip=True,
    ),
    bits_per_dim=bits_per_dim,
    **_IMAGES_64,
  )


# "We also augment the CIFAR-10, CelebA and LSUN datasets during training to
# also include horizontal flips of the training examples."
_PRESETS = {
  'cifar10': Preset(
    data=DataOptions(
      tfds_name='cifar10', test_split='test', flip=True, **_LABELS
    ),
    image_shape=(32, 32, 3),
    # "For CIFAR-10, we use 8 residual blocks, 64 feature maps, and downscale
    # only once."
    num_scales=2,
    networks=residual.ResidualNetworks(num_blocks=8, hidden_channels=64),
    # "We used batch normalization with a moving average for our results on
    # CIFAR-10." (Appendix E.)
    batch_norm=moving_statistics.BatchNormOptions(lagged=True),
    bits_per_dim=3.49,
  ),
  # "We train on the downsampled to 32 x 32 and 64 x 64 versions of Imagenet".
  # Resizing does not change images of this size.
  'imagenet32': Preset(
    data=DataOptions(tfds_name='downsampled_imagenet/32x32', smallest_side=32),
    bits_per_dim=4.28,
    **_IMAGES_32,
  ),
  'imagenet64': Preset(
    data=DataOptions(tfds_name='downsampled_imagenet/64x64', smallest_side=64),
    bits_per_dim=3.98,
    **_IMAGES_64,
  ),
  'lsun_bedroom': _lsun('bedroom', 2.72),
  'lsun_tower': _lsun('tower', 2.81),
  'lsun_church_outdoor': _lsun('church_outdoor', 3.08),
  'celeb_a': Preset(
    data=DataOptions(
      tfds_name='celeb_a',
      condition_feature='attributes',
      condition_size=40,
      # "We take an approximately central crop of 148 x 148 then resize it to
      # 64 x 64."
      center_crop=148,
      smallest_side=64,
      flip=True,
    ),
    bits_per_dim=3.02,
    **_IMAGES_64,
  ),
  # Not of the paper. 28 can be halved twice. `alpha` is that of Papamakarios et
  # al., "Masked autoregressive flow for density estimation" (2017).
  'mnist': Preset(
    data=DataOptions(tfds_name='mnist', test_split='test', **_LABELS),
    image_shape=(28, 28, 1),
    alpha=1e-6,
    num_scales=3,
    **_SMALL,
  ),
  'digits': Preset(
    data=DataOptions(**_LABELS),
    image_shape=(8, 8, 1),
    num_levels=17,
    num_scales=2,
    **_SMALL,
  ),
}
NAMES = (*_PRESETS, 'folder')
