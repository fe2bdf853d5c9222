"""Re-estimation of moving statistics with the final weights."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from typing import Any
import warnings

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import util
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import sample_weights

tfd = tfp.distributions

__all__ = ['Reestimation', 'as_dataset']

# No batch has this variance. The first update replaces it if the variance of
# the batch is finite.
_NO_VARIANCE = -1.0


class Reestimation:
  """Sets the moving statistics of a distribution to those of all of some data.

  Every batch is normalized by its statistics over all replicas, even if the
  layers are lagged or not synchronized. Batches are weighted by their number of
  rows, or by the sum of their weights, so the result is the mean and the
  variance of all rows, in any order.
  """

  def __init__(
    self,
    distribution: tfd.Distribution,
    log_prob_fn: Callable,
    strategy: tf.distribute.Strategy,
  ):
    """Initializes Reestimation.

    Args:
      distribution: `tfd.Distribution`, a `tf.Module` with `MovingStatistics`.
      log_prob_fn: Function from a batch and its index to the log-likelihoods
        `[N]` and the weights, `[N]` or `None`. It updates the moving statistics
        as training does, and is called in replica context.
      strategy: `tf.distribute.Strategy` that the distribution was built in.
    """
    self._distribution = distribution
    self._log_prob_fn = log_prob_fn
    self._strategy = strategy
    self._statistics = None  # Those that `_step` was made for.

  def run(self, data: tf.data.Dataset) -> None:
    """Sets the moving statistics to those of all of `data`.

    A batch is left out, with a warning, if a statistic or a log-likelihood is
    not finite. No other variable changes; after an error, the moving statistics
    are what they were.

    Args:
      data: `tf.data.Dataset` of batches, as `as_dataset` returns it.

    Raises:
      ValueError: If there are no moving statistics, if layers share some, or if
        `data` has no rows of nonzero weight.
      FloatingPointError: If no batch is finite.
    """
    statistics = [
      module
      for module in self._distribution.submodules
      if isinstance(module, moving_statistics.MovingStatistics)
    ]
    if not statistics:
      raise ValueError(
        '`distribution` has no moving statistics to re-estimate, got '
        f'{self._distribution!r}.'
      )
    if statistics != self._statistics:
      self._statistics = statistics
      self._step = _make_step(statistics, self._log_prob_fn, self._strategy)
    before = []  # Pairs of a variable and its value, which `keep` adds.

    def keep() -> None:
      variables = self._distribution.non_trainable_variables
      before.extend((v, v.numpy()) for v in variables)

    def restore() -> None:
      for variable, value in before:
        variable.assign(value)

    try:
      with _synchronized(statistics):
        averages = self._average(data, keep)
      restore()
      for module, average in zip(statistics, averages):
        average.assign_to(module)
    except BaseException:  # Including KeyboardInterrupt.
      restore()
      raise

  def _average(self, data: tf.data.Dataset, keep: Callable) -> list['_Average']:
    """Returns the `_Average` of each of the moving statistics.

    Calls `keep` when all variables exist, before any of them changes.
    """
    averages = [_Average() for _ in self._statistics]
    num_batches = num_skipped = 0
    batches = self._strategy.experimental_distribute_dataset(data)
    # Tracing, for all sizes of batches, creates variables of unbuilt networks.
    step = self._step.get_concrete_function(
      batches.element_spec, tf.TensorSpec([], tf.int32)
    )
    keep()
    for index, batch in enumerate(batches):
      counts, moments = step(batch, tf.constant(index))
      weight, num_non_finite = counts.numpy()
      if weight == 0:
        continue
      num_batches += 1
      reached = self._reached(averages, moments)
      is_finite = num_non_finite == 0 and all(
        np.all(variance > _NO_VARIANCE / 2) for _, _, variance in reached
      )
      if not is_finite:
        num_skipped += 1
        continue
      for average, mean, variance in reached:
        average.add(weight, mean, variance)
    if num_batches == 0:
      raise ValueError(
        f'`x` must have rows of nonzero weight, got no rows: {data!r}.'
      )
    if num_skipped:
      message = (
        f'{num_skipped} of {num_batches} batches of `x` have a statistic or a '
        'log-likelihood that is not finite'
      )
      if num_skipped == num_batches:
        raise FloatingPointError(f'{message}.')
      warnings.warn(f'{message}; they are left out.', stacklevel=4)
    return averages

  def _reached(
    self, averages: list['_Average'], moments: list[tuple[tf.Tensor, ...]]
  ) -> list[tuple['_Average', np.ndarray, np.ndarray]]:
    """Returns the averages that a batch moves, with its means and variances."""
    reached = []
    for module, average, (mean, variance, num_updates) in zip(
      self._statistics, averages, moments
    ):
      if num_updates > 1:  # They mix the statistics of several layers.
        raise ValueError(
          'Moving statistics that layers share cannot be re-estimated: '
          f'{module.name!r} moved {int(num_updates)} times in one pass.'
        )
      if num_updates > 0:
        reached.append((average, mean.numpy(), variance.numpy()))
    if not reached:
      raise ValueError(
        '`distribution` must pass `training` on to its moving statistics, got '
        f'{self._distribution!r}.'
      )
    return reached


def as_dataset(
  x: Any,
  condition: Any = None,
  sample_weight: Any = None,
  batch_size: int | None = None,
) -> tf.data.Dataset:
  """Returns a data set of batches.

  Args:
    x: Array `[N, ...]`, or a finite `tf.data.Dataset` of batches, which is
      returned as it is.
    condition: Array `[N, K]`, where `x` is an array.
    sample_weight: Array `[N]`, where `x` is an array.
    batch_size: `int`, where `x` is an array; 256 by default.

  Raises:
    TypeError: If `x`, `condition` or `sample_weight` is not of these types.
    ValueError: If `x` is infinite, if `condition` or `sample_weight` has
      another number of rows, if a weight is negative or not finite, if
      `batch_size` is out of range, or if another argument is given with a
      `tf.data.Dataset`.
  """
  if isinstance(x, tf.data.Dataset):
    for name, value in (
      ('condition', condition),
      ('sample_weight', sample_weight),
      ('batch_size', batch_size),
    ):
      if value is not None:
        raise ValueError(
          f'`{name}` must be None where `x` is a tf.data.Dataset of batches, '
          f'got {value!r}.'
        )
    if x.cardinality() == tf.data.INFINITE_CARDINALITY:
      raise ValueError(f'`x` must be finite, got {x!r}, which repeats forever.')
    return x
  batch_size = util.check_int(
    256 if batch_size is None else batch_size, 'batch_size'
  )
  x = _to_array(x, 'x')
  if condition is not None:
    condition = _to_array(condition, 'condition')
    if len(condition) != len(x):
      raise ValueError(
        f'`condition` must have {len(x)} rows, as many as `x`, got '
        f'{len(condition)}.'
      )
  if sample_weight is not None:
    sample_weight = sample_weights.check(sample_weight, len(x))
  arrays = (x, condition, sample_weight)
  return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)


def _to_array(value: Any, name: str) -> np.ndarray | tf.Tensor:
  """Returns a tensor or NumPy array with rows; keeps float64."""
  try:
    array = value if tf.is_tensor(value) else np.asarray(value)
  except ValueError:  # Rows of different lengths.
    array = None
  if array is None or array.dtype == object or not len(array.shape):
    expected = 'an array or a finite tf.data.Dataset of batches'
    expected = expected if name == 'x' else 'an array'
    raise TypeError(f'`{name}` must be {expected}, got {value!r}.')
  return array


@contextlib.contextmanager
def _synchronized(
  statistics: list[moving_statistics.MovingStatistics],
) -> Iterator[None]:
  """Synchronizes batch statistics in the functions traced in this context."""
  before = [module.synchronized for module in statistics]
  try:
    for module in statistics:
      module.synchronized = True
    yield
  finally:
    for module, synchronized in zip(statistics, before):
      module.synchronized = synchronized


def _make_step(
  statistics: list[moving_statistics.MovingStatistics],
  log_prob_fn: Callable,
  strategy: tf.distribute.Strategy,
) -> Callable:
  """Returns a function from a batch and its index to counts and moments."""

  def count(batch: Any, index: tf.Tensor) -> tf.Tensor:
    log_prob, weight = log_prob_fn(batch, index)
    weight = tf.ones_like(log_prob) if weight is None else weight
    is_finite = tf.math.is_finite(log_prob) | (weight == 0)
    counts = [tf.cast(count, tf.float64) for count in (weight, ~is_finite)]
    counts = tf.stack([tf.reduce_sum(count) for count in counts])
    replica = tf.distribute.get_replica_context()
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, counts)

  @tf.function
  def step(
    batch: Any, index: tf.Tensor
  ) -> tuple[tf.Tensor, list[tuple[tf.Tensor, ...]]]:
    for module in statistics:
      # The first update has the rate 1, so the moving statistics become those
      # of the batch, by which lagged layers then normalize, too.
      module.mean.assign(tf.zeros_like(module.mean))
      module.variance.assign(tf.zeros_like(module.variance) + _NO_VARIANCE)
      module.num_updates.assign(tf.zeros_like(module.num_updates))
    counts = strategy.run(count, (batch, index))
    (counts, *_) = strategy.experimental_local_results(counts)
    moments = [
      tuple(map(tf.identity, (m.mean, m.variance, m.num_updates)))
      for m in statistics
    ]
    return counts, moments

  return step


class _Average:
  """Running mean and variance of the rows of batches (Chan et al., 1979)."""

  def __init__(self) -> None:
    self._weight = self._num_batches = 0
    self._mean = self._variance = 0.0

  def add(self, weight: float, mean: np.ndarray, variance: np.ndarray) -> None:
    """Adds the mean and the variance of a batch with this sum of weights."""
    self._weight += weight
    self._num_batches += 1
    share = weight / self._weight
    difference = mean.astype(np.float64) - self._mean
    self._mean = self._mean + share * difference
    self._variance = (
      (1 - share) * self._variance
      + share * variance.astype(np.float64)
      + share * (1 - share) * difference**2
    )

  def assign_to(self, statistics: moving_statistics.MovingStatistics) -> None:
    """Assigns the result to `statistics`, if there were batches."""
    if self._num_batches:
      statistics.mean.assign(self._mean)
      statistics.variance.assign(self._variance)
      statistics.num_updates.assign(self._num_batches)
