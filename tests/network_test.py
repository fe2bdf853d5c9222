import numpy as np
import pytest
import tensorflow as tf

from tests import flow_testing
from tfp_realnvp import mask as mask_lib
from tfp_realnvp import network


def _reference(net, x, mask):
  """The residual network in evaluation, from its variables in NumPy terms."""

  def convolve(convolution, x):
    kernel = convolution.kernel.numpy()
    kernel /= np.sqrt((kernel**2).sum((0, 1, 2)))
    if convolution.magnitude is not None:
      kernel *= convolution.magnitude.numpy()
    y = np.zeros(x.shape[:3] + kernel.shape[3:])
    size = kernel.shape[0]
    reach = size // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    for dy in range(size):
      for dx in range(size):
        window = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
        y += window @ kernel[dy, dx]
    return y + (0 if convolution.bias is None else convolution.bias.numpy())

  def normalize(norm, x):
    mean, variance = norm.statistics.mean, norm.statistics.variance
    return (x - mean) / np.sqrt(variance + 1e-4) + norm.offset

  def relu(x):
    return np.maximum(x, 0)

  x = normalize(net.input_norm, x)
  plane = np.broadcast_to(mask, x.shape[:3] + (1,))
  x = convolve(net.input_convolution, relu(np.concatenate([x, -x, plane], -1)))
  skip_sum = convolve(net.skips[0], x)
  for block, skip in zip(net.blocks, net.skips[1:]):
    y = x
    for norm, convolution in zip(block.norms, block.convolutions):
      y = convolve(convolution, relu(normalize(norm, y)))
    x = x + y
    skip_sum = skip_sum + convolve(skip, x)
  y = relu(normalize(net.output_norm, skip_sum))
  shift, raw = np.split(convolve(net.output_convolution, y), 2, axis=-1)
  return shift, net.magnitude.numpy() * np.tanh(raw)


def test_residual_network_against_numpy():
  net = network.ResidualNetwork(
    2, 3, 4, 2, mask=mask_lib.checkerboard_mask, dtype=tf.float64
  )
  flow_testing.randomize(net)
  x = np.random.default_rng(1).normal(size=[2, 5, 6, 2])
  shift, log_scale = net(tf.constant(x))
  expected = _reference(net, x, mask_lib.checkerboard_mask((5, 6, 2)))
  np.testing.assert_allclose(shift, expected[0], atol=1e-10)
  np.testing.assert_allclose(log_scale, expected[1], atol=1e-10)


@pytest.mark.parametrize('lagged', [False, True])
def test_batch_norm_in_training_normalizes_and_moves_once(lagged):
  x = np.random.default_rng(0).normal(3, 2, [4, 5, 6, 3])
  mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
  for dtype, tolerance in ((tf.float32, 1e-4), (tf.float64, 1e-9)):
    norm = network._BatchNorm(3, 0.9, lagged, dtype)
    norm.offset.assign([1.0, 2.0, 3.0])
    y = norm(tf.constant(x, dtype), training=True)
    expected = (x - mean) / np.sqrt(variance + 1e-4) + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(y, expected, atol=tolerance)
    np.testing.assert_allclose(norm.statistics.mean, mean, rtol=tolerance)
    np.testing.assert_allclose(
      norm.statistics.variance, variance, rtol=tolerance
    )
    assert norm.statistics.num_updates == 1
    again = norm(tf.constant(x, dtype), training=False)
    np.testing.assert_allclose(again, y, atol=tolerance)


def test_bfloat16_activations_leave_the_rest_in_float32():
  kwargs = {'hidden_channels': 8, 'num_blocks': 1, 'seed': 3}
  exact = network.ResidualNetwork(2, 2, **kwargs)
  net = network.ResidualNetwork(2, 2, compute_dtype=tf.bfloat16, **kwargs)
  x = tf.random.stateless_normal([4, 8, 8, 2], [0, 1])
  for training in (True, False):
    for value, expected in zip(
      net(x, training=training), exact(x, training=training)
    ):
      assert value.dtype == tf.float32
      np.testing.assert_allclose(value, expected, atol=0.15)
      assert np.any(value != expected)
  assert {v.dtype for v in net.variables} == {tf.float32}


def test_same_seed_same_weights():
  one, same, other = (
    network.ResidualNetwork(1, 1, 2, 1, seed=seed) for seed in (1, 1, 2)
  )
  for a, b, c in zip(*(n.trainable_variables for n in (one, same, other))):
    np.testing.assert_array_equal(a, b)
    if 'kernel' in a.name:
      assert np.any(a.numpy() != c.numpy())


def test_dense_network_by_hand():
  net = network.DenseNetwork(1, 1, 2, 1, dtype=tf.float64)
  net.kernels[0].assign([[1.0, -1.0]])
  net.kernels[1].assign([[3.0, 0.5], [5.0, 0.0]])
  net.biases[1].assign([1.0, 0.0])
  net.magnitude.assign(2.0)
  shift, log_scale = net(tf.constant([[2.0], [-2.0]], tf.float64))
  np.testing.assert_allclose(shift, [[7.0], [11.0]])
  np.testing.assert_allclose(log_scale, [[2 * np.tanh(1.0)], [0.0]])


@pytest.mark.parametrize('cls', [network.ResidualNetwork, network.DenseNetwork])
def test_condition_matters_and_is_checked(cls):
  net = flow_testing.randomize(cls(2, 2, 4, 1, condition_size=3, seed=0))
  shape = [2, 4, 4, 2] if cls is network.ResidualNetwork else [2, 2]
  x = tf.ones(shape)
  condition = tf.constant([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  shift, _ = net(x, condition=condition)
  assert np.abs(shift[0] - shift[1]).max() > 1e-3
  with pytest.raises(ValueError, match=r'`condition` must be \[..., 3\].*None'):
    net(x)
  with pytest.raises(ValueError, match=r'`condition` must be.*shape \(2, 2\)'):
    net(x, condition=condition[:, :2])
  with pytest.raises(ValueError, match='`condition` must be None.*shape'):
    cls(2, 2, 4, 1)(x, condition=condition)


def test_errors_name_the_argument_and_show_the_value():
  with pytest.raises(ValueError, match='`num_blocks` must be .* got 0'):
    network.ResidualNetwork(2, 2, num_blocks=0)
  with pytest.raises(ValueError, match='`hidden_size` must be .* got 1.5'):
    network.DenseNetwork(2, 2, hidden_size=1.5)
