"""LikelihoodMetrics: the metrics that a `DensityEstimator` reports."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_realnvp import pixels
from tfp_realnvp.networks import moving_statistics

tfd = tfp.distributions

__all__ = ['LikelihoodMetrics']


class LikelihoodMetrics:
  """Weighted means of the loss and of bits/dim, and a count of failures."""

  def __init__(self, distribution: tfd.Distribution):
    """Initializes LikelihoodMetrics.

    Args:
      distribution: What the log-likelihoods are of.
    """
    dtype = distribution.dtype.name if distribution.dtype.is_floating else None
    self._event_shape = distribution.event_shape
    self._loss = _Mean('loss', dtype)
    self._bits_per_dim = _Mean('bits_per_dim', dtype)
    self._non_finite = keras.metrics.Sum('non_finite')

  @property
  def metrics(self) -> list[keras.Metric]:
    """The Keras metrics."""
    return [self._loss, self._bits_per_dim, self._non_finite]

  def update(
    self,
    log_prob: tf.Tensor,
    weight: tf.Tensor | None,
    l2_term: tf.Tensor,
    skipped: tf.Tensor | bool = False,
  ) -> dict[str, tf.Tensor]:
    """Counts a batch; returns the metrics so far, over all replicas, by name.

    Args:
      log_prob: `[N]`, in nats.
      weight: `[N]`, or `None` for 1. An event of weight 0 does not count.
      l2_term: Scalar that the loss contains.
      skipped: Boolean scalar, whether the batch only counts as `N` failures.
    """
    failed = skipped | ~tf.math.is_finite(log_prob)
    if weight is None:
      weight = tf.ones_like(log_prob)
    else:
      failed &= weight > 0
    self._non_finite.update_state(failed)
    weight = tf.where(skipped, tf.zeros_like(weight), weight)
    log_prob = tf.where(weight == 0, tf.zeros_like(log_prob), log_prob)
    self._loss.update_state(-log_prob + l2_term, weight)
    self._bits_per_dim.update_state(
      pixels.bits_per_dim(log_prob, self._event_shape), weight
    )
    results = {metric.name: _result(metric) for metric in self.metrics}
    if isinstance(
      tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy
    ):
      # Keras takes the mean of what the workers return over its first axis.
      results = {name: value[tf.newaxis] for name, value in results.items()}
    return results


class _Mean(keras.metrics.Mean):
  """A weighted mean, which is NaN if nothing was counted.

  Keras's is 0, which a callback would take for the best of all.
  """

  def result(self) -> tf.Tensor:
    """Returns the mean so far."""
    return self.total / self.count  # 0 / 0 is NaN.


def _result(metric: keras.Metric) -> tf.Tensor:
  """Returns the result of a metric over all replicas."""
  if not moving_statistics.in_sync(True):
    return metric.result()
  replica = tf.distribute.get_replica_context()
  totals = replica.all_reduce(
    tf.distribute.ReduceOp.SUM, [tf.identity(v.value) for v in metric.variables]
  )
  return metric.stateless_result(totals)
