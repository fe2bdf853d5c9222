"""Computes the values and gradients of a network for empty batches."""

import numpy as np
import tensorflow as tf

import tfp_realnvp

norm = tfp_realnvp.BatchNormOptions(synchronized=True)
networks = tfp_realnvp.ResidualNetworks(
  hidden_channels=4, num_blocks=1, batch_norm=norm
)
net = networks(tfp_realnvp.NetworkSpec(in_channels=2, out_channels=3))


@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 2])])
def gradients(x):
  with tf.GradientTape() as tape:
    loss = sum(map(tf.reduce_sum, net(x)))
  return tape.gradient(loss, net.trainable_variables)


for value in net(tf.zeros([0, 4, 4, 2])):
  assert value.shape == (0, 4, 4, 3)
for gradient in gradients(tf.zeros([0, 4, 4, 2])):
  np.testing.assert_array_equal(gradient, 0)
one, two = (
  gradients(tf.random.stateless_normal([n, 4, 4, 2], [0, 1])) for n in (1, 2)
)
assert np.any(one[0] != 0) and np.any(one[0] != two[0])
