import numpy as np
import pytest
import tensorflow as tf

from tests import flow_testing
import tfp_realnvp


def _network(in_channels=2, out_channels=2, spec=None, **options):
  networks = tfp_realnvp.DenseNetworks(
    **({'hidden_units': (4,), 'seed': 0} | options)
  )
  return networks(
    tfp_realnvp.NetworkSpec(
      in_channels=in_channels, out_channels=out_channels, **(spec or {})
    )
  )


def test_dense_network_by_hand():
  net = _network(
    1, 1, {'dtype': tf.float64}, hidden_units=(2,), activation='relu'
  )
  net.kernels[0].assign([[1.0, -1.0]])
  net.kernels[1].assign([[3.0, 0.5], [5.0, 0.0]])
  net.biases[1].assign([1.0, 0.0])
  net.biases[0].assign([0.0, 0.0])
  shift, log_scale = net(tf.constant([[2.0], [-2.0]], tf.float64))
  np.testing.assert_allclose(shift, [[7.0], [11.0]])
  # raw / (1 + |raw| / 3)
  np.testing.assert_allclose(log_scale, [[1 / (1 + 1 / 3)], [0.0]])
  net.biases[1].assign([1.0, -1e30])
  _, log_scale = net(tf.constant([[2.0]], tf.float64))
  np.testing.assert_allclose(log_scale, [[-3.0]])


def test_parameters_of_another_coupling_are_one_tensor():
  spec = {'params_per_channel': 5, 'condition_size': 3}
  net = _network(0, 2, spec, hidden_units=())
  assert net.kernels[0].shape == (3, 10)
  np.testing.assert_allclose(
    net(tf.zeros([2, 0]), condition=tf.ones([2, 3])),
    tf.ones([2, 3]) @ net.kernels[0] + net.biases[0],
  )


def test_initial_values_are_uniform_and_those_of_the_last_layer_small():
  net = _network(100, 50, hidden_units=(400,))
  for values, limit in (
    (net.kernels[0], 0.1),
    (net.biases[0], 0.1),
    (net.kernels[1], 0.1 / 20),
    (net.biases[1], 0.1 / 20),
  ):
    largest = np.abs(values).max()
    assert 0.95 * limit < largest <= limit
    np.testing.assert_allclose(np.std(values), limit / np.sqrt(3), rtol=0.1)


def test_output_scale_of_0_starts_with_the_identity():
  for couplings in (
    tfp_realnvp.AffineCouplings(),
    tfp_realnvp.SplineCouplings(),
  ):
    flow = tfp_realnvp.RealNVPChain(
      (3,),
      networks=tfp_realnvp.DenseNetworks(output_scale=0.0),
      couplings=couplings,
    )
    x = tf.constant([[0.5, -1.0, 2.0]])
    np.testing.assert_allclose(flow.forward(x), x, rtol=1e-6)
    np.testing.assert_allclose(
      flow.forward_log_det_jacobian(x), [0.0], atol=1e-6
    )
  with pytest.raises(ValueError, match='`output_scale` .* got -1'):
    tfp_realnvp.DenseNetworks(output_scale=-1)


def test_activation():
  x = tf.constant([[0.5, -1.0]])
  for activation in ('tanh', tf.tanh):
    net = flow_testing.randomize(
      _network(2, 1, hidden_units=(3, 3), activation=activation)
    )
    y = x
    for kernel, bias in zip(net.kernels[:-1], net.biases):
      y = tf.tanh(y @ kernel + bias)
    y = y @ net.kernels[-1] + net.biases[-1]
    np.testing.assert_allclose(net(x)[0], y[:, :1], rtol=1e-5)
  none = _network(2, 1, hidden_units=())
  expected = x @ none.kernels[0] + none.biases[0]
  np.testing.assert_allclose(none(x)[0], expected[:, :1], rtol=1e-6)


def test_condition_matters_and_is_checked():
  net = flow_testing.randomize(_network(spec={'condition_size': 3}))
  x = tf.ones([2, 2])
  condition = tf.constant([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  shift, _ = net(x, condition=condition)
  assert np.abs(shift[0] - shift[1]).max() > 1e-3
  with pytest.raises(ValueError, match=r'`condition` must be \[..., 3\].*None'):
    net(x)
  with pytest.raises(ValueError, match='`condition` must be None.*shape'):
    _network()(x, condition=condition)


def test_couplings_get_seeds_of_their_own():
  networks = tfp_realnvp.DenseNetworks(seed=1)
  one, same, other = (
    networks(tfp_realnvp.NetworkSpec(in_channels=1, out_channels=1, index=i))
    for i in (0, 0, 1)
  )
  np.testing.assert_array_equal(one.kernels[0], same.kernels[0])
  assert np.any(one.kernels[0].numpy() != other.kernels[0].numpy())
