"""The convolutions of a flow's graph, so that each can run alone."""

import collections
from collections.abc import Callable
import dataclasses
import functools
import math

import tensorflow as tf


@dataclasses.dataclass
class Convolution:
  """A convolution, or one of its gradients.

  Attributes:
    kind: 'Conv2D', 'Conv2DBackpropInput' or 'Conv2DBackpropFilter'.
    input: Shape of the convolution's input, `(N, H, W, I)`.
    kernel: Shape of its kernel, `(k, k, I, O)`.
    count: Number of times that it occurs in the graph.
    run: Function of no arguments that computes it once.
  """

  kind: str
  input: tuple[int, ...]
  kernel: tuple[int, ...]
  count: int
  run: Callable | None = None

  @property
  def output(self):
    return self.input[:3] + self.kernel[3:]

  @property
  def operations(self):
    """Floating point operations; a multiply-add counts as two."""
    return 2 * math.prod(self.input[:3]) * math.prod(self.kernel)


def convolutions_of(distribution, method, batch_size):
  """Lists the distinct convolutions of a method's graph.

  Args:
    distribution: `TransformedDistribution` of images with a `RealNVPChain`.
    method: 'training_step', 'log_prob' or 'sample'.
    batch_size: Number of images.

  Returns:
    List of `Convolution`s.
  """
  spec = tf.TensorSpec([batch_size, *distribution.event_shape])

  def gradients(x):
    with tf.GradientTape() as tape:
      log_prob = distribution.log_prob(x, bijector_kwargs={'training': True})
      loss = tf.reduce_sum(log_prob)
    return tape.gradient(loss, distribution.trainable_variables)

  function, *args = {
    'training_step': (gradients, spec),
    'log_prob': (distribution.log_prob, spec),
    'sample': (lambda: distribution.sample(batch_size, seed=[0, 1]),),
  }[method]
  graph = tf.function(function, autograph=False).get_concrete_function(*args)
  counts = collections.Counter()
  for op in graph.graph.get_operations():
    if op.type == 'Conv2D':
      operands = op.inputs
    elif op.type == 'Conv2DBackpropInput':
      operands = op.outputs[0], op.inputs[1]
    elif op.type == 'Conv2DBackpropFilter':
      operands = op.inputs[0], op.outputs[0]
    else:
      continue
    shapes = [tuple(operand.shape) for operand in operands]
    counts[(op.type, *shapes, op.outputs[0].dtype)] += 1

  convolutions = []
  for (kind, *shapes, dtype), count in counts.items():
    convolution = Convolution(kind, *shapes, count)
    convolution.run = _function(convolution, dtype)
    convolutions.append(convolution)
  return convolutions


def _function(convolution, dtype):
  """Returns a function that runs a convolution on random operands."""
  operands = {
    name: tf.cast(tf.random.normal(shape), dtype)
    for name, shape in {
      'input': convolution.input,
      'filter': convolution.kernel,
      'out_backprop': convolution.output,
    }.items()
  }
  if convolution.kind == 'Conv2D':
    del operands['out_backprop']
  else:  # A gradient takes the shape of what it is the gradient of.
    wanted = 'input' if convolution.kind == 'Conv2DBackpropInput' else 'filter'
    operands[f'{wanted}_sizes'] = tf.constant(operands.pop(wanted).shape)
  convolve = functools.partial(
    getattr(tf.raw_ops, convolution.kind),
    strides=[1] * 4,
    padding='SAME',
    **operands,
  )
  return tf.function(convolve, autograph=False)
