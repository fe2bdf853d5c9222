r"""Estimates densities of vectors: two moons, tables, or your own CSV file.

    python examples/train_vectors.py --dataset=moons --model_dir=runs/moons
    python examples/train_vectors.py --dataset=breast_cancer \
      --model_dir=runs/breast_cancer
    python examples/train_vectors.py --dataset=csv --csv=table.csv \
      --model_dir=runs/table

Holds out a fifth of the rows for testing and a fifth for validation. Keeps the
weights with the best validation log-likelihood and prints the test
log-likelihood in nats, beside those of a Gaussian and of a Gaussian mixture
whose number of components is chosen on the validation rows. Writes the weights
to --model_dir, and for vectors of two elements mapping.png, which shows data,
latents and a grid in both spaces (figure 1).
"""

import pathlib

from absl import app
from absl import flags
import keras
from matplotlib import figure
import numpy as np
from sklearn import datasets
from sklearn import mixture
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions

# Tables with continuous columns that ship with scikit-learn.
_TABLES = {
  'breast_cancer': datasets.load_breast_cancer,
  'diabetes': datasets.load_diabetes,
  'iris': datasets.load_iris,
  'wine': datasets.load_wine,
}

FLAGS = flags.FLAGS

# Two moons have many rows and few columns. The tables have few rows and many
# columns, and need regularization more than a flexible flow.
_TOY = {
  'num_couplings': 8,
  'num_layers': 2,
  'hidden_size': 64,
  'batch_norm': False,
  'degrees_of_freedom': np.inf,
  'noise': 0.0,
  'weight_decay': 0.0,
  'learning_rate': 5e-3,
  'batch_size': 512,
  'num_steps': 5000,
}
_TABLE = {
  'num_couplings': 8,
  'num_layers': 1,
  'hidden_size': 32,
  'batch_norm': False,
  'degrees_of_freedom': 4.0,
  'noise': 0.2,
  'weight_decay': 0.5,
  'learning_rate': 2e-3,
  'batch_size': 64,
  'num_steps': 1500,
}
_NUM_VALIDATIONS = 20
_NUM_COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def define_flags() -> None:
  """Defines the flags. Importing the program does not define them."""
  flags.DEFINE_enum(
    'dataset',
    None,
    ['moons', *_TABLES, 'csv'],
    'Data set to train on: two moons, a table of scikit-learn, or --csv.',
    required=True,
  )
  flags.DEFINE_string(
    'csv',
    None,
    'Path of a comma-separated table of numbers with a header line.',
  )
  flags.DEFINE_string(
    'model_dir', None, 'Directory to write the results to.', required=True
  )
  flags.DEFINE_boolean(
    'batch_norm', None, 'Whether batch normalization follows each coupling.'
  )
  for name, help_text in {
    'num_couplings': 'Number of couplings.',
    'num_layers': 'Number of hidden layers of each network.',
    'hidden_size': 'Number of units of each hidden layer.',
    'batch_size': 'Number of rows per step.',
    'num_steps': 'Number of steps. The learning rate decays to 0.',
  }.items():
    flags.DEFINE_integer(name, None, help_text, lower_bound=1)
  for name, help_text in {
    'degrees_of_freedom': "Degrees of freedom of Student's t-distribution of "
    'the latents. Infinity gives the normal distribution.',
    'noise': 'Standard deviation of the noise added to training rows, relative '
    'to that of the rows.',
    'weight_decay': 'Weight decay of AdamW.',
    'learning_rate': 'Initial learning rate of AdamW.',
  }.items():
    flags.DEFINE_float(name, None, help_text, lower_bound=0)
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the split, the weights, the noise and the two moons.'
  )


def load_rows(
  dataset: str, csv: str | None = None, seed: int = 0
) -> np.ndarray:
  """Returns the rows of a data set, float `[N, D]`.

  Args:
    dataset: Value of --dataset.
    csv: Path of the table if `dataset` is 'csv'.
    seed: Seed of the two moons.

  Raises:
    SystemExit: If the table cannot be read, or a value is not a finite number.
  """
  if dataset == 'moons':
    return datasets.make_moons(50_000, noise=0.07, random_state=seed)[0]
  if dataset != 'csv':
    return _TABLES[dataset]().data
  try:
    rows = np.genfromtxt(csv, delimiter=',', skip_header=1, ndmin=2)
  except (OSError, TypeError, ValueError) as error:
    raise SystemExit(f'--csv={csv} cannot be read: {error}') from error
  if len(rows) < 10 or rows.shape[1] < 2:
    raise SystemExit(
      f'--csv={csv} must have at least 10 rows and 2 columns, got shape '
      f'{rows.shape}.'
    )
  bad = np.argwhere(~np.isfinite(rows))
  if len(bad):
    line, column = bad[0] + (2, 1)
    raise SystemExit(
      f'--csv={csv}: line {line}, column {column} is not a finite number.'
    )
  return rows


