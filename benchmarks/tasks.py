"""What is measured. Each function prepares, and returns what to call.

Runs in a process of its own, see `harness`: imports happen in the functions.
"""

import collections
import collections.abc
import dataclasses
import functools
import math
import subprocess
import sys
import tempfile

import numpy as np

# Changes of the CIFAR-10 preset, by the names of `experiment.vary`.
ARCHITECTURES = {
  'small': {
    'image_size': 32,
    'num_scales': 2,
    'num_blocks': 2,
    'hidden_channels': 32,
  },
  # Section 4.1 of the paper.
  'cifar10': {
    'image_size': 32,
    'num_scales': 2,
    'num_blocks': 8,
    'hidden_channels': 64,
  },
  'imagenet32': {
    'image_size': 32,
    'num_scales': 4,
    'num_blocks': 4,
    'hidden_channels': 32,
  },
  'imagenet64': {
    'image_size': 64,
    'num_scales': 5,
    'num_blocks': 2,
    'hidden_channels': 32,
  },
}


def _images(batch_size, image_size):
  shape = (batch_size, image_size, image_size, 3)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _preset(architecture, **options):
  from tfp_realnvp.paper import experiment
  from tfp_realnvp.paper import presets

  options = ARCHITECTURES[architecture] | options
  size = options.pop('image_size')
  return experiment.vary(
    presets.preset('cifar10'),
    image_shape=(size, size, 3),
    lagged_batch_norm=False,
    seed=0,
    **options,
  )


def _distribution(architecture, **options):
  from tfp_realnvp.paper import experiment

  return experiment.build_distribution(_preset(architecture, **options))


def pipeline(batch_size=64, image_size=32, batches=1):
  """The first batches of the input pipeline; returns the last of them.

  An iterator that went on from call to call would fill its buffer in between.
  """
  dataset = _training_batches(batch_size, image_size).take(batches)
  return lambda: collections.deque(dataset, maxlen=1).pop()


def _training_batches(batch_size, image_size):
  """Returns the endless input pipeline of `examples/train.py`."""
  import tensorflow as tf

  from tfp_realnvp.paper import data as image_data
  from tfp_realnvp.paper import presets

  images = tf.data.Dataset.from_tensor_slices(_images(10_000, image_size))
  preset = dataclasses.replace(
    presets.preset('cifar10'), image_shape=(image_size, image_size, 3)
  )
  data = image_data.Data(preset, images, images, lambda image: (image, None))
  return data.training_batches(batch_size, 0)


def training_step(
  architecture,
  batch_size=64,
  jit_compile=False,
  twice=False,
  from_pipeline=False,
  steps=1,
  **options,
):
  """Steps of Adam on uint8 images: noise, loss, gradients, update, metrics."""
  import tensorflow as tf

  from tfp_realnvp.paper import experiment

  distribution = _distribution(architecture, **options)
  if twice:
    distribution = _run_twice(distribution, training=True)
  model = experiment.build_estimator(
    _preset(architecture), distribution, jit_compile, seed=0
  )
  size = distribution.event_shape[0]
  if from_pipeline:
    batches = iter(_training_batches(batch_size, size))
    next_batch = functools.partial(next, batches)
  else:
    images = tf.constant(_images(batch_size, size))
    next_batch = lambda: images
  step = tf.function(model.train_step, jit_compile=jit_compile, autograph=False)

  def run():
    for _ in range(steps):
      logs = step(next_batch())
    return float(logs['loss'])

  return run


def log_prob(
  architecture, batch_size=64, jit_compile=False, twice=False, **options
):
  """The log-likelihood of float images, with the moving statistics."""
  import tensorflow as tf

  distribution = _distribution(architecture, **options)
  if twice:
    distribution = _run_twice(distribution)
  size = distribution.event_shape[0]
  images = tf.constant(_images(batch_size, size) + np.float32(0.5))
  function = tf.function(
    distribution.log_prob, jit_compile=jit_compile, autograph=False
  )
  return lambda: function(images).numpy()


