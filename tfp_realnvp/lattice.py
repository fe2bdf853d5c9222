"""Scalar fields on a periodic lattice: the action, and observables with errors.

#### References
[1]: Michael Albergo, Gurtej Kanwar, Phiala Shanahan. Flow-based generative
     models for Markov chain Monte Carlo in lattice field theory.
     _Physical Review D_, 100, 2019. https://arxiv.org/abs/1904.12072
[2]: Michael Albergo et al. Introduction to normalizing flows for lattice field
     theory. 2021. https://arxiv.org/abs/2101.08176
"""

import dataclasses

import numpy as np
import tensorflow as tf

__all__ = ['Phi4', 'autocorrelation_time', 'magnetization', 'mean_and_error']


@dataclasses.dataclass(frozen=True)
class Phi4:
  """The action of phi^4 theory in two dimensions [1, 2].

  `S = sum_x phi(x) sum_mu (2 phi(x) - phi(x + mu) - phi(x - mu)) +
  mass_squared phi(x)^2 + coupling phi(x)^4`, and the density of a field is
  proportional to `exp(-S)`.

  Attributes:
    mass_squared: Coefficient of the squares; may be negative.
    coupling: Coefficient of the fourth powers, positive.
  """

  mass_squared: float = -4.0
  coupling: float = 8.0

  def log_prob(self, field: tf.Tensor) -> tf.Tensor:
    """Returns `-S` of fields `[..., L, L, 1]`: `[...]`."""
    neighbors = sum(
      tf.roll(field, shift, axis) for axis in (-3, -2) for shift in (-1, 1)
    )
    square = field**2
    density = field * (4 * field - neighbors) + square * (
      self.mass_squared + self.coupling * square
    )
    return -tf.reduce_sum(density, axis=[-3, -2, -1])


def magnetization(fields: np.ndarray) -> np.ndarray:
  """Returns the mean of each field `[..., L, L, 1]`: `[...]`."""
  return np.mean(fields, axis=(-3, -2, -1))


def autocorrelation_time(chain: np.ndarray) -> float:
  """Returns the integrated autocorrelation time of a chain, in its steps.

  `tau = 1 / 2 + sum_t rho(t)` over a window that is 5 times as long as `tau`
  (Wolff, 2004). Independent samples have 1 / 2.

  Args:
    chain: `[N]`, or `[N, M]` of `M` independent chains.
  """
  chain = np.asarray(chain, np.float64).reshape(len(chain), -1)
  centered = chain - chain.mean()
  size = len(chain)
  power = np.abs(np.fft.rfft(centered, 2 * size, axis=0)) ** 2
  covariance = np.fft.irfft(power, axis=0)[:size].sum(1)
  covariance /= np.arange(size, 0, -1)
  if covariance[0] == 0:
    return 0.5
  tau = np.cumsum(covariance / covariance[0]) - 0.5
  windows = np.flatnonzero(np.arange(size) >= 5 * tau)
  return float(max(tau[windows[0] if len(windows) else -1], 0.5))


def mean_and_error(chain: np.ndarray) -> tuple[float, float]:
  """Returns the mean of chains and its standard error.

  The error is `sqrt(2 tau variance / N)`, with the autocorrelation time `tau`.

  Args:
    chain: `[N]`, or `[N, M]` of `M` independent chains.
  """
  tau = autocorrelation_time(chain)
  error = np.std(chain) * np.sqrt(2 * tau / np.size(chain))
  return float(np.mean(chain)), float(error)
