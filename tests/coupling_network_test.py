import tensorflow as tf

import tfp_realnvp
from tfp_realnvp.networks import coupling_network


def test_log_scale_is_bounded_by_the_magnitude():
  spec = tfp_realnvp.NetworkSpec(in_channels=1, out_channels=2)
  network = coupling_network.CouplingNetwork(spec, initial_magnitude=0.5)
  output = tf.constant([[1.0, 2.0, 100.0, -100.0]])
  shift, log_scale = network._shift_and_log_scale(output)
  assert shift.numpy().tolist() == [[1.0, 2.0]]
  assert log_scale.numpy().tolist() == [[0.5, -0.5]]
  assert network.scale_parameters == (network.magnitude,)
