"""DistributionModel: a `keras.Model` whose variables are a distribution's."""

from collections.abc import Callable
import functools
import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp.bijectors import coupling
from tfp_realnvp.training import execution
from tfp_realnvp.training import sample_weights

tfd = tfp.distributions

__all__ = ['DistributionModel', 'OptimizerVariable']


def _as_given(method: Callable) -> Callable:
  """Wraps a method of `keras.Model` so that it takes arrays as they are given.

  Keras casts float arrays to `keras.config.floatx()`, which here is the dtype
  of the distribution until the method returns; and it drops `sample_weight`
  where there is no `y`, so that here `y` then is an array of width 0.
  """
  signature = inspect.signature(method)

  @functools.wraps(method)
  def wrapper(self: 'DistributionModel', *args: Any, **kwargs: Any) -> Any:
    bound = signature.bind(self, *args, **kwargs)
    given = bound.arguments
    x, y = given.get('x'), given.get('y')
    if given.get('class_weight') is not None and not _has_classes(x, y):
      raise ValueError(
        '`class_weight` needs classes, `y`; got '
        f'{given["class_weight"]!r} without them.'
      )
    weight = given.get('sample_weight')
    if weight is not None and (hasattr(x, 'shape') or isinstance(x, list)):
      _, given['y'], given['sample_weight'] = _checked(x, y, weight)
    validation = given.get('validation_data')
    if isinstance(validation, (tuple, list)) and len(validation) == 3:
      given['validation_data'] = _checked(*validation)
    floatx, dtype = keras.config.floatx(), self.distribution.dtype
    keras.config.set_floatx(dtype.name if dtype.is_floating else floatx)
    try:
      return method(*bound.args, **bound.kwargs)
    finally:
      keras.config.set_floatx(floatx)

  return wrapper


def _with_chosen_execution(fit: Callable) -> Callable:
  """Wraps `keras.Model.fit` so that it chooses what `compile` left open."""
  signature = inspect.signature(fit)

  @functools.wraps(fit)
  def wrapper(self: 'DistributionModel', *args: Any, **kwargs: Any) -> Any:
    bound = signature.bind(self, *args, **kwargs)
    given = bound.arguments
    is_small = (
      self.distribution.event_shape.rank == 1
      and self.distribute_strategy.num_replicas_in_sync == 1
      and not self.run_eagerly
    )
    before = self.steps_per_execution
    if self._chooses_steps and is_small:
      self.steps_per_execution = execution.steps_per_execution(
        given.get('callbacks'),
        given.get('steps_per_epoch'),
        given.get('validation_steps'),
      )
    self._trains_with_xla = (
      self._chooses_xla
      and is_small
      and self._is_continuous
      and execution.has_static_shapes(given.get('x'))
      and execution.is_faster_with_xla(self.distribution)
    )
    if is_small and given.get('steps_per_epoch') is None:
      given['steps_per_epoch'] = execution.steps_of_arrays(given)
    try:
      return fit(*bound.args, **bound.kwargs)
    finally:
      self.steps_per_execution, self._trains_with_xla = before, False

  return wrapper


def _has_classes(x: Any, y: Any) -> bool:
  batch = x[0] if isinstance(x, keras.utils.PyDataset) else x
  batch = getattr(batch, 'element_spec', batch)
  is_pair = isinstance(batch, (tuple, list)) and len(batch) > 1
  return y is not None or is_pair


def _checked(x: Any, y: Any, weight: Any) -> tuple[Any, Any, Any]:
  """Returns arrays of data with a `y`, and with weights that are valid."""
  if weight is not None:
    weight = sample_weights.check(weight, len(x))
  return x, np.zeros([len(x), 0]) if y is None else y, weight


class OptimizerVariable(keras.Variable):
  """A `tf.Variable` as Keras optimizers expect it: with a path, and no '/'.

  All such views of one variable stand for the same state of an optimizer.
  """

  def __init__(self, variable: tf.Variable):
    super().__init__(
      lambda *_, **__: variable,
      shape=variable.shape,
      dtype=variable.dtype.name,
      name=variable.name.removesuffix(':0').replace('/', '_'),
    )

  def _initialize_with_initializer(self, initializer: Callable) -> None:
    self._initialize(initializer())