def serving(architecture, runtime, batch_size=1, requests=1, **options):
  """Requests for the log-likelihood of uint8 images, one after another.

  Args:
    architecture: One of `ARCHITECTURES`.
    runtime: 'library', which is no SavedModel at all; 'SavedModel'; 'frozen',
      its variables made constants; 'OpenVINO' or 'ONNX Runtime', reading it.
    batch_size: Images of a request.
    requests: How many.
    **options: Of `RealNVPChain`.
  """
  distribution = _distribution(architecture, **options)
  images = _images(batch_size, distribution.event_shape[0])
  answer = _answer(distribution, runtime)

  def run():
    for _ in range(requests):
      result = np.asarray(answer(images))
    return result

  return run


def _answer(distribution, runtime):
  """A function from uint8 images to log-likelihoods."""
  import tensorflow as tf

  from tfp_realnvp import saved_model

  if runtime == 'library':
    function = tf.function(
      lambda x: distribution.log_prob(tf.cast(x, tf.float32) + 0.5),
      autograph=False,
    )
    return lambda images: function(tf.constant(images))
  with tempfile.TemporaryDirectory() as folder:
    path = saved_model.export_saved_model(distribution, f'{folder}/1')
    if runtime == 'OpenVINO':
      import openvino

      # Some CPUs would compute in bfloat16.
      float32 = {'INFERENCE_PRECISION_HINT': 'f32'}
      compiled = openvino.compile_model(path, 'CPU', float32)
      return lambda images: compiled({'images': images})['log_prob']
    if runtime == 'ONNX Runtime':
      import onnxruntime

      file = f'{folder}/log_prob.onnx'
      command = [sys.executable, '-m', 'tf2onnx.convert', '--opset=18']
      command += ['--saved-model', path, '--output', file]
      subprocess.run(command, check=True, capture_output=True)
      session = onnxruntime.InferenceSession(file)
      return lambda images: session.run(['log_prob'], {'images': images})[0]
    model = tf.saved_model.load(path)
  function = model.signatures['log_prob']
  if runtime == 'frozen':
    from tensorflow.python.framework import convert_to_constants

    frozen = convert_to_constants.convert_variables_to_constants_v2(function)
    (index,) = (
      i
      for i, name in enumerate(sorted(function.structured_outputs))
      if name == 'log_prob'
    )
    return lambda images: frozen(tf.constant(images))[index]
  # The model holds the variables: a function alone would lose them.
  return lambda images, model=model: function(images=tf.constant(images))[
    'log_prob'
  ]


def sample(
  architecture,
  batch_size=64,
  jit_compile=False,
  twice=False,
  method='sample',
  **options,
):
  """Images drawn, by a method of the distribution."""
  import tensorflow as tf

  distribution = _distribution(architecture, **options)
  if twice:
    distribution = _run_twice(distribution)
  function = tf.function(
    lambda seed: getattr(distribution, method)(batch_size, seed=seed),
    jit_compile=jit_compile,
    autograph=False,
  )
  seed = tf.constant([0, 1])
  return lambda: tf.nest.map_structure(np.asarray, function(seed))


def sample_and_log_prob(architecture, **options):
  """Images drawn, and their log-likelihood with them."""
  return sample(
    architecture, method='experimental_sample_and_log_prob', **options
  )


def _run_twice(distribution, training=False):
  """The same flow with couplings like TFP's `tfb.RealNVP`.

  They know value and log-det as two methods, each of which runs the network.
  """
  import tensorflow_probability as tfp

  import tfp_realnvp
  from tfp_realnvp.bijectors import flow_sequence

  class Coupling(tfp.bijectors.Bijector):
    def __init__(self, coupling):
      self._network = coupling.shift_and_log_scale_fn  # Has the variables.
      self._to_latent = functools.partial(
        coupling.forward_and_log_det, training=training
      )
      self._to_data = coupling.inverse_and_log_det
      super().__init__(forward_min_event_ndims=3, dtype=coupling.dtype)

    def _forward(self, x):
      return self._to_latent(x)[0]

    def _forward_log_det_jacobian(self, x):
      return self._to_latent(x)[1]

    def _inverse(self, y):
      return self._to_data(y)[0]

    def _inverse_log_det_jacobian(self, y):
      return self._to_data(y)[1]

  def convert(bijector):
    if isinstance(bijector, tfp_realnvp.AffineCoupling):
      return Coupling(bijector)
    if isinstance(bijector, tfp_realnvp.FactorOut):
      onward = [convert(part) for part in bijector.bijector.bijectors]
      return tfp_realnvp.FactorOut(
        flow_sequence.FlowSequence(onward, event_ndims=3)
      )
    return bijector

  flow = distribution.bijector
  flow = tfp_realnvp.RealNVPChain.from_bijectors(
    [convert(b) for b in flow.bijectors], distribution.event_shape
  )
  return tfp.distributions.TransformedDistribution(
    distribution.distribution, flow
  )


