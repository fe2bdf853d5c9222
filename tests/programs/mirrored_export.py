"""Exports a model that a MirroredStrategy trains, and trains on."""

import sys

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
  tf.config.list_physical_devices('CPU')[0],
  [tf.config.LogicalDeviceConfiguration()] * 2,
)
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp
from tfp_realnvp import saved_model

strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
with strategy.scope():
  flow = flow_testing.chain((2,), num_couplings=2, seed=1)
  base = tfp.distributions.Sample(tfp.distributions.Normal(0.0, 1.0), 2)
  dist = tfp.distributions.TransformedDistribution(base, flow)
  model = tfp_realnvp.DensityEstimator(dist, num_levels=None)
  model.compile('sgd')
x = np.random.default_rng(0).normal(size=[8, 2]).astype(np.float32)
model.fit(x, batch_size=4, verbose=0)
expected = dist.log_prob(x)
saved_model.export_saved_model(dist, sys.argv[1], num_levels=None)
served = tf.saved_model.load(sys.argv[1]).signatures['log_prob']
for _ in range(2):
  np.testing.assert_allclose(
    served(x=tf.constant(x))['log_prob'], expected, rtol=1e-5
  )
  model.fit(x, batch_size=4, verbose=0)
