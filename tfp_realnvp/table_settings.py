"""Settings of flows of tables and of their training."""

from collections.abc import Mapping
import dataclasses
import types

import numpy as np

from tfp_realnvp.bijectors import couplings as couplings_lib

__all__ = ['SETTINGS', 'Settings', 'candidates']

_MANY_ROWS = 5000
_FEW_COLUMNS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Settings of a flow and of its training.

  Attributes:
    couplings: Kind of couplings, a key of `couplings.BY_NAME`.
    num_couplings: Number of couplings.
    num_layers: Number of hidden layers of each network.
    hidden_size: Number of units of each hidden layer.
    batch_norm: Whether batch normalization follows each coupling.
    degrees_of_freedom: Degrees of freedom of Student's t-distribution of the
      latents. Infinity gives the normal distribution.
    num_components: Number of components of a mixture, which replaces this
      distribution of the latents unless it is 1. Training starts with the
      mixture of Gaussians that fits whitened rows, and a flow that is the
      identity. 0 lets the validation rows choose the number.
    noise: Standard deviation of the noise added to training rows, relative to
      that of the rows.
    weight_decay: Weight decay of AdamW.
    learning_rate: Initial learning rate of AdamW. It decays to 0 (cosine).
    batch_size: Number of rows per step.
    num_steps: Number of steps.
  """

  couplings: str = 'spline'
  num_couplings: int = 8
  num_layers: int = 1
  hidden_size: int = 32
  batch_norm: bool = False
  degrees_of_freedom: float = np.inf
  num_components: int = 1
  noise: float = 0.0
  weight_decay: float = 0.5
  learning_rate: float = 5e-4
  batch_size: int = 64
  num_steps: int = 1500

  def __post_init__(self) -> None:
    if self.couplings not in couplings_lib.BY_NAME:
      raise ValueError(
        f'couplings must be one of {[*couplings_lib.BY_NAME]}, '
        f'got {self.couplings!r}.'
      )


_LARGE = Settings(
  num_layers=2,
  hidden_size=64,
  weight_decay=0.0,
  learning_rate=5e-3,
  batch_size=512,
  num_steps=5000,
)

# Tables of few rows need regularization, the more the fewer they are, unless
# columns repeat their values. Affine couplings learn large tables in a minute
# or two, but model two or three columns less well than splines. A mixture helps
# where rows form clusters; small steps keep what it starts from.
SETTINGS: Mapping[str, Settings] = types.MappingProxyType(
  {
    'regularized': Settings(
      couplings='affine', degrees_of_freedom=4.0, noise=0.4
    ),
    'moderate': Settings(
      num_couplings=4, noise=0.15, weight_decay=1.0, num_steps=3000
    ),
    'flexible': Settings(),
    'mixture': Settings(num_components=0, learning_rate=1e-4),
    'large': dataclasses.replace(
      _LARGE, couplings='affine', learning_rate=2e-3, num_steps=2000
    ),
    'large_spline': _LARGE,
    'large_mixture': dataclasses.replace(
      _LARGE, num_components=0, learning_rate=1e-3
    ),
  }
)


def candidates(num_rows: int, num_columns: int) -> tuple[str, ...]:
  """Returns the names of the settings that suit a table of training rows."""
  if num_rows < _MANY_ROWS:
    return ('regularized', 'moderate', 'flexible', 'mixture')
  return ('large_mixture' if num_columns <= _FEW_COLUMNS else 'large',)
