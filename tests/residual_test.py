import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import flow_testing
from tests import program_testing
import tfp_realnvp
from tfp_realnvp.bijectors import mask as mask_lib


def _network(in_channels=2, out_channels=2, spec=None, **options):
  networks = tfp_realnvp.ResidualNetworks(
    **({'hidden_channels': 4, 'num_blocks': 1, 'seed': 0} | options)
  )
  return networks(
    tfp_realnvp.NetworkSpec(
      in_channels=in_channels, out_channels=out_channels, **(spec or {})
    )
  )


def _reference(net, x, mask):
  """The residual network in evaluation, as section 4.1 has it, in NumPy."""

  def convolve(x, kernel, magnitude=1.0):
    kernel = kernel.numpy()
    kernel = kernel / np.sqrt((kernel**2).sum((0, 1, 2))) * magnitude
    y = np.zeros(x.shape[:3] + kernel.shape[3:])
    reach = kernel.shape[0] // 2
    padded = np.pad(x, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
    for dy in range(kernel.shape[0]):
      for dx in range(kernel.shape[1]):
        window = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
        y += window @ kernel[dy, dx]
    return y

  def normalize(x, offset, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-4) + offset

  def relu(x):
    return np.maximum(x, 0)

  norms = iter(zip(net.offsets, net.statistics.mean, net.statistics.variance))
  skips = list(zip(net.skip_kernels, net.skip_magnitudes))
  statistics = net.input_statistics
  x = normalize(x, net.input_offset, statistics.mean, statistics.variance)
  plane = np.broadcast_to(mask, x.shape[:3] + (1,))
  x = convolve(relu(np.concatenate([x, -x, plane], -1)), net.input_kernel)
  skip_sum = convolve(x, *skips[0])
  for i, skip in enumerate(skips[1:]):
    y = convolve(relu(normalize(x, *next(norms))), net.first_kernels[i])
    y = relu(normalize(y, *next(norms)))
    x = x + convolve(y, net.second_kernels[i], net.second_magnitudes[i])
    skip_sum = skip_sum + convolve(x, *skip)
  y = relu(normalize(skip_sum, *next(norms)))
  y = convolve(y, net.output_kernel, net.output_magnitude) + net.output_bias
  shift, raw = np.split(y, 2, axis=-1)
  return shift, net.magnitude.numpy() * np.tanh(raw)


def test_residual_network_against_numpy():
  spec = {'mask': mask_lib.checkerboard_mask, 'dtype': tf.float64}
  net = _network(2, 3, spec, num_blocks=2)
  flow_testing.randomize(net)
  x = np.random.default_rng(1).normal(size=[2, 5, 6, 2])
  shift, log_scale = net(tf.constant(x))
  expected = _reference(net, x, mask_lib.checkerboard_mask((5, 6, 2)))
  np.testing.assert_allclose(shift, expected[0], atol=1e-10)
  np.testing.assert_allclose(log_scale, expected[1], atol=1e-10)


@pytest.mark.parametrize('recompute', [False, True])
def test_training_moves_the_statistics_of_every_layer_once(recompute):
  net = _network(1, 1, num_blocks=2, recompute=recompute)
  x = tf.random.stateless_normal([8, 6, 6, 1], [0, 1], mean=5.0)
  with tf.GradientTape() as tape:
    trained = net(x, training=True)
    loss = tf.reduce_sum(trained[0] + trained[1])
  assert None not in tape.gradient(loss, net.trainable_variables)
  assert net.input_statistics.num_updates == net.statistics.num_updates == 1
  # After one batch its statistics are the moving ones, of every layer.
  np.testing.assert_allclose(net(x), trained, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['eager', 'graph', 'xla'])
@pytest.mark.parametrize('lagged', [False, True])
def test_recomputation_changes_no_gradient_and_no_average(lagged, mode):
  wrap = {
    'eager': lambda f: f,
    'graph': tf.function,
    'xla': tf.function(jit_compile=True),
  }[mode]
  x = tf.random.stateless_normal([4, 6, 6, 3], [0, 1])
  condition = tf.random.stateless_normal([4, 2], [0, 2])
  results = []
  for recompute in (False, True):
    net = flow_testing.randomize(
      _network(
        3,
        3,
        {'condition_size': 2, 'mask': mask_lib.checkerboard_mask},
        hidden_channels=8,
        num_blocks=2,
        batch_norm=tfp_realnvp.BatchNormOptions(lagged=lagged),
        recompute=recompute,
      )
    )

    def gradients(net=net):
      with tf.GradientTape() as tape:
        tape.watch([x, condition])
        shift, log_scale = net(x, condition, training=True)
        loss = tf.reduce_sum(shift**2 + 3 * log_scale)
      return tape.gradient(loss, [x, condition, *net.trainable_variables])

    results.append([*wrap(gradients)(), *net.non_trainable_variables])
  for kept, recomputed in zip(*results):
    scale = np.abs(kept).max()
    np.testing.assert_allclose(recomputed, kept, atol=1e-5 * scale)
  # XLA makes two programs, which may add up in other orders (TensorFlow 2.18).
  rtol = 1e-6 if mode == 'xla' else 0
  for kept, recomputed in zip(*(result[-6:] for result in results)):
    np.testing.assert_allclose(recomputed, kept, rtol=rtol)


def test_recomputation_runs_each_convolution_once_more():
  def gradients(net, x):
    with tf.GradientTape() as tape:
      shift, log_scale = net(x, training=True)
      loss = tf.reduce_sum(shift + log_scale)
    return tape.gradient(loss, net.trainable_variables)

  counts = []
  for recompute in (False, True):
    net = _network(3, 3, hidden_channels=8, num_blocks=2, recompute=recompute)
    function = functools.partial(gradients, net)
    x = tf.ones([2, 4, 4, 3])
    counts.append(flow_testing.count_ops(function, x)['Conv2D'])
  # Of the input, two blocks with two and a skip each, the output.
  assert counts == [8, 16]


def test_bfloat16_activations_leave_the_rest_in_float32():
  kwargs = {'hidden_channels': 8, 'seed': 3}
  exact = _network(**kwargs)
  net = _network(compute_dtype=tf.bfloat16, **kwargs)
  x = tf.random.stateless_normal([4, 8, 8, 2], [0, 1])
  for training in (True, False):
    for value, expected in zip(
      net(x, training=training), exact(x, training=training)
    ):
      assert value.dtype == tf.float32
      np.testing.assert_allclose(value, expected, atol=0.15)
      assert np.any(value != expected)
  assert {v.dtype for v in net.variables} == {tf.float32}


@pytest.mark.slow
@pytest.mark.parametrize('use_onednn', ['0', '1'])
def test_empty_batches(use_onednn):
  environment = program_testing.environment() | {
    'TF_ENABLE_ONEDNN_OPTS': use_onednn
  }
  program_testing.run_program('empty_batches', env=environment, check=True)


def test_same_seed_same_weights():
  one, same, other = (
    _network(1, 1, hidden_channels=2, seed=seed) for seed in (1, 1, 2)
  )
  for a, b, c in zip(*(n.trainable_variables for n in (one, same, other))):
    np.testing.assert_array_equal(a, b)
    if 'kernel' in a.name:
      assert np.any(a.numpy() != c.numpy())


def test_condition_matters_and_is_checked():
  net = flow_testing.randomize(_network(spec={'condition_size': 3}))
  x = tf.ones([2, 4, 4, 2])
  condition = tf.constant([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
  shift, _ = net(x, condition=condition)
  assert np.abs(shift[0] - shift[1]).max() > 1e-3
  with pytest.raises(ValueError, match=r'`condition` must be \[..., 3\].*None'):
    net(x)
  with pytest.raises(ValueError, match=r'`condition` must be.*shape \(2, 2\)'):
    net(x, condition=condition[:, :2])
  with pytest.raises(ValueError, match='`condition` must be None.*shape'):
    _network()(x, condition=condition)


def test_periodic_padding_moves_with_the_image():
  net = flow_testing.randomize(_network(padding='periodic'))
  x = tf.random.stateless_normal([2, 6, 5, 2], [0, 1])
  roll = lambda value: tf.roll(value, [2, -1], axis=[1, 2])
  for value, rolled in zip(net(x), net(roll(x))):
    np.testing.assert_allclose(rolled, roll(value), atol=1e-5)
  zeros = flow_testing.randomize(_network())
  assert np.abs(zeros(roll(x))[0] - roll(zeros(x)[0])).max() > 1e-3


def test_without_batch_norm_training_changes_nothing():
  net = flow_testing.randomize(_network(batch_norm=None))
  assert not net.non_trainable_variables
  x = tf.random.stateless_normal([3, 4, 4, 2], [0, 1], mean=3.0)
  for value, trained in zip(net(x), net(x, training=True)):
    np.testing.assert_array_equal(value, trained)
  alone = net(x[:1])
  np.testing.assert_allclose(alone[0][0], net(x)[0][0], atol=1e-5)


def test_a_factory_prints_as_it_is_written():
  networks = tfp_realnvp.ResidualNetworks(num_blocks=2, padding='periodic')
  text = repr(networks)
  assert eval(text, vars(tfp_realnvp)) == networks
  assert 'num_blocks=2' in text and "padding='periodic'" in text
