"""TrainingLoop: trains, evaluates and saves the model of a run."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import sys
import time

import keras
import tensorflow as tf

from tfp_realnvp import util
from tfp_realnvp.paper import data as image_data
from tfp_realnvp.paper import reports
from tfp_realnvp.training import callbacks
from tfp_realnvp.training import checkpoints
from tfp_realnvp.training import density_estimator
from tfp_realnvp.training import optimizer_state

__all__ = ['Schedule', 'TrainingLoop']

_NUM_EVALUATED = 10_000  # Held-out images of an evaluation during training.
_NUM_COUNTED = 10_000  # Images for re-estimated statistics and histograms.
# Statistics for an evaluation come from so many images for each one that was
# trained on since the last. That takes about 3 % of the time of training.
_SHARE_COUNTED = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
  """Numbers of training steps.

  Attributes:
    num_steps: Step at which training ends.
    evaluate_every: Steps between evaluations.
    checkpoint_every: Steps between checkpoints.
    cooldown_steps: Steps at the end over which the learning rate falls linearly
      to 0.
  """

  num_steps: int
  evaluate_every: int
  checkpoint_every: int = 500
  cooldown_steps: int = 0

  def __post_init__(self) -> None:
    for name in ('num_steps', 'evaluate_every', 'checkpoint_every'):
      util.check_int(getattr(self, name), name)
    if not 0 <= self.cooldown_steps <= self.num_steps:
      raise ValueError(
        f'`cooldown_steps` must be from 0 to `num_steps`, {self.num_steps}; '
        f'got {self.cooldown_steps!r}.'
      )


class TrainingLoop:
  """Trains, evaluates and saves the model of a run.

  A run that was stopped goes on where it was. Evaluations during training use
  averages of the weights if the optimizer has them (`use_ema`), and moving
  statistics that are re-estimated for the weights of the moment
  (`callbacks.EvaluationStatistics`). The directory of the run gets

  - `ckpt-N`, the newest checkpoints, from which training resumes;
  - `best/`, the model of the best evaluation so far;
  - `final/`, the model at the end, with statistics of up to 10,000 images;
  - what `reports.Reports` writes.
  """

  def __init__(
    self,
    model: density_estimator.DensityEstimator,
    images: image_data.Data,
    model_dir: pathlib.Path,
    schedule: Schedule,
    stop: callbacks.StopOnSignal,
    seed: int = 0,
  ):
    """Initializes TrainingLoop.

    Args:
      model: Compiled `DensityEstimator`.
      images: Data set, with the `Preset` of the model.
      model_dir: Directory of the run.
      schedule: `Schedule`.
      stop: Callback that ends the program on a signal.
      seed: Seed of the order of the data and of the samples in reports.
    """
    self._model = model
    self._images = images
    self._model_dir = model_dir
    self._schedule = schedule
    self._stop = stop
    self._seed = seed
    self._checkpoints = checkpoints.Checkpoints(
      model, model_dir, schedule.checkpoint_every
    )
    # What turns the model into the one that is evaluated, and back.
    self._averages = []
    if optimizer_state.averages_weights(model.optimizer):
      self._averages = [callbacks.SwapEMAWeights()]
    batch_size = images.preset.training.batch_size
    count = int(_SHARE_COUNTED * batch_size * schedule.evaluate_every)
    statistics = callbacks.EvaluationStatistics(
      self._counted(max(batch_size, count))
    )
    self._evaluation = keras.callbacks.CallbackList(
      [*self._averages, statistics], model=model
    )
    self._report = None

  @property
  def step(self) -> int:
    """The step that the model is at."""
    return self._checkpoints.step

  def run(self) -> None:
    """Goes on from the newest checkpoint, trains, and saves the final model."""
    resumes = self._checkpoints.restore(self._schedule.evaluate_every)
    if resumes:
      self._stop.saved_step = self.step
    self._print(self._beginning(resumes))
    self._report = reports.Reports(
      self._model_dir, self.step, self._checkpoints.is_chief, self._seed
    )
    self._train()
    self._finish()

  def _print(self, text: str) -> None:
    if self._checkpoints.is_chief:
      print(text, flush=True)

  def _beginning(self, resumes: bool) -> str:
    """Returns what to print before the first step."""
    images, end = self._images, self._schedule.num_steps
    sizes = [v.shape.num_elements() for v in self._model.trainable_variables]
    step = f'Resuming at step {self.step}' if resumes else 'Starting at step 0'
    return (
      f'{images.num_train:,} images to train on and {images.num_test:,} held '
      f'out, of shape {images.preset.image_shape}.\n'
      f'{sum(sizes):,} parameters. Writing to --model_dir={self._model_dir}.\n'
      f'{step} of {end}.'
    )

  def _train(self) -> None:
    every, end = self._schedule.evaluate_every, self._schedule.num_steps
    training = self._images.preset.training
    cooldown = callbacks.Cooldown(
      training.learning_rate, end, self._schedule.cooldown_steps
    )
    keep = [callbacks.KeepTrainingWeights()] if self._averages else []
    shows_bar = sys.stdout.isatty()
    seconds = None
    while True:
      step = self.step
      if step > self._report.step and (step % every == 0 or step == end):
        self._evaluate_and_report(seconds)
      if step >= end:
        return
      until = min((step // every + 1) * every, end)
      if shows_bar:
        self._print(f'Steps {step + 1} to {until} of {end}:')
      start = time.monotonic()
      with self._stop.deferred():
        self._model.fit(
          self._images.training_batches(
            training.batch_size, self._seed, start=step
          ),
          steps_per_epoch=until - step,
          shuffle=False,
          verbose='auto' if shows_bar else 0,
          callbacks=[cooldown, *keep, self._checkpoints, self._stop],
        )
        # Saving would wait for the other workers, which may be at another step.
        if not (self._stop.signal and _has_workers(self._model)):
          self._checkpoints.save()
          self._stop.saved_step = self.step
      seconds = (time.monotonic() - start) / (until - step)

  def _evaluate_and_report(self, seconds: float | None) -> None:
    """Evaluates the model, and reports that and the seconds of a step."""
    # Read the metrics of training first, because evaluation resets them.
    metrics = self._model.get_metrics_result()
    metrics = {f'train_{k}': float(v) for k, v in metrics.items()}
    with self._as_evaluated():
      metrics |= self._evaluate(_NUM_EVALUATED)
      if self._report.is_best(metrics):
        self._save('best')
      self._report.write(self.step, metrics, self._model, self._images)
    self._print(
      f'Step {self.step}: train {metrics["train_bits_per_dim"]:.3f}, '
      f'test {metrics["test_bits_per_dim"]:.3f} bits/dim'
      + (f', {seconds:.3g} s per step.' if seconds else '.')
    )

  @contextlib.contextmanager
  def _as_evaluated(self) -> Iterator[None]:
    """Returns a context in which the model is the one to be evaluated."""
    self._evaluation.on_test_begin()
    try:
      yield
    finally:
      self._evaluation.on_test_end()

  def _counted(self, limit: int) -> tf.data.Dataset:
    """Returns batches of training images for statistics, all of one size."""
    limit = min(limit, _NUM_COUNTED, self._images.num_train)
    batch_size = min(256, limit)
    limit = limit // batch_size * batch_size
    return self._images.batches('train', batch_size, limit)

  def _evaluate(self, limit: int = -1) -> dict[str, float]:
    """Returns the metrics of held-out images, with the prefix `test_`."""
    metrics = self._model.evaluate(
      self._images.batches('test', limit=limit), verbose=0, return_dict=True
    )
    return {f'test_{name}': value for name, value in metrics.items()}

  def _save(self, name: str) -> None:
    """Saves the model to a directory of its own."""
    with self._stop.deferred():
      checkpoints.Checkpoints(
        self._model, self._model_dir / name, max_to_keep=1
      ).save()

  def _finish(self) -> None:
    """Re-estimates statistics, saves the final model, and prints the result."""
    model, images = self._model, self._images
    for swap in self._averages:
      swap.on_test_begin()
    model.reestimate_statistics(self._counted(_NUM_COUNTED))
    metrics = self._evaluate()
    self._save('final')
    baseline = reports.histogram_bits_per_dim(
      images.arrays('train', _NUM_COUNTED)[0],
      images.arrays('test', _NUM_COUNTED)[0],
      images.preset.num_levels,
    )
    best_step, best = self._report.best()
    self._report.write_result(
      self.step,
      {
        'bits_per_dim': metrics['test_bits_per_dim'],
        'non_finite': metrics['test_non_finite'],
        'best_bits_per_dim': best,
        'best_step': best_step,
        'histogram_bits_per_dim': baseline,
      },
    )
    paper = images.preset.bits_per_dim
    print(
      f'Step {self.step}: '
      f'test bits/dim {metrics["test_bits_per_dim"]:.3f} '
      f'(non-finite: {metrics["test_non_finite"]:.0f} of {images.num_test} '
      f'images), best during training {best:.3f} at step {best_step}; '
      f'baseline of pixel histograms {baseline:.3f}'
      + (f'; the paper {paper}.' if paper else '.')
      + f'\nSamples beside held-out images: '
      f'{reports.samples_path(self._model_dir, self.step)}'
    )


def _has_workers(model: keras.Model) -> bool:
  return isinstance(
    model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy
  )
