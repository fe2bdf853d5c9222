"""Factories of the couplings of a `RealNVPChain`, and their builder."""

from collections.abc import Callable
import dataclasses
import itertools
import types
from typing import Any

import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.bijectors import affine_coupling
from tfp_realnvp.bijectors import batch_norm
from tfp_realnvp.bijectors import spline_coupling
from tfp_realnvp.networks import coupling_network
from tfp_realnvp.networks import moving_statistics

tfb = tfp.bijectors

__all__ = [
  'BY_NAME',
  'AffineCouplings',
  'CouplingBuilder',
  'Couplings',
  'SplineCouplings',
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Couplings:
  """Base class of the factories.

  Attributes:
    batch_norm: Options of the `BatchNormBijector` that follows each coupling,
      or `None` for none.
    permutation_seed: For vectors. With an `int`, each pair of couplings splits
      the elements at random instead of into the first and the second half; the
      seed selects the permutations. `None` for alternating halves.
  """

  batch_norm: moving_statistics.BatchNormOptions | None = None
  permutation_seed: int | None = None

  def __post_init__(self) -> None:
    moving_statistics.check_batch_norm(self.batch_norm)
    util.check_int(
      self.permutation_seed, 'permutation_seed', minimum=0, optional=True
    )

  @property
  def params_per_channel(self) -> int:
    """See `NetworkSpec`."""
    raise NotImplementedError

  def __call__(
    self, network: Callable, mask: Any, **kwargs: Any
  ) -> tfb.Bijector:
    """Returns a coupling.

    Args:
      network: See `AffineCoupling`.
      mask: See `AffineCoupling`.
      **kwargs: `validate_args`, `dtype` and `name`.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffineCouplings(Couplings):
  """Builds the affine couplings of the paper, see `AffineCoupling`.

  Unless `couplings` is given, `RealNVPChain` uses
  `AffineCouplings(batch_norm=BatchNormOptions())` for images and
  `AffineCouplings()` for vectors.
  """

  @property
  def params_per_channel(self) -> int:
    return 2

  def __call__(
    self, network: Callable, mask: Any, **kwargs: Any
  ) -> tfb.Bijector:
    return affine_coupling.AffineCoupling(network, mask, **kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplineCouplings(Couplings):
  """Builds couplings of monotonic splines for vectors, see `SplineCoupling`.

  Attributes:
    permutation_seed: See `Couplings`; 0 by default.
    num_bins: Number of bins of each spline.
    bound: The splines change values between `-bound` and `bound`, so data
      should be standardized.
  """

  permutation_seed: int | None = 0
  num_bins: int = 8
  bound: float = 5.0

  def __post_init__(self) -> None:
    super().__post_init__()
    spline_coupling.check_spline(self.num_bins, self.bound)

  @property
  def params_per_channel(self) -> int:
    return 3 * self.num_bins - 1

  def __call__(
    self, network: Callable, mask: Any, **kwargs: Any
  ) -> tfb.Bijector:
    return spline_coupling.SplineCoupling(
      network, mask, num_bins=self.num_bins, bound=self.bound, **kwargs
    )


# For flags and files.
BY_NAME = types.MappingProxyType(
  {'affine': AffineCouplings, 'spline': SplineCouplings}
)


class CouplingBuilder:
  """Builds couplings with their networks and batch normalization."""

  def __init__(
    self,
    networks: Callable[[coupling_network.NetworkSpec], Callable],
    couplings: Couplings,
    condition_size: int | None,
    **bijector_kwargs: Any,
  ):
    """Initializes CouplingBuilder.

    Args:
      networks: Returns the network of the coupling that a `NetworkSpec`
        describes.
      couplings: Returns a coupling with a network and a mask.
      condition_size: Size of the condition, or `None`.
      **bijector_kwargs: `dtype` and `validate_args` of the bijectors.
    """
    self._networks = networks
    self._couplings = couplings
    self._condition_size = condition_size
    self.bijector_kwargs = bijector_kwargs
    self._index = itertools.count()

  @property
  def permutation_seed(self) -> int | None:
    """See `Couplings`."""
    return self._couplings.permutation_seed

  def couplings(
    self,
    name: str,
    count: int,
    channels: int,
    mask: Callable[[int], Any],
    level: int = 0,
  ) -> list[tfb.Bijector]:
    """Returns couplings, each followed by its batch normalization.

    Args:
      name: What the names of the bijectors begin with.
      count: How many couplings.
      channels: Channels of the event.
      mask: Function from the index of a coupling to a mask, or to a function
        that makes one from an event shape.
      level: See `NetworkSpec`.
    """
    result = []
    for i in range(count):
      result += self._coupling(f'{name}_{i}', mask(i), channels, level)
    return result

  def _coupling(
    self, name: str, mask: Any, channels: int, level: int
  ) -> list[tfb.Bijector]:
    is_function = callable(mask)
    spec = coupling_network.NetworkSpec(
      in_channels=channels if is_function else int(mask.sum()),
      out_channels=channels if is_function else int((~mask).sum()),
      params_per_channel=self._couplings.params_per_channel,
      level=level,
      mask=mask if is_function else None,
      condition_size=self._condition_size,
      dtype=self.bijector_kwargs['dtype'],
      index=next(self._index),
      name=f'{name}_network',
    )
    coupling = self._couplings(
      self._networks(spec), mask, name=name, **self.bijector_kwargs
    )
    options = self._couplings.batch_norm
    if options is None:
      return [coupling]
    norm = batch_norm.BatchNormBijector(
      channels,
      momentum=options.momentum,
      lagged=options.lagged,
      synchronized=options.synchronized,
      name=f'{name}_batch_norm',
      **self.bijector_kwargs,
    )
    return [coupling, norm]
