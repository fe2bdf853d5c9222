import signal
import sys

import keras
import numpy as np
import pytest

from tests import estimator_testing
from tests import program_testing
from tests import signal_testing
from tfp_realnvp.networks import moving_statistics
from tfp_realnvp.training import callbacks


@pytest.fixture
def stop():
  with signal_testing.stop_on_signal() as stop:
    yield stop


@pytest.mark.parametrize(
  'number, status',
  [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_signals_end_the_program_with_their_status(number, status, stop):
  with pytest.raises(SystemExit) as ended:
    signal.raise_signal(number)
  assert ended.value.code == status
  assert stop.signal == number


def test_signals_wait_for_what_must_not_be_interrupted(stop):
  done = []
  with pytest.raises(SystemExit) as ended:
    with stop.deferred():
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)  # As schedulers do.
      signal.raise_signal(signal.SIGINT)
      done.append(True)
  assert done
  assert ended.value.code == 143


@pytest.mark.parametrize('step, saved', [(None, 'Nothing'), (30, 'Step 30')])
def test_the_step_that_is_saved_is_told(step, saved, stop, capfd, monkeypatch):
  stop.saved_step = step
  print('Before.')
  # A second signal does not hide what is told.
  flush = lambda: signal.raise_signal(signal.SIGTERM)
  monkeypatch.setattr(sys.stdout, 'flush', flush)
  with pytest.raises(SystemExit):
    signal.raise_signal(signal.SIGTERM)
  assert capfd.readouterr().out.endswith(
    f'Before.\nStopped by SIGTERM. {saved} is saved.\n'
  )


@pytest.mark.parametrize(
  'before, inside',
  [
    (signal.SIG_DFL, signal.default_int_handler),
    (signal.SIG_IGN, signal.SIG_IGN),
  ],
)
def test_ctrl_c_is_an_exception_for_a_while(before, inside):
  handler = signal.signal(signal.SIGINT, before)
  try:
    with callbacks.keyboard_interrupts():
      assert signal.getsignal(signal.SIGINT) == inside
    assert signal.getsignal(signal.SIGINT) == before
  finally:
    signal.signal(signal.SIGINT, handler)


def test_an_error_while_saving_after_a_signal_is_raised(stop):
  with pytest.raises(OSError, match='No space left'), stop.deferred():
    signal.raise_signal(signal.SIGTERM)
    raise OSError('No space left.')


class _Stops:
  """Receives a signal where Python ignores exceptions."""

  def __del__(self):
    signal.raise_signal(signal.SIGTERM)


def _main():
  callbacks.StopOnSignal()
  _Stops()


@pytest.mark.slow
def test_a_signal_ends_the_program_where_exceptions_are_ignored():
  process = program_testing.CONTEXT.Process(target=_main)
  process.start()
  process.join(timeout=60)
  assert process.exitcode == 143


def test_signals_that_are_ignored_stay_ignored(stop):
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  again = callbacks.StopOnSignal()
  signal.raise_signal(signal.SIGHUP)
  assert again.signal is None
  with pytest.raises(SystemExit):
    signal.raise_signal(signal.SIGTERM)


def test_fit_stops_after_the_step_of_a_signal(stop):
  model = estimator_testing.vector_estimator()
  number = signal.SIGTERM
  send = keras.callbacks.LambdaCallback(
    on_train_batch_begin=lambda batch, logs: (
      signal.raise_signal(number) if batch == 1 else None
    )
  )
  with pytest.raises(SystemExit), stop.deferred():
    model.fit(
      estimator_testing.vectors(),
      batch_size=4,
      epochs=5,
      callbacks=[send, stop],
      verbose=0,
    )
  assert int(model.step) == 2


def test_learning_rates_of_a_cooldown():
  model = estimator_testing.vector_estimator()
  cooldown = callbacks.Cooldown(0.5, num_steps=6, cooldown_steps=4)
  rates = []
  record = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda batch, logs: rates.append(
      float(model.optimizer.learning_rate)
    )
  )
  x = estimator_testing.vectors()[:24]
  model.fit(x, batch_size=4, callbacks=[cooldown, record], verbose=0)
  np.testing.assert_allclose(rates, [0.5, 0.5, 0.5, 0.375, 0.25, 0.125])


