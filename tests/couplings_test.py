import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfd = tfp.distributions

_NORM = tfp_realnvp.BatchNormOptions(momentum=0.5)


def _masks(size, **kwargs):
  flow = tfp_realnvp.RealNVPChain(
    (size,), couplings=tfp_realnvp.AffineCouplings(**kwargs)
  )
  return np.stack([coupling.mask for coupling in flow.bijectors])


def test_halves_alternate():
  first = [True, True, False, False, False]
  expected = [first, np.logical_not(first)] * 4
  np.testing.assert_array_equal(_masks(5), expected)


def test_permuted_masks_come_in_pairs():
  masks = _masks(30, permutation_seed=0)
  np.testing.assert_array_equal(masks[::2], ~masks[1::2])
  assert {mask.sum() for mask in masks} == {15}
  assert len({tuple(mask) for mask in masks}) == 8
  np.testing.assert_array_equal(masks, _masks(30, permutation_seed=0))
  assert np.any(masks != _masks(30, permutation_seed=1))


@pytest.mark.parametrize(
  'shape, batch_norm', [((4, 4, 1), True), ((4,), False)]
)
def test_batch_norm_follows_couplings_of_images_by_default(shape, batch_norm):
  flow = tfp_realnvp.RealNVPChain(shape)
  norms = [
    b for b in flow.submodules if isinstance(b, tfp_realnvp.BatchNormBijector)
  ]
  assert bool(norms) == batch_norm


@pytest.mark.parametrize(
  'factory', [tfp_realnvp.AffineCouplings, tfp_realnvp.SplineCouplings]
)
def test_options_of_batch_norm_reach_the_bijectors(factory):
  flow = tfp_realnvp.RealNVPChain(
    (4,), num_couplings=2, couplings=factory(batch_norm=_NORM)
  )
  assert [b.name for b in flow.bijectors] == [
    'coupling_0',
    'coupling_0_batch_norm',
    'coupling_1',
    'coupling_1_batch_norm',
  ]
  assert flow.bijectors[1].parameters['momentum'] == 0.5


def test_options_reach_the_splines():
  couplings = tfp_realnvp.SplineCouplings(num_bins=3, bound=2.0)
  flow = tfp_realnvp.RealNVPChain((4,), num_couplings=1, couplings=couplings)
  parameters = flow.bijectors[0].parameters
  assert (parameters['num_bins'], parameters['bound']) == (3, 2.0)
  assert repr(couplings) == (
    'SplineCouplings(batch_norm=None, permutation_seed=0, num_bins=3, '
    'bound=2.0)'
  )


@pytest.mark.parametrize('size', [2, 5, 30, 300])
@pytest.mark.parametrize(
  'num_couplings', [2, pytest.param(32, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('condition_size', [None, 3])
@pytest.mark.parametrize(
  'couplings', [tfp_realnvp.AffineCouplings(), tfp_realnvp.SplineCouplings()]
)
def test_a_new_flow_of_vectors_is_close_to_the_identity(
  size, num_couplings, condition_size, couplings
):
  flow = tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=num_couplings,
    networks=tfp_realnvp.DenseNetworks(seed=0),
    couplings=couplings,
    condition_size=condition_size,
  )
  z = tf.random.stateless_normal([500, size], [0, 1])
  kwargs = {}
  if condition_size:
    kwargs['condition'] = tf.random.stateless_normal([500, 3], [0, 2])
  x, log_det = flow.forward_and_log_det(z, **kwargs)
  assert 0.9 < np.std(x) < 1.1
  assert np.abs(x - z).max() < 1
  assert np.abs(log_det).max() / size < 0.5


@pytest.mark.slow
def test_a_flow_of_one_element_learns_from_its_condition():
  rng = np.random.default_rng(0)
  condition = rng.normal(size=[2000, 1])
  x = np.sin(2 * condition) + rng.normal(size=[2000, 1]) * 0.1
  flow = tfp_realnvp.RealNVPChain(
    (1,),
    num_couplings=2,
    networks=tfp_realnvp.DenseNetworks(seed=0),
    condition_size=1,
  )
  model = tfp_realnvp.DensityEstimator(
    tfd.TransformedDistribution(flow_testing.isotropic_normal((1,)), flow),
    num_levels=None,
    seed=0,
  )
  model.compile('adam')
  model.optimizer.learning_rate = 1e-2
  model.fit(x, condition, batch_size=100, epochs=15, verbose=0)
  entropy = np.log(2 * np.pi * np.e * 0.1**2) / 2
  loss = model.evaluate(x, condition, verbose=0, return_dict=True)['loss']
  assert loss < entropy + 0.2