def split(
  rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Shuffles rows and splits them into training (3/5), validation and test."""
  rows = np.random.default_rng(seed).permutation(rows).astype(np.float64)
  fifth = len(rows) // 5
  return rows[2 * fifth :], rows[:fifth], rows[fifth : 2 * fifth]


def whitening(rows: np.ndarray) -> tfb.Bijector:
  """Returns the affine bijector from whitened rows to rows.

  Whitened rows have mean zero and identity covariance. Exits the program if the
  covariance of the rows is singular.
  """
  mean, scale = rows.mean(0), rows.std(0)
  if not np.all(scale > 0):
    raise SystemExit(
      f'Column {np.argmin(scale) + 1} is constant, so there is no density.'
    )
  correlation = np.cov(((rows - mean) / scale).T, bias=True)
  if np.linalg.eigvalsh(correlation)[0] < 1e-9:
    raise SystemExit(
      'Some columns are linear functions of others, so there is no density.'
    )
  factor = scale[:, np.newaxis] * np.linalg.cholesky(correlation)
  return tfb.Chain([tfb.Shift(mean), tfb.ScaleMatvecTriL(factor)])


def build_distribution(whiten: tfb.Bijector) -> tfd.Distribution:
  """Builds Real NVP followed by the affine bijector `whiten`.

  The couplings then model whitened rows, which is easier to learn, and
  `log_prob` is still the density of the rows themselves.
  """
  (size,) = whiten.bijectors[0].shift.shape
  flow = tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=FLAGS.num_couplings,
    networks=tfp_realnvp.DenseNetworks(
      hidden_units=(FLAGS.hidden_size,) * FLAGS.num_layers, seed=FLAGS.seed
    ),
    couplings=tfp_realnvp.AffineCouplings(
      batch_norm=tfp_realnvp.BatchNormOptions() if FLAGS.batch_norm else None
    ),
    dtype=tf.float64,
  )
  zero, one = tf.constant([0.0, 1.0], tf.float64)
  prior = tfd.Normal(zero, one)
  if np.isfinite(FLAGS.degrees_of_freedom):
    prior = tfd.StudentT(FLAGS.degrees_of_freedom * one, zero, one)
  return tfd.TransformedDistribution(
    tfd.Sample(prior, sample_shape=[size]), tfb.Chain([whiten, flow])
  )


def fit(
  distribution: tfd.Distribution,
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
) -> tfp_realnvp.DensityEstimator:
  """Trains the distribution and keeps the weights of the best validation."""
  model = tfp_realnvp.DensityEstimator(
    distribution, num_levels=None, seed=FLAGS.seed
  )
  model.compile(
    keras.optimizers.AdamW(
      keras.optimizers.schedules.CosineDecay(
        FLAGS.learning_rate, FLAGS.num_steps
      ),
      weight_decay=FLAGS.weight_decay,
      global_clipnorm=100.0,
    )
  )

  def blur(step: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_normal(
      tf.shape(rows), [FLAGS.seed, step], dtype=rows.dtype
    )
    noise = whiten.forward(FLAGS.noise * noise) - whiten.forward(0 * noise)
    return rows + noise

  rows = tf.data.Dataset.from_tensor_slices(train)
  rows = rows.shuffle(len(train), FLAGS.seed).repeat().batch(FLAGS.batch_size)
  model.fit(
    rows.enumerate().map(blur),
    steps_per_epoch=-(-FLAGS.num_steps // _NUM_VALIDATIONS),
    epochs=_NUM_VALIDATIONS,
    shuffle=False,
    validation_data=tf.data.Dataset.from_tensors(validation),
    callbacks=[
      keras.callbacks.EarlyStopping(
        'val_loss', patience=_NUM_VALIDATIONS, restore_best_weights=True
      )
    ],
    verbose=2,
  )
  return model


def gaussian_mixtures(
  whiten: tfb.Bijector,
  train: np.ndarray,
  validation: np.ndarray,
  test: np.ndarray,
  seed: int,
) -> tuple[float, float, int]:
  """Fits Gaussian mixtures to whitened rows, for numerical accuracy.

  Returns:
    gaussian: Mean log-likelihood of the test rows under one Gaussian, in nats.
    best: The same under the mixture that is best on the validation rows.
    num_components: Number of components of that mixture.
  """
  log_det = whiten.forward_log_det_jacobian(train[:1], event_ndims=1)
  whitened = [whiten.inverse(x).numpy() for x in (train, validation, test)]
  scores = {}
  for count in _NUM_COMPONENTS:
    if count * train.shape[1] > len(train):
      break
    fitted = mixture.GaussianMixture(
      count, reg_covar=1e-6, n_init=3, random_state=seed
    )
    fitted.fit(whitened[0])
    scores[count] = [fitted.score(x) - float(log_det) for x in whitened[1:]]
  best = max(scores, key=lambda count: scores[count][0])
  return scores[1][1], scores[best][1], best


def draw_mapping(
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


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  for name, value in (_TOY if FLAGS.dataset == 'moons' else _TABLE).items():
    if FLAGS[name].value is None:
      FLAGS[name].value = value
  keras.utils.set_random_seed(FLAGS.seed)
  rows = load_rows(FLAGS.dataset, FLAGS.csv, FLAGS.seed)
  train, validation, test = split(rows, FLAGS.seed)
  whiten = whitening(train)
  model_dir = pathlib.Path(FLAGS.model_dir)
  try:
    model_dir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise SystemExit(
      f'--model_dir={model_dir} cannot be written: {error}'
    ) from error
  distribution = build_distribution(whiten)
  model = fit(distribution, whiten, train, validation)
  model.save_weights(model_dir / 'model.weights.h5')
  if rows.shape[1] == 2:
    draw_mapping(distribution, test[:2000]).savefig(model_dir / 'mapping.png')
  log_prob = tf.function(distribution.log_prob)(test).numpy()
  gaussian, best, count = gaussian_mixtures(
    whiten, train, validation, test, FLAGS.seed
  )
  print(
    f'Mean log-likelihood of {len(test)} held-out rows of {rows.shape[1]} '
    f'columns, in nats: Real NVP {log_prob.mean():.3f} '
    f'(standard error {log_prob.std() / len(test) ** 0.5:.3f}), '
    f'Gaussian {gaussian:.3f}, mixture of {count} Gaussians {best:.3f}.'
  )


if __name__ == '__main__':
  define_flags()
  app.run(main)
