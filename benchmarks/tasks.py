"""What is measured. A task prepares, and returns a function to call.

Tasks run in separate processes, see `harness`. They import what they need when
they run, so that a process loads nothing else.
"""

import dataclasses
import functools
import subprocess
import sys
import tempfile

import numpy as np

# Changes to the CIFAR-10 preset, by the names of `experiment.vary`.
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


def build_distribution(architecture, twice=False, training=False, **options):
  """Builds Real NVP of an architecture, with fresh weights.

  Args:
    architecture: Key of `ARCHITECTURES`.
    twice: Whether couplings run their network twice, see `two_pass`.
    training: Whether those couplings normalize as in training.
    **options: Changes to the architecture, by the names of `experiment.vary`.
  """
  from tfp_realnvp.paper import experiment

  distribution = experiment.build_distribution(_preset(architecture, **options))
  if twice:
    from benchmarks import two_pass

    return two_pass.distribution_in_two_passes(distribution, training)
  return distribution


def pipeline(architecture, batch_size):
  """The next batch of the input pipeline."""
  image_size = ARCHITECTURES[architecture]['image_size']
  return functools.partial(
    next, iter(_training_batches(batch_size, image_size))
  )


def training_step(
  architecture,
  batch_size,
  jit_compile=False,
  twice=False,
  from_pipeline=False,
  **options,
):
  """A step of Adam on uint8 images: noise, loss, gradients, update, metrics."""
  import tensorflow as tf

  from tfp_realnvp.paper import experiment

  distribution = build_distribution(
    architecture, twice, training=True, **options
  )
  model = experiment.build_estimator(
    _preset(architecture, **options), distribution, jit_compile, seed=0
  )
  size = distribution.event_shape[0]
  if from_pipeline:
    batches = iter(_training_batches(batch_size, size))
    next_batch = functools.partial(next, batches)
  else:
    images = tf.constant(_images(batch_size, size))
    next_batch = lambda: images
  step = tf.function(model.train_step, jit_compile=jit_compile, autograph=False)
  return lambda: float(step(next_batch())['loss'])


def log_prob(
  architecture, batch_size, jit_compile=False, twice=False, **options
):
  """The log-likelihood of float images, with the moving statistics."""
  import tensorflow as tf

  distribution = build_distribution(architecture, twice, **options)
  size = distribution.event_shape[0]
  images = tf.constant(_images(batch_size, size) + np.float32(0.5))
  function = tf.function(
    distribution.log_prob, jit_compile=jit_compile, autograph=False
  )
  return lambda: function(images).numpy()


def sample(
  architecture,
  batch_size,
  jit_compile=False,
  twice=False,
  method='sample',
  **options,
):
  """Images drawn by a method of the distribution."""
  import tensorflow as tf

  distribution = build_distribution(architecture, twice, **options)
  function = tf.function(
    lambda seed: getattr(distribution, method)(batch_size, seed=seed),
    jit_compile=jit_compile,
    autograph=False,
  )
  seed = tf.constant([0, 1])
  return lambda: tf.nest.map_structure(np.asarray, function(seed))


def sample_and_log_prob(architecture, batch_size, **options):
  """Images drawn, together with their log-likelihood."""
  return sample(
    architecture,
    batch_size,
    method='experimental_sample_and_log_prob',
    **options,
  )


def convolutions_alone(architecture, batch_size, method):
  """The convolutions of a method's graph, one after another."""
  from benchmarks import convolutions

  distribution = build_distribution(architecture)
  parts = convolutions.convolutions_of(distribution, method, batch_size)

  def run():
    for part in parts:
      for _ in range(part.count):
        part.run()

  return run


def serving(architecture, batch_size, runtime):
  """A request for the log-likelihood of uint8 images.

  Args:
    architecture: Key of `ARCHITECTURES`.
    batch_size: Number of images in a request.
    runtime: 'library', which calls the distribution itself; 'SavedModel';
      'frozen', a SavedModel whose variables are made constants; 'OpenVINO' or
      'ONNX Runtime', which read the SavedModel.
  """
  distribution = build_distribution(architecture)
  images = _images(batch_size, distribution.event_shape[0])
  answer = _server(distribution, runtime)
  return lambda: np.asarray(answer(images))


def _server(distribution, runtime):
  """Returns a function from uint8 images to log-likelihoods."""
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
  if runtime == 'frozen':
    from tensorflow.python.framework import convert_to_constants

    function = model.signatures['log_prob']
    frozen = convert_to_constants.convert_variables_to_constants_v2(function)
    index = sorted(function.structured_outputs).index('log_prob')
    return lambda images: frozen(tf.constant(images))[index]
  # The signature alone would not keep the model's variables alive.
  return lambda images: model.signatures['log_prob'](
    images=tf.constant(images)
  )['log_prob']


def pytorch_training_step(architecture, batch_size, **options):
  """The same step of the same architecture in PyTorch."""
  import torch

  from benchmarks import pytorch_model

  model = _pytorch(architecture, **options)
  trainer = pytorch_model.Trainer(model)
  images = _images(batch_size, model.size).transpose(0, 3, 1, 2)
  return functools.partial(trainer.step, torch.tensor(images))


def pytorch_log_prob(architecture, batch_size, **options):
  """The same log-likelihood in PyTorch."""
  import torch

  model = _pytorch(architecture, **options).eval()
  images = _images(batch_size, model.size).transpose(0, 3, 1, 2)
  images = torch.tensor(images + np.float32(0.5))
  images = images.contiguous(memory_format=torch.channels_last)
  return torch.inference_mode()(lambda: model.log_prob(images).numpy())


def pytorch_sample(architecture, batch_size, **options):
  """Images drawn in PyTorch."""
  import torch

  model = _pytorch(architecture, **options).eval()
  return torch.inference_mode()(lambda: model.sample(batch_size).numpy())


def _images(batch_size, image_size):
  shape = (batch_size, image_size, image_size, 3)
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


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


def _pytorch(architecture, compiled=False, bfloat16=False):
  import torch

  from benchmarks import pytorch_model

  torch.manual_seed(0)
  options = dict(ARCHITECTURES[architecture])
  model = pytorch_model.RealNVP(
    options.pop('image_size'), **options, bfloat16=bfloat16
  )
  model.to(memory_format=torch.channels_last)
  if compiled:
    model.compile_networks()
  return model