def convolutions(architecture, method, batch_size=64, **options):
  """The convolutions that a method's graph holds, alone, one after another."""
  calls = convolution_calls(architecture, method, batch_size, **options)

  def run():
    for call in calls:
      for _ in range(call.count):
        call.run()

  return run


@dataclasses.dataclass
class ConvolutionCall:
  """A convolution, or one of its gradients.

  Attributes:
    kind: 'Conv2D', 'Conv2DBackpropInput' or 'Conv2DBackpropFilter'.
    input: Shape of the convolution's input, `(N, H, W, I)`.
    kernel: Shape of its kernel, `(k, k, I, O)`.
    count: How often a graph has it.
    run: Computes it.
  """

  kind: str
  input: tuple[int, ...]
  kernel: tuple[int, ...]
  count: int
  run: collections.abc.Callable

  @property
  def output(self):
    return self.input[:3] + self.kernel[3:]

  @property
  def operations(self):
    """Floating point operations, a multiplication and an addition being two."""
    return 2 * math.prod(self.input[:3]) * math.prod(self.kernel)


def convolution_calls(architecture, method, batch_size=64, **options):
  """Lists the distinct convolutions of a method's graph.

  Args:
    architecture: One of `ARCHITECTURES`.
    method: 'training_step', 'log_prob' or 'sample'.
    batch_size: Images.
    **options: Of `RealNVPChain`.

  Returns:
    List of `ConvolutionCall`s.
  """
  import tensorflow as tf

  distribution = _distribution(architecture, **options)
  size = distribution.event_shape[0]
  spec = tf.TensorSpec([batch_size, size, size, 3])

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

  calls = []
  for (kind, *shapes, dtype), count in counts.items():
    call = ConvolutionCall(kind, *shapes, count, None)
    operands = {
      name: tf.cast(tf.random.normal(shape), dtype)
      for name, shape in {
        'input': call.input,
        'filter': call.kernel,
        'out_backprop': call.output,
      }.items()
    }
    if kind == 'Conv2D':
      del operands['out_backprop']
    else:  # Of what is asked for, its gradient takes the shape.
      wanted = 'input' if kind == 'Conv2DBackpropInput' else 'filter'
      operands[f'{wanted}_sizes'] = tf.constant(operands.pop(wanted).shape)
    convolve = functools.partial(
      getattr(tf.raw_ops, kind), strides=[1] * 4, padding='SAME', **operands
    )
    call.run = tf.function(convolve, autograph=False)
    calls.append(call)
  return calls


def pytorch_training_step(architecture, batch_size=64):
  """The same step of the same architecture in PyTorch."""
  import torch

  from benchmarks import pytorch_model

  trainer = pytorch_model.Trainer(_pytorch(architecture))
  size = ARCHITECTURES[architecture]['image_size']
  images = torch.tensor(_images(batch_size, size).transpose(0, 3, 1, 2))
  return lambda: trainer.step(images)


def pytorch_log_prob(architecture, batch_size=64):
  import torch

  model = _pytorch(architecture).eval()
  images = torch.tensor(
    _images(batch_size, model.size).transpose(0, 3, 1, 2) + np.float32(0.5)
  ).contiguous(memory_format=torch.channels_last)

  @torch.inference_mode()
  def run():
    return model.log_prob(images).numpy()

  return run


def pytorch_sample(architecture, batch_size=64):
  import torch

  model = _pytorch(architecture).eval()

  @torch.inference_mode()
  def run():
    return model.sample(batch_size).numpy()

  return run


def _pytorch(architecture):
  import torch

  from benchmarks import pytorch_model

  torch.manual_seed(0)
  options = dict(ARCHITECTURES[architecture])
  model = pytorch_model.RealNVP(options.pop('image_size'), **options)
  return model.to(memory_format=torch.channels_last)
