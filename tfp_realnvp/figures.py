"""Matplotlib figures of densities of vectors.

Needs Matplotlib, which `pip install 'tfp_realnvp[examples]'` installs.
"""

from collections.abc import Sequence

from matplotlib import figure
import numpy as np
import tensorflow_probability as tfp

from tfp_realnvp import diagnostics

tfd = tfp.distributions

__all__ = ['corner', 'lattice_fields', 'mapping', 'rank_histograms']

_LABELS = ('samples', 'reference')


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


def corner(
  samples: np.ndarray,
  names: Sequence[str],
  reference: np.ndarray | None = None,
  labels: Sequence[str] = _LABELS,
) -> figure.Figure:
  """Draws samples of each element, and of each pair of elements.

  Args:
    samples: `[N, D]`.
    names: Names of the elements.
    reference: Other samples, `[M, D]`, to compare with.
    labels: What to call `samples` and `reference` in the title.

  Returns:
    A Matplotlib figure of D x D panels. The diagonal has histograms of the
    elements, the lower triangle those of pairs. The upper triangle has the
    pairs of `reference`; it is empty without.
  """
  size = samples.shape[1]
  sets = [samples] if reference is None else [samples, reference]
  low, high = np.quantile(np.concatenate(sets), [0.002, 0.998], axis=0)
  margin = 0.1 * (high - low)
  limits = np.stack([low - margin, high + margin], axis=1)
  side = 1.2 + 1.8 * size
  picture = figure.Figure(figsize=(side, side), layout='constrained')
  panels = picture.subplots(size, size, squeeze=False)
  for (row, column), axes in np.ndenumerate(panels):
    is_upper = column > row
    if row == column:
      for points, color in zip(sets, ('tab:blue', 'tab:orange')):
        axes.hist(
          points[:, row],
          bins=60,
          range=limits[row],
          density=True,
          histtype='step',
          color=color,
        )
    elif is_upper and reference is None:
      axes.set_axis_off()
      continue
    else:
      points = reference if is_upper else samples
      axes.hist2d(
        points[:, column],
        points[:, row],
        bins=60,
        range=limits[[column, row]],
        cmin=1,  # Empty squares are white.
        cmap='Oranges' if is_upper else 'Blues',
      )
      axes.set_ylim(*limits[row])
    axes.set_xlim(*limits[column])
    if row == size - 1:
      axes.set_xlabel(names[column])
    else:
      axes.set_xticklabels([])
    if column == 0 and row > 0:
      axes.set_ylabel(names[row])
    else:
      axes.set_yticks([])
  title = f'{labels[0]} (blue)'
  if reference is not None:
    title += f', {labels[1]} (orange)'
  picture.suptitle(title)
  return picture


def lattice_fields(
  samples: np.ndarray,
  reference: np.ndarray,
  num_fields: int = 4,
  labels: Sequence[str] = _LABELS,
) -> figure.Figure:
  """Draws fields on a lattice, and histograms of their means.

  Args:
    samples: `[..., L, L, 1]`.
    reference: Other samples to compare with, of such a shape.
    num_fields: How many fields of each set to draw, far from each other.
    labels: What to call `samples` and `reference`.

  Returns:
    A Matplotlib figure: fields of `samples` in the first row, of `reference` in
    the second, and histograms of both on the right.
  """
  sets = [x.reshape(-1, *x.shape[-3:])[..., 0] for x in (samples, reference)]
  limit = np.quantile(np.abs(sets[1]), 0.999)
  picture = figure.Figure(
    figsize=(2 * num_fields + 4, 4.4), layout='constrained'
  )
  grid = picture.add_gridspec(2, num_fields + 2)
  means = picture.add_subplot(grid[:, num_fields:])
  largest = max(np.abs(fields.mean((1, 2))).max() for fields in sets)
  bins = np.linspace(-largest, largest, 61)
  for row, (fields, name) in enumerate(zip(sets, labels)):
    means.hist(
      fields.mean((1, 2)), bins, density=True, histtype='step', label=name
    )
    for column in range(num_fields):
      axes = picture.add_subplot(grid[row, column])
      field = fields[column * len(fields) // num_fields]
      image = axes.imshow(field, cmap='RdBu_r', vmin=-limit, vmax=limit)
      axes.set_xticks([])
      axes.set_yticks([])
      if column == 0:
        axes.set_ylabel(name)
  means.set_xlabel('mean of the field')
  means.legend()
  picture.colorbar(image, ax=means, label='field')
  return picture


def rank_histograms(
  ranks: np.ndarray,
  num_draws: int,
  names: Sequence[str],
  num_bins: int = 20,
  num_columns: int = 4,
) -> figure.Figure:
  """Draws histograms of the ranks of simulation-based calibration.

  Args:
    ranks: int `[N, D]`, see `diagnostics.ranks`.
    num_draws: How many draws the ranks refer to.
    names: Names of the parameters.
    num_bins: Number of bars, a divisor of `num_draws + 1`.
    num_columns: Number of panels in a row.

  Returns:
    A Matplotlib figure with a panel for each parameter. A bar of uniform ranks
    is within the grey band with a probability of 99 %. High bars at both ends
    mean that the posterior is too narrow, a hill that it is too wide, a slope
    that it is shifted.
  """
  counts = diagnostics.count_ranks(ranks, num_draws, num_bins)
  low, high = diagnostics.ranks_band(len(ranks), num_bins)
  size = len(names)
  columns = min(size, num_columns)
  rows = -(-size // columns)
  picture = figure.Figure(
    figsize=(3 * columns, 2.4 * rows + 0.4), layout='constrained'
  )
  panels = picture.subplots(rows, columns, squeeze=False, sharey=True)
  width = (num_draws + 1) / num_bins
  for axes in panels.flat[size:]:
    axes.set_axis_off()
  for axes, heights, name in zip(panels.flat, counts.T, names):
    axes.axhspan(low, high, color='0.6', alpha=0.4, zorder=3)
    axes.axhline(len(ranks) / num_bins, color='0.4', linewidth=0.8, zorder=3)
    axes.bar(
      width * np.arange(num_bins) - 0.5,
      heights,
      width=0.9 * width,
      align='edge',
    )
    axes.set_xlim(-0.5, num_draws + 0.5)
    axes.set_title(name)
    axes.set_xlabel('rank')
  picture.supylabel('simulations')
  return picture
