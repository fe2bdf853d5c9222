"""Fits Real NVP to two moons and plots samples beside the data.

    python examples/vectors.py

Writes moons.png to the current directory. Takes half a minute on two CPU cores.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

import keras
from matplotlib import figure
import numpy as np
from sklearn import datasets
import tensorflow_probability as tfp

import tfp_realnvp

tfd = tfp.distributions

NUM_ROWS = 20_000
NUM_EPOCHS = 100


def main() -> None:
  rows, _ = datasets.make_moons(NUM_ROWS, noise=0.07, random_state=0)
  rows = rows.astype(np.float32)
  train, test = rows[NUM_ROWS // 10 :], rows[: NUM_ROWS // 10]

  flow = tfp_realnvp.RealNVPChain((2,), num_couplings=8)
  base = tfd.MultivariateNormalDiag([0.0, 0.0])
  dist = tfd.TransformedDistribution(base, flow)

  # `num_levels=None` is for continuous data. Pixels would be dequantized.
  model = tfp_realnvp.DensityEstimator(dist, num_levels=None, seed=0)
  steps = NUM_EPOCHS * -(-len(train) // 512)
  rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
  model.compile(keras.optimizers.Adam(rate, global_clipnorm=100.0))
  model.fit(train, batch_size=512, epochs=NUM_EPOCHS, verbose=2)
  metrics = model.evaluate(test, verbose=0, return_dict=True)
  print(f'Log-likelihood of held-out rows: {-metrics["loss"]:.3f} nats.')

  samples = dist.sample(len(test), seed=0)
  picture = figure.Figure(figsize=(8, 4), layout='constrained')
  for axes, points, title in zip(
    picture.subplots(1, 2, sharex=True, sharey=True),
    (test, samples),
    ('data', 'samples'),
  ):
    axes.scatter(*np.transpose(points), s=2)
    axes.set_title(title)
  picture.savefig('moons.png')


if __name__ == '__main__':
  keras.utils.set_random_seed(0)
  main()
