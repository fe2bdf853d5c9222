"""Tasks for flows of vectors, of this library and of others.

All flows have 8 affine couplings, whose networks have two hidden layers of 64
units, and train with Adam and clipped gradients. As in `benchmarks.tasks`, a
task prepares, and returns a function to call.
"""

import numpy as np

_NUM_COUPLINGS = 8
_HIDDEN = 64
_LEARNING_RATE = 1e-3
_CLIP_NORM = 5.0
_NUM_EPOCHS = 5  # Of 10,000 rows, for `fit`.


def batch_size(size):
  """Returns the number of rows of a step."""
  return 512 if size == 2 else 256


def _rows(size, count=None):
  """Returns standardized rows, `[count, size]`."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=[count or batch_size(size), size])
  return np.sin(rows).astype(np.float32) * 1.5


def _distribution(size):
  import tensorflow_probability as tfp

  import tfp_realnvp

  flow = tfp_realnvp.RealNVPChain(
    (size,),
    num_couplings=_NUM_COUPLINGS,
    networks=tfp_realnvp.DenseNetworks(hidden_units=(_HIDDEN, _HIDDEN)),
  )
  base = tfp.distributions.MultivariateNormalDiag(np.zeros(size, np.float32))
  return tfp.distributions.TransformedDistribution(base, flow)


def _estimator(size, jit_compile):
  import keras

  import tfp_realnvp

  model = tfp_realnvp.DensityEstimator(_distribution(size), num_levels=None)
  model.compile(
    keras.optimizers.Adam(_LEARNING_RATE, global_clipnorm=_CLIP_NORM),
    jit_compile=jit_compile,
  )
  return model


def training_step(size, jit_compile=False):
  """A step of Adam."""
  import tensorflow as tf

  model, rows = _estimator(size, False), tf.constant(_rows(size))
  step = tf.function(model.train_step, jit_compile=jit_compile, autograph=False)
  return lambda: float(step(rows)['loss'])


def fit(size, jit_compile=False):
  """Some epochs on 10,000 rows."""
  model, rows = _estimator(size, jit_compile), _rows(size, 10_000)
  options = {'batch_size': batch_size(size), 'epochs': _NUM_EPOCHS}
  return lambda: model.fit(rows, verbose=0, **options).history['loss'][-1]


def log_prob(size, jit_compile=False):
  """The log-likelihood of a batch."""
  import tensorflow as tf

  distribution, rows = _distribution(size), tf.constant(_rows(size))
  function = tf.function(distribution.log_prob, jit_compile=jit_compile)
  return lambda: function(rows).numpy()


def sample(size, jit_compile=False):
  """A batch of samples."""
  import tensorflow as tf

  distribution = _distribution(size)
  function = tf.function(
    lambda seed: distribution.sample(batch_size(size), seed=seed),
    jit_compile=jit_compile,
  )
  seed = tf.constant([0, 1])
  return lambda: function(seed).numpy()


class _Torch:
  """A flow of a library for PyTorch: `log_prob(x)` and `sample(count)`."""

  def __init__(self, library, size):
    import torch

    self.module, self.log_prob, self.sample = _TORCH[library](size)
    self._optimizer = torch.optim.Adam(self.module.parameters(), _LEARNING_RATE)

  def step(self, rows):
    """Takes a step of Adam and returns the loss."""
    import torch

    self._optimizer.zero_grad()
    loss = -self.log_prob(rows).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.module.parameters(), _CLIP_NORM)
    self._optimizer.step()
    return loss


def torch_training_step(library, size):
  """A step of Adam."""
  import torch

  flow, rows = _Torch(library, size), torch.from_numpy(_rows(size))
  return lambda: flow.step(rows).item()


def torch_fit(library, size):
  """Some epochs on 10,000 rows."""
  import torch

  flow, rows = _Torch(library, size), torch.from_numpy(_rows(size, 10_000))

  def run():
    for _ in range(_NUM_EPOCHS):
      for indices in torch.randperm(len(rows)).split(batch_size(size)):
        loss = flow.step(rows[indices])
    return loss.item()

  return run


def torch_log_prob(library, size):
  """The log-likelihood of a batch."""
  import torch

  flow, rows = _Torch(library, size), torch.from_numpy(_rows(size))
  return torch.no_grad()(lambda: flow.log_prob(rows).numpy())


def torch_sample(library, size):
  """A batch of samples."""
  import torch

  flow = _Torch(library, size)
  return torch.no_grad()(lambda: flow.sample(batch_size(size)).numpy())


def _zuko(size):
  import zuko

  flow = zuko.flows.RealNVP(
    size, transforms=_NUM_COUPLINGS, hidden_features=(_HIDDEN, _HIDDEN)
  )
  return flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,))


def _normflows(size):
  import normflows

  kept, changed = (size + 1) // 2, size // 2
  parts = []
  for _ in range(_NUM_COUPLINGS):
    network = normflows.nets.MLP([kept, _HIDDEN, _HIDDEN, 2 * changed])
    parts += [
      normflows.flows.AffineCouplingBlock(network),
      normflows.flows.Permute(size, mode='swap'),
    ]
  base = normflows.distributions.DiagGaussian(size, trainable=False)
  flow = normflows.NormalizingFlow(base, parts)
  return flow, flow.log_prob, lambda n: flow.sample(n)[0]


def _nflows(size):
  from nflows import distributions
  from nflows import flows
  from nflows import transforms
  from nflows.nn import nets
  import torch

  class Network(nets.MLP):
    def forward(self, inputs, context=None):
      del context
      return super().forward(inputs)

  def network(num_in, num_out):
    return Network([num_in], [num_out], [_HIDDEN, _HIDDEN])

  mask = torch.arange(size) < size // 2
  parts = [
    transforms.AffineCouplingTransform(mask ^ bool(i % 2), network)
    for i in range(_NUM_COUPLINGS)
  ]
  flow = flows.Flow(
    transforms.CompositeTransform(parts), distributions.StandardNormal([size])
  )
  return flow, flow.log_prob, flow.sample


def _freia(size):
  from FrEIA import framework
  from FrEIA import modules
  import torch

  def network(num_in, num_out):
    return torch.nn.Sequential(
      torch.nn.Linear(num_in, _HIDDEN),
      torch.nn.ReLU(),
      torch.nn.Linear(_HIDDEN, _HIDDEN),
      torch.nn.ReLU(),
      torch.nn.Linear(_HIDDEN, num_out),
    )

  flow = framework.SequenceINN(size)
  for _ in range(_NUM_COUPLINGS // 2):  # Each has two couplings.
    flow.append(modules.RNVPCouplingBlock, subnet_constructor=network)
  normal = torch.distributions.Independent(
    torch.distributions.Normal(torch.zeros(size), 1.0), 1
  )

  def log_prob(x):
    z, log_det = flow(x)
    return normal.log_prob(z) + log_det

  return flow, log_prob, lambda n: flow(normal.sample((n,)), rev=True)[0]


_TORCH = {
  'zuko': _zuko,
  'normflows': _normflows,
  'nflows': _nflows,
  'FrEIA': _freia,
}


def _flowjax(size):
  """Returns a flow of FlowJAX, compiled functions and their state."""
  from flowjax import bijections
  from flowjax import distributions
  from flowjax import flows
  import jax

  return flows.coupling_flow(
    jax.random.key(0),
    base_dist=distributions.StandardNormal((size,)),
    transformer=bijections.Affine(),
    flow_layers=_NUM_COUPLINGS,
    nn_width=_HIDDEN,
    nn_depth=2,
  )


def _flowjax_trainer(size):
  import equinox
  import optax
  import paramax

  params, static = equinox.partition(
    _flowjax(size),
    equinox.is_inexact_array,
    is_leaf=lambda x: isinstance(x, paramax.NonTrainable),
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(_CLIP_NORM), optax.adam(_LEARNING_RATE)
  )
  state = optimizer.init(params)

  def loss(params, rows):
    flow = paramax.unwrap(equinox.combine(params, static))
    return -flow.log_prob(rows).mean()

  @equinox.filter_jit
  def update(params, state, rows):
    value, gradients = equinox.filter_value_and_grad(loss)(params, rows)
    updates, state = optimizer.update(gradients, state)
    return equinox.apply_updates(params, updates), state, value

  def step(rows):
    nonlocal params, state
    params, state, value = update(params, state, rows)
    return value

  return step


def flowjax_training_step(size):
  """A step of Adam."""
  step, rows = _flowjax_trainer(size), _rows(size)
  return lambda: float(step(rows))


def flowjax_fit(size):
  """Some epochs on 10,000 rows."""
  step, rows = _flowjax_trainer(size), _rows(size, 10_000)
  rng = np.random.default_rng(0)

  def run():
    for _ in range(_NUM_EPOCHS):
      order = rng.permutation(len(rows))
      # As in FlowJAX's own loop, rows that do not fill a batch are left out.
      for i in range(len(rows) // batch_size(size)):
        value = step(rows[order[i * batch_size(size) :][: batch_size(size)]])
    return float(value)

  return run


def flowjax_log_prob(size):
  """The log-likelihood of a batch."""
  import equinox

  flow, rows = _flowjax(size), _rows(size)
  function = equinox.filter_jit(lambda x: flow.log_prob(x))
  return lambda: np.asarray(function(rows))


def flowjax_sample(size):
  """A batch of samples."""
  import equinox
  import jax

  flow, key = _flowjax(size), jax.random.key(0)
  function = equinox.filter_jit(
    lambda key: flow.sample(key, (batch_size(size),))
  )
  return lambda: np.asarray(function(key))
