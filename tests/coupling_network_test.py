import numpy as np
import tensorflow as tf

import tfp_realnvp
from tfp_realnvp.networks import coupling_network


def test_seeds_follow_from_seed_and_index():
  seeds = [
    np.stack(
      coupling_network.split_seed(
        seed,
        tfp_realnvp.NetworkSpec(in_channels=1, out_channels=1, index=index),
        n=2,
      )
    )
    for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))
  ]
  np.testing.assert_array_equal(seeds[0], seeds[1])
  different = np.concatenate([seeds[0], *seeds[2:]])
  assert len({tuple(seed) for seed in different}) == 6


def test_inputs_have_the_dtype_of_the_activations():
  spec = tfp_realnvp.NetworkSpec(
    in_channels=1, out_channels=1, condition_size=2
  )
  network = coupling_network.CouplingNetwork(spec, compute_dtype='bfloat16')
  x, condition = network._inputs(tf.constant([[1.5]]), tf.zeros([1, 2]))
  assert x.dtype == condition.dtype == tf.bfloat16
  assert x.numpy().tolist() == [[1.5]]