class DistributionModel(keras.Model):
  """What `DensityEstimator` needs of Keras, whatever it computes.

  The variables are those of the distribution; arrays arrive as they are given;
  optimizers get variables that they understand.
  """

  def __init__(
    self, distribution: tfd.Distribution, is_continuous: bool, name: str
  ):
    """Initializes DistributionModel.

    Args:
      distribution: What the variables belong to.
      is_continuous: Whether steps use data as they are, without the noise that
        XLA would draw differently and the check that it would drop.
      name: Name of the model.
    """
    super().__init__(name=name)
    self.distribution = distribution
    self._is_continuous = is_continuous
    self._chooses_xla = self._chooses_steps = False
    self._trains_with_xla = False
    self._functions = {}  # Of steps, with what they depend on as keys.
    self.built = True

  @property
  def trainable_variables(self) -> list[tf.Variable]:
    return list(self.distribution.trainable_variables) if self.trainable else []

  @property
  def non_trainable_variables(self) -> list[tf.Variable]:
    trained = {id(variable) for variable in self.trainable_variables}
    return [v for v in self.variables if id(v) not in trained]

  @property
  def variables(self) -> list[tf.Variable]:
    return list(self.distribution.variables)

  trainable_weights = trainable_variables
  non_trainable_weights = non_trainable_variables
  weights = variables

  def save_own_variables(self, store: Any) -> None:
    """Keras hook: writes the distribution's variables."""
    for i, variable in enumerate(self.variables):
      store[str(i)] = variable.numpy()

  def load_own_variables(self, store: Any) -> None:
    """Keras hook: reads what `save_own_variables` wrote."""
    shapes = [tuple(variable.shape) for variable in self.variables]
    numbers = sum(1 for key in store.keys() if key.isdigit())
    stored = [tuple(store[str(i)].shape) for i in range(numbers)]
    if shapes != stored:
      raise ValueError(
        f'The weights are those of another model: {len(stored)} variables were '
        f'saved, {len(shapes)} are here, or their shapes differ.'
      )
    for i, variable in enumerate(self.variables):
      variable.assign(store[str(i)])

  def compile(
    self,
    optimizer: Any = 'adam',
    jit_compile: bool | str = 'auto',
    steps_per_execution: int | str = 'auto',
    **kwargs: Any,
  ) -> None:
    """Configures the model for training; see `keras.Model.compile`.

    Args:
      optimizer: Keras optimizer, or its name.
      jit_compile: Python `bool`, whether to compile all steps with XLA, which
        draws other noise and drops the check that `x` holds pixels. With
        'auto', `fit` compiles its training steps where that is faster: for
        arrays of vectors, or a `tf.data.Dataset` whose batches all have one
        size, such as from `batch(size, drop_remainder=True)`;
        `num_levels=None`, affine couplings with `DenseNetwork`s, and one
        replica.
      steps_per_execution: How many steps run before Keras's callbacks do. With
        'auto', up to 32 in `fit` on vectors with one replica, unless a callback
        looks at single batches.
      **kwargs: Those of `keras.Model.compile`, but losses and metrics.

    Raises:
      ValueError: If a loss or metrics are given, or a Keras network of the
        distribution is not built.
    """
    for name in ('loss', 'loss_weights', 'metrics', 'weighted_metrics'):
      if kwargs.get(name) is not None:
        raise ValueError(
          f'`{name}` cannot be chosen: the loss is the negative '
          f'log-likelihood; got {kwargs[name]!r}.'
        )
    for module in self.distribution.submodules:
      if isinstance(module, coupling.Coupling) and not module.is_built:
        raise ValueError(
          f'The network of {module.name!r} has no variables yet: build '
          f'{module.network!r}, with a `keras.Input` first or by calling it '
          'once.'
        )
    self._chooses_xla = jit_compile == 'auto'
    self._chooses_steps = steps_per_execution == 'auto'
    self._functions.clear()
    super().compile(
      optimizer=optimizer,
      jit_compile=False if self._chooses_xla else jit_compile,
      steps_per_execution=1 if self._chooses_steps else steps_per_execution,
      **kwargs,
    )
    self.optimizer.build(
      [OptimizerVariable(v) for v in self.trainable_variables]
    )

  def get_config(self) -> dict[str, Any]:
    """Keras hook: raises, for a distribution has no configuration."""
    raise NotImplementedError(
      'A DensityEstimator cannot be written to a .keras file, cloned or made '
      'from a config, for a tfd.Distribution has none. Build the distribution '
      'again and use `save_weights` and `load_weights` or '
      '`tfp_realnvp.Checkpoints`; or serve it with '
      '`tfp_realnvp.export_saved_model`.'
    )

  def export(self, *args: Any, **kwargs: Any) -> None:
    """Keras hook: raises, for Keras would export a part of the answers."""
    del args, kwargs
    raise NotImplementedError(
      'Use `tfp_realnvp.export_saved_model` on the distribution.'
    )

  fit = _as_given(_with_chosen_execution(keras.Model.fit))
  evaluate = _as_given(keras.Model.evaluate)
  predict = _as_given(keras.Model.predict)
  train_on_batch = _as_given(keras.Model.train_on_batch)
  test_on_batch = _as_given(keras.Model.test_on_batch)
  predict_on_batch = _as_given(keras.Model.predict_on_batch)

  def make_train_function(self, force: bool = False) -> None:
    """Keras hook: makes a new step if other variables are to be trained."""
    if not self.trainable_variables:
      raise ValueError(
        f'`distribution` has no trainable variables, got {self.distribution!r}.'
        if self.trainable
        else 'The model cannot be trained: its `trainable` is False.'
      )
    for_all_steps = self.jit_compile
    self.jit_compile = for_all_steps or self._trains_with_xla
    try:
      self._make(
        'train_function',
        super().make_train_function,
        force,
        self.wrap_train_function,
      )
    finally:
      self.jit_compile = for_all_steps

  def make_test_function(self, force: bool = False) -> None:
    """Keras hook."""
    self._make('test_function', super().make_test_function, force)

  def wrap_train_function(self, function: Callable) -> Callable:
    """Returns what to call for each step, or steps, of training."""
    return function

  def _make(
    self,
    name: str,
    make: Callable,
    force: bool,
    wrap: Callable = lambda function: function,
  ) -> None:
    """Makes a function, unless there is one for the same circumstances."""
    trained = ()
    if name == 'train_function':
      trained = tuple(id(variable) for variable in self.trainable_variables)
    key = (name, trained, self.jit_compile, self.steps_per_execution)
    if force or key not in self._functions:
      make(force=True)
      self._functions[key] = wrap(getattr(self, name))
    setattr(self, name, self._functions[key])

  def _maybe_symbolic_build(
    self, iterator: Any = None, data_batch: Any = None
  ) -> None:
    """Nothing is left to build; Keras would average pixels over workers."""