@pytest.mark.slow
def test_averages_are_validated_and_restored():
  x = estimator_testing.vectors()
  model = estimator_testing.vector_estimator()
  optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
  model.compile(optimizer, jit_compile=False)
  variables = model.trainable_variables
  expected, weights = [], []

  class Record(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      weights.append([v.numpy() for v in variables])

    def on_epoch_end(self, epoch, logs=None):
      for variable, average in zip(variables, expected):
        np.testing.assert_allclose(variable, average, rtol=1e-5, atol=1e-7)

    def on_epoch_begin(self, epoch, logs=None):
      if weights:
        for variable, value in zip(variables, weights[-1]):
          np.testing.assert_array_equal(variable, value)

  class Average(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      expected[:] = [
        0.5 * average + 0.5 * value
        for average, value in zip(expected or weights[-1], weights[-1])
      ]

  swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
  history = model.fit(
    x,
    batch_size=4,
    epochs=3,
    validation_data=x,
    callbacks=[swap, Record(), Average()],
    verbose=0,
  ).history
  # Training leaves the averages in the model.
  for variable, average in zip(variables, expected):
    np.testing.assert_allclose(variable, average, rtol=1e-5, atol=1e-7)
  loss = model.evaluate(x, verbose=0, return_dict=True)['loss']
  np.testing.assert_allclose(history['val_loss'][-1], loss, rtol=1e-6)
  assert any(np.any(a != b) for a, b in zip(weights[-1], expected))


@pytest.mark.slow
def test_fits_go_on_from_the_last_weights_beside_averages():
  x = estimator_testing.vectors()
  models = []
  for epochs in ([4], [1, 2, 1]):
    model = estimator_testing.vector_estimator()
    optimizer = keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, jit_compile=False)
    for number in epochs:
      model.fit(
        x,
        batch_size=8,
        epochs=number,
        shuffle=False,
        callbacks=[callbacks.KeepTrainingWeights()],
        verbose=0,
      )
    models.append(model)
  once, several = models
  for a, b in zip(once.variables, several.variables, strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(once.optimizer.variables, several.optimizer.variables):
    np.testing.assert_array_equal(a, b)
  # They are not the averages, with which Keras ends.
  average = several.optimizer._model_variables_moving_average[0]
  assert np.any(several.trainable_variables[0].numpy() != average.numpy())


def _lagged_estimator(**kwargs):
  norm = moving_statistics.BatchNormOptions(lagged=True)
  model = estimator_testing.vector_estimator(norm=norm, compiled=False)
  optimizer = keras.optimizers.Adam(1e-2, **kwargs)
  model.compile(optimizer, jit_compile=False)
  return model


@pytest.mark.slow
def test_evaluations_use_statistics_of_the_moment():
  x = estimator_testing.vectors()
  arguments = {'batch_size': 10, 'verbose': 0}
  model, reference = _lagged_estimator(), _lagged_estimator()
  history = model.fit(
    x,
    epochs=2,
    shuffle=False,
    validation_data=x,
    callbacks=[callbacks.EvaluationStatistics(x, batch_size=20)],
    **arguments,
  ).history
  for epoch in range(2):
    reference.fit(x, shuffle=False, **arguments)
    before = [v.numpy() for v in reference.variables]
    moving = reference.evaluate(x, return_dict=True, **arguments)
    reference.reestimate_statistics(x, batch_size=20)
    expected = reference.evaluate(x, return_dict=True, **arguments)
    found = history['val_loss'][epoch]
    np.testing.assert_allclose(found, expected['loss'], rtol=1e-6)
    assert abs(found / moving['loss'] - 1) > 1e-3
    for variable, value in zip(reference.variables, before):
      variable.assign(value)
  # Training is as if there had been no evaluation.
  for a, b in zip(model.variables, reference.variables, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_statistics_of_averaged_weights():
  x = estimator_testing.vectors()
  model = _lagged_estimator(use_ema=True, ema_momentum=0.9)
  keep = callbacks.KeepTrainingWeights()
  model.fit(x, batch_size=10, epochs=2, callbacks=[keep], verbose=0)
  before = [v.numpy() for v in model.variables]
  found = model.evaluate(
    x,
    verbose=0,
    return_dict=True,
    callbacks=[callbacks.SwapEMAWeights(), callbacks.EvaluationStatistics(x)],
  )
  for variable, value in zip(model.variables, before):
    np.testing.assert_array_equal(variable, value)
  averages = model.optimizer._model_variables_moving_average
  for variable, average in zip(model.trainable_variables, averages):
    variable.assign(average)
  model.reestimate_statistics(x)
  assert found == model.evaluate(x, verbose=0, return_dict=True)


def test_averages_need_an_optimizer_that_has_them():
  model = estimator_testing.vector_estimator()
  with pytest.raises(ValueError, match='use_ema=True'):
    model.fit(
      estimator_testing.vectors(),
      callbacks=[callbacks.SwapEMAWeights(swap_on_epoch=True)],
      verbose=0,
    )
