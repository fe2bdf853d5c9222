"""Fits Real NVP to handwritten digits and draws samples beside them.

    python examples/digits.py

The digits ship with scikit-learn and have 8x8 pixels with 17 levels. Writes
digits.png to the current directory. Takes a few minutes on two CPU cores.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

import keras
import numpy as np
from sklearn import datasets
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp
from tfp_realnvp import visualization

tfd = tfp.distributions

SHAPE = (8, 8, 1)
NUM_LEVELS = 17
NUM_BLOCKS = 2
HIDDEN_CHANNELS = 32
NUM_EPOCHS = 16


def load_digits() -> tuple[np.ndarray, np.ndarray]:
  """Returns uint8 training images and held-out images."""
  images = datasets.load_digits().images[..., np.newaxis].astype(np.uint8)
  images = np.random.default_rng(0).permutation(images)
  return images[:1500], images[1500:]


def build_distribution() -> tfd.Distribution:
  """Returns a distribution of pixels on `[0, NUM_LEVELS)`."""
  flow = tfp_realnvp.RealNVPChain(
    SHAPE,
    num_scales=2,
    networks=tfp_realnvp.ResidualNetworks(
      num_blocks=NUM_BLOCKS, hidden_channels=HIDDEN_CHANNELS
    ),
    couplings=tfp_realnvp.AffineCouplings(
      batch_norm=tfp_realnvp.BatchNormOptions(lagged=True)
    ),
    logit_transform=tfp_realnvp.LogitTransform(NUM_LEVELS),
  )
  base = tfd.Sample(tfd.Normal(0.0, 1.0), sample_shape=SHAPE)
  return tfd.TransformedDistribution(base, flow)


def main() -> None:
  train, test = load_digits()
  dist = build_distribution()
  model = tfp_realnvp.DensityEstimator(
    dist,
    num_levels=NUM_LEVELS,
    l2_coefficient=5e-5,
    l2_variables=dist.bijector.scale_parameters,
    seed=0,
  )
  steps = NUM_EPOCHS * -(-len(train) // 64)
  rate = keras.optimizers.schedules.PolynomialDecay(1e-3, steps, 0.0)
  model.compile(keras.optimizers.Adam(rate, global_clipnorm=100.0))
  model.fit(train, batch_size=64, epochs=NUM_EPOCHS, verbose=2)

  # Moving statistics lag behind the weights. Compute them for the final ones.
  model.reestimate_statistics(train)
  metrics = model.evaluate(test, verbose=0, return_dict=True)
  print(f'Held-out images: {metrics["bits_per_dim"]:.3f} bits/dim.')

  samples = dist.sample(64, seed=0)
  grids = [
    visualization.image_grid(visualization.to_uint8(x, NUM_LEVELS), zoom=4)
    for x in (test[:64], samples)
  ]
  picture = visualization.side_by_side(*grids)
  tf.io.write_file('digits.png', tf.io.encode_png(picture))


if __name__ == '__main__':
  keras.utils.set_random_seed(0)
  main()
