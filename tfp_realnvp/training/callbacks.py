"""Keras callbacks: signals, evaluation, averaged weights, learning rates."""

from collections.abc import Iterator
import contextlib
import os
import signal
import sys
from typing import Any
from typing import NoReturn

import keras
import tensorflow as tf

__all__ = [
  'Cooldown',
  'EvaluationStatistics',
  'KeepTrainingWeights',
  'StopOnSignal',
  'SwapEMAWeights',
  'keyboard_interrupts',
]


class StopOnSignal(keras.callbacks.Callback):
  """Ends the program on Ctrl-C, SIGTERM and SIGHUP.

  It prints which step is saved and ends the process with the status of the
  signal: at once, or at the end of a `deferred` context, where `fit` stops
  after the current step. It raises no exception, because code of TensorFlow
  that is interrupted by one can crash or ignore it. Only the first signal
  counts, because some are sent twice. A signal that was ignored when the
  program started, such as SIGHUP under `nohup`, remains ignored.

  Attributes:
    signal: The first signal that was received, or `None`.
    saved_step: Step of the newest checkpoint, or `None`.
  """

  def __init__(self) -> None:
    super().__init__()
    self.signal = None
    self.saved_step = None
    self._is_deferred = False
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):  # Windows has no SIGHUP.
      number = getattr(signal, name, None)
      if number and signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, self._receive)

  def _receive(self, number: int, frame: Any) -> None:
    del frame
    if self.signal:  # The program ends already.
      return
    self.signal = signal.Signals(number)
    if not self._is_deferred:
      self._exit()

  def _exit(self) -> NoReturn:
    step = self.saved_step
    saved = 'Nothing' if step is None else f'Step {step}'
    message = f'Stopped by {self.signal.name}. {saved} is saved.\n'
    # The signal can come during a `print`, and the output can be closed.
    with contextlib.suppress(RuntimeError, OSError):
      sys.stdout.flush()
    with contextlib.suppress(OSError):
      os.write(1, message.encode())
    os._exit(128 + self.signal)

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Returns a context manager that delays the end of the program."""
    self._is_deferred = True
    try:
      yield
    finally:
      self._is_deferred = False
    if self.signal:
      self._exit()

  def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
    """Keras hook: stops `fit` after a signal."""
    del batch, logs
    if self.signal:
      self.model.stop_training = True


@contextlib.contextmanager
def keyboard_interrupts() -> Iterator[None]:
  """Returns a context in which Ctrl-C raises `KeyboardInterrupt`.

  It is for programs that Ctrl-C ends elsewhere. If the program started with
  SIGINT ignored, it remains ignored.
  """
  before = signal.getsignal(signal.SIGINT)
  if before == signal.SIG_DFL:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


class SwapEMAWeights(keras.callbacks.SwapEMAWeights):
  """Keras's callback, exact and fast.

  Keras swaps the weights with their moving averages by adding and subtracting
  them, which rounds, one variable after another. This takes one call of a graph
  for all.
  """

  def __init__(self, swap_on_epoch: bool = False):
    """Initializes SwapEMAWeights; see `keras.callbacks.SwapEMAWeights`."""
    super().__init__(swap_on_epoch)
    # What Keras calls, with the optimizer as the argument.
    self._tf_swap_variables = tf.function(_swap_variables, autograph=False)


def _swap_variables(optimizer: keras.optimizers.Optimizer) -> None:
  averages = optimizer._model_variables_moving_average
  for variables in zip(optimizer._trainable_variables, averages):
    variable, average = (v.value for v in variables)
    values = tf.identity(variable), tf.identity(average)
    average.assign(values[0])
    variable.assign(values[1])


class KeepTrainingWeights(keras.callbacks.Callback):
  """Ends `fit` with the weights of the last step, not with their averages.

  With `use_ema`, Keras sets the weights to their averages when `fit` ends.
  Training that goes on in another `fit` needs those of the last step. Place the
  callback before `Checkpoints`.
  """

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    """Keras hook: keeps the weights of the last step."""
    del epoch, logs
    self._weights = [v.numpy() for v in self.model.trainable_variables]

  def on_train_end(self, logs: Any = None) -> None:
    """Keras hook: sets the weights to those of the last step."""
    del logs
    for variable, value in zip(self.model.trainable_variables, self._weights):
      variable.assign(value)


class EvaluationStatistics(keras.callbacks.Callback):
  """Evaluates with moving statistics of the weights of the moment.

  The moving averages of training hold about `1 / (1 - momentum)` batches and
  trail behind the weights, so evaluations during training jump up and down.
  This callback re-estimates the statistics before each evaluation, see
  `DensityEstimator.reestimate_statistics`, and sets them back after it:
  training goes on as if there had been no evaluation.

  ```python
  model.fit(
    images,
    validation_data=held_out,
    callbacks=[tfp_realnvp.EvaluationStatistics(images[:1000])],
  )
  ```

  Some hundred images are enough, and take as long as a third as many images of
  training. For averaged weights, place it after `SwapEMAWeights()`.
  """

  def __init__(
    self,
    x: Any,
    condition: Any = None,
    sample_weight: Any = None,
    batch_size: int | None = None,
  ):
    """Initializes EvaluationStatistics with some of the training data.

    Args:
      x: See `DensityEstimator.reestimate_statistics`.
      condition: See there.
      sample_weight: See there.
      batch_size: See there.
    """
    super().__init__()
    self._data = x, condition, sample_weight, batch_size

  def on_test_begin(self, logs: Any = None) -> None:
    """Keras hook: re-estimates the statistics."""
    del logs
    variables = self.model.non_trainable_variables
    before = [(variable, variable.numpy()) for variable in variables]
    self.model.reestimate_statistics(*self._data)
    self._before = before

  def on_test_end(self, logs: Any = None) -> None:
    """Keras hook: sets the statistics back."""
    del logs
    for variable, value in self._before:
      variable.assign(value)


class Cooldown(keras.callbacks.Callback):
  """Decreases the learning rate linearly to 0 over the last steps."""

  def __init__(self, learning_rate: float, num_steps: int, cooldown_steps: int):
    """Initializes Cooldown.

    Args:
      learning_rate: Learning rate before the last `cooldown_steps` steps.
      num_steps: Step at which training ends.
      cooldown_steps: `int`, 0 for a constant learning rate.
    """
    super().__init__()
    self._learning_rate = learning_rate
    self._num_steps = num_steps
    self._cooldown_steps = cooldown_steps

  def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
    """Keras hook: sets the learning rate of the step."""
    del batch, logs
    left = self._num_steps - int(self.model.step.numpy())
    share = min(1.0, left / self._cooldown_steps) if self._cooldown_steps else 1
    self.model.optimizer.learning_rate = self._learning_rate * share
