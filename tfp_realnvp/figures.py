"""Matplotlib figures of densities of vectors.

Needs Matplotlib, which `pip install 'tfp_realnvp[examples]'` installs.
"""

from matplotlib import figure
import numpy as np
import tensorflow_probability as tfp

tfd = tfp.distributions

__all__ = ['mapping']


def mapping(
  distribution: tfd.Distribution, rows: np.ndarray, num_lines: int = 13
) -> figure.Figure:
  """Draws figure 1 of the paper: data, latents and a grid in both spaces.

  Args:
    distribution: `tfd.TransformedDistribution` of vectors of two elements.
    rows: Data, `[N, 2]`.
    num_lines: Number of grid lines in each direction.

  Returns:
    A Matplotlib figure. The upper row shows data `x` and latents `f(x)`, the
    lower row samples `g(z)` and their latents `z`. The grid is straight in the
    latent space.
  """
  flow, prior = distribution.bijector, distribution.distribution
  along = np.linspace(-3, 3, 300)
  lines = [
    np.stack([along, np.full_like(along, tick)], axis=-1)
    for tick in np.linspace(-3, 3, num_lines)
  ]
  lines = np.stack(lines + [line[:, ::-1] for line in lines])
  curves = flow.forward(lines).numpy()
  z = prior.sample(len(rows), seed=[0, 0])
  data_space = (curves, rows.min(0), rows.max(0))
  latent_space = (lines, lines.min((0, 1)), lines.max((0, 1)))
  picture = figure.Figure(figsize=(8, 8), layout='constrained')
  for axes, points, (grid, low, high), title in zip(
    picture.subplots(2, 2).flat,
    (rows, flow.inverse(rows), flow.forward(z), z),
    (data_space, latent_space, data_space, latent_space),
    ('data $x$', '$z = f(x)$', '$x = g(z)$', 'prior $z$'),
  ):
    axes.scatter(*np.transpose(points), s=2)
    axes.plot(*grid.T, color='0.5', linewidth=0.6)
    margin = (high - low) / 10
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.set_title(title)
  return picture
