"""Simulations: of two tasks of the benchmark [1], or from a file.

Needs pandas, which `pip install 'tfp_realnvp[examples]'` installs.

#### References
[1]: Jan-Matthis Lueckmann, Jan Boelts, David Greenberg, Pedro Goncalves, Jakob
     Macke. Benchmarking simulation-based inference. _AISTATS_, 2021.
     https://arxiv.org/abs/2101.04653
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import zipfile

import numpy as np
import pandas as pd

from tfp_realnvp import tables

__all__ = ['TASKS', 'Task', 'read_simulations', 'slcp', 'two_moons']


def two_moons(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Simulates a point on a crescent, which |theta_1 + theta_2| moves.

  With `a ~ U(-pi / 2, pi / 2)` and `r ~ N(0.1, 0.01^2)`,
  `x = (r cos a + 0.25, r sin a) + (-|t1 + t2|, -t1 + t2) / sqrt(2)`.

  Args:
    theta: `[N, 2]`.
    rng: Source of the noise.

  Returns:
    `[N, 2]`.
  """
  angle = rng.uniform(-np.pi / 2, np.pi / 2, size=len(theta))
  radius = rng.normal(0.1, 0.01, size=len(theta))
  first, second = theta.T
  return np.stack(
    [
      radius * np.cos(angle) + 0.25 - np.abs(first + second) / np.sqrt(2),
      radius * np.sin(angle) + (second - first) / np.sqrt(2),
    ],
    axis=1,
  )


def slcp(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Simulates four draws of a normal distribution: simple likelihood.

  The mean is `(t1, t2)`, the standard deviations are `t3^2` and `t4^2` and the
  correlation is `tanh(t5)`. The posterior is complex: it has four modes.

  Args:
    theta: `[N, 5]`.
    rng: Source of the noise.

  Returns:
    `[N, 8]`, the four draws one after another.
  """
  first, second = theta[:, 2] ** 2, theta[:, 3] ** 2
  both = np.tanh(theta[:, 4]) * first * second
  covariance = np.stack([first**2, both, both, second**2], axis=-1)
  covariance = covariance.reshape(-1, 2, 2) + 1e-6 * np.eye(2)
  noise = rng.normal(size=(len(theta), 4, 2))
  draws = np.einsum('nij,nkj->nki', np.linalg.cholesky(covariance), noise)
  return (theta[:, np.newaxis, :2] + draws).reshape(-1, 8)


@dataclasses.dataclass(frozen=True)
class Task:
  """A simulator, and a prior that is uniform on `[-bound, bound]^size`.

  Attributes:
    size: Number of parameters.
    bound: Largest absolute value of a parameter.
    simulate: Function from parameters `[N, size]` and a random generator to
      data `[N, K]`.
  """

  size: int
  bound: float
  simulate: Callable[[np.ndarray, np.random.Generator], np.ndarray]

  def draw(self, count: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Returns `count` parameters of the prior, and data simulated with them."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform(-self.bound, self.bound, size=(count, self.size))
    return _named(theta, 'theta'), _named(self.simulate(theta, rng), 'x')

  def contains(self, theta: np.ndarray) -> np.ndarray:
    """Returns which parameters have a positive prior density: bool `[N]`."""
    return np.all(np.abs(theta) <= self.bound, axis=1)


TASKS = {
  'slcp': Task(size=5, bound=3.0, simulate=slcp),
  'two_moons': Task(size=2, bound=1.0, simulate=two_moons),
}


def read_simulations(
  path: str, drop_columns: Sequence[str] = (), drop_missing: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
  """Reads parameters and data of simulations.

  Args:
    path: Either an .npz file with arrays `theta`, `[N, D]`, and `x`, `[N, K]`,
      whose columns get the names theta1, ... and x1, ...; or a table with a
      header, see `tables.read_table`, in which the names of parameters begin
      with theta.
    drop_columns: See `tables.read_table`.
    drop_missing: See `tables.read_table`.

  Returns:
    theta: float64 `[N, D]`.
    x: float64 `[N, K]`.

  Raises:
    SystemExit: If there are no such simulations. The message names the flag
      --simulations and the file.
  """
  source = f'--simulations={path}'
  if path.endswith('.npz'):
    frame = tables.drop(_read_npz(path, source), drop_columns, source)
    frame = tables.check_numbers(frame, source, drop_missing)
  else:
    frame = tables.read_table(
      path,
      'simulations',
      drop_columns=drop_columns,
      drop_missing=drop_missing,
    )
  is_theta = frame.columns.str.startswith('theta')
  if is_theta.all() or not is_theta.any():
    raise SystemExit(
      f'{source} must have columns whose names begin with theta, and others; '
      f'its columns are {", ".join(frame.columns)}.'
    )
  return frame.loc[:, is_theta], frame.loc[:, ~is_theta]


def _read_npz(path: str, source: str) -> pd.DataFrame:
  """Returns the arrays of an .npz file side by side."""
  try:
    with open(path, 'rb') as file, np.load(file) as arrays:
      theta, x = arrays['theta'], arrays['x']
  except (
    AttributeError,  # The file has one array, .npy.
    EOFError,
    KeyError,
    OSError,
    TypeError,  # The same with Python 3.11.
    ValueError,
    zipfile.BadZipFile,
  ) as error:
    raise SystemExit(
      f'{source} cannot be read as arrays `theta` and `x`: {error}'
    ) from error
  if theta.ndim != 2 or x.ndim != 2 or len(theta) != len(x):
    raise SystemExit(
      f'{source}: `theta` and `x` must have shapes [N, D] and [N, K], got '
      f'{list(theta.shape)} and {list(x.shape)}.'
    )
  return pd.concat([_named(theta, 'theta'), _named(x, 'x')], axis=1)


def _named(values: np.ndarray, name: str) -> pd.DataFrame:
  names = [f'{name}{i}' for i in range(1, values.shape[1] + 1)]
  return pd.DataFrame(values, columns=names).rename_axis('row')
