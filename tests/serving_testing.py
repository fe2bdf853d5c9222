"""Exported models for tests."""

import collections

import tensorflow as tf
import tensorflow_probability as tfp

from tests import flow_testing
from tfp_realnvp import saved_model

tfd = tfp.distributions

SHAPE = (4, 4, 2)


def flow(event_shape=SHAPE, build=flow_testing.chain, **kwargs):
  return build(event_shape, **({'seed': 1} | kwargs))


def two_couplings(**kwargs):
  return flow(build=flow_testing.two_couplings, **kwargs)


def distribution(event_shape=SHAPE, bijector=None, dtype=tf.float32, **kwargs):
  bijector = bijector or flow(event_shape, dtype=dtype, **kwargs)
  base = flow_testing.isotropic_normal(event_shape, dtype)
  return tfd.TransformedDistribution(base, flow_testing.randomize(bijector))


class Served:
  """A distribution, exported, and the calls made to its signatures."""

  calls = collections.Counter()

  def __init__(self, folder, distribution, **kwargs):
    self.distribution = distribution
    self.path = str(folder / 'served' / '1')
    assert (
      saved_model.export_saved_model(distribution, self.path, **kwargs)
      == self.path
    )
    self.signatures = tf.saved_model.load(self.path).signatures

  def __call__(self, signature, **inputs):
    inputs = {name: tf.convert_to_tensor(v) for name, v in inputs.items()}
    self.calls['made'] += 1
    answers = self.signatures[signature](**inputs)
    self.calls['answered'] += 1
    return {name: answer.numpy() for name, answer in answers.items()}
