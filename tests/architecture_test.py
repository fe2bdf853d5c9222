import tensorflow_probability as tfp

from tests import flow_testing
import tfp_realnvp

tfb = tfp.bijectors
tfd = tfp.distributions


def test_masks_alternate_and_hidden_channels_double():
  flow = flow_testing.chain((16, 16, 3), batch_norm=False)
  hidden, parities, kept = [], [], []

  def visit(bijectors):
    for bijector in bijectors:
      if isinstance(bijector, tfp_realnvp.FactorOut):
        visit(bijector.bijector.bijectors)
      if isinstance(bijector, tfp_realnvp.AffineCoupling):
        network = bijector.shift_and_log_scale_fn
        hidden.append(network.output_kernel.shape[-2])
        if callable(bijector.mask):
          parities.append(int(bijector.mask((2, 2, 1))[0, 1, 0]))
          assert network.magnitude == 0
        else:
          kept.append(bijector.mask.ravel()[0])
          assert network.magnitude == 1

  visit(flow.bijectors)
  # h, 2h | 2h, 4h | 4h.
  assert hidden == [2] * 3 + [4] * 3 + [4] * 3 + [8] * 3 + [8] * 4
  assert parities == [1, 0, 1] * 2 + [1, 0, 1, 0]
  assert kept == [True, False, True] * 2
