import importlib
import importlib.util
import inspect
import json

from absl.testing import flagsaver
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import harness
from benchmarks import tasks
from tests import flow_testing

TINY = {
  'image_size': 8,
  'num_scales': 2,
  'num_blocks': 2,
  'hidden_channels': 4,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(tasks.ARCHITECTURES, 'tiny', TINY)


@pytest.mark.slow
@pytest.mark.parametrize('twice', [False, True])
def test_step_trains(twice):
  step = tasks.training_step('tiny', batch_size=8, twice=twice)
  losses = [step() for _ in range(20)]
  assert losses[-1] < losses[0]


@pytest.mark.slow
def test_steps_from_the_pipeline_train_on_its_batches(monkeypatch):
  batches = []
  training_batches = tasks._training_batches

  def recorded(*args):
    for batch in training_batches(*args):
      batches.append(batch)
      yield batch

  monkeypatch.setattr(tasks, '_training_batches', recorded)
  tasks.training_step('tiny', batch_size=4, steps=3)()
  assert not batches
  step = tasks.training_step('tiny', batch_size=4, steps=3, from_pipeline=True)
  step()
  step()
  assert [batch.shape for batch in batches] == [(4, 8, 8, 3)] * 6
  # All of them differ, and from what the other variant trains on.
  images = [tasks._images(4, 8), *batches]
  assert len({np.asarray(batch).tobytes() for batch in images}) == 7


def test_pipeline_starts_again_and_gives_as_many_batches_as_asked_for():
  run = tasks.pipeline(batch_size=2, image_size=8, batches=3)
  *_, third = tasks._training_batches(2, 8).take(3)
  for _ in range(2):
    np.testing.assert_array_equal(run(), third)


@pytest.mark.parametrize(
  'program',
  [
    'first_step',
    'inference',
    'input_pipeline',
    'memory',
    'scaling',
    'serving',
    'training_step',
  ],
)
def test_variants_that_are_compared_differ(program, monkeypatch):
  measured, reports = [], []

  def measure(variants, rounds=None):
    measured.append(variants)
    result = harness.Result([1.0, 2.0], 1.0, 1.0, 1.0, 2.0)
    return dict.fromkeys(variants, result)

  monkeypatch.setattr(harness, 'measure', measure)
  monkeypatch.setattr(harness, 'report', lambda *args: reports.append(args))
  existing = set(harness.FLAGS)
  harness.FLAGS.unparse_flags()
  module = importlib.import_module(f'benchmarks.{program}')
  try:
    harness.FLAGS.mark_as_parsed()
    module.main([])
  finally:  # Programs have flags of one name.
    for name in set(harness.FLAGS) - existing:
      delattr(harness.FLAGS, name)
    harness.FLAGS.unparse_flags()
  assert measured and reports
  for variants in measured:
    seen = []
    for variant in variants.values():
      task = inspect.signature(getattr(tasks, variant.task))
      arguments = task.bind(**variant.options)
      arguments.apply_defaults()
      environment = harness.ENVIRONMENT | variant.environment
      seen.append((variant.task, arguments, environment))
      assert seen.count(seen[-1]) == 1


def test_networks_that_run_twice_give_the_same_values():
  x = tf.constant(tasks._images(2, 8), tf.float32) + 0.5
  distribution = tasks._distribution('tiny')
  flow_testing.randomize(distribution.bijector)
  twice = tasks._run_twice(distribution)
  np.testing.assert_allclose(
    twice.log_prob(x), distribution.log_prob(x), rtol=1e-5
  )
  counts = [
    flow_testing.count_ops(d.log_prob, 'Conv2D', x)
    for d in (distribution, twice)
  ]
  assert counts[1] == 2 * counts[0]


def test_inference_tasks_run():
  assert tasks.log_prob('tiny', batch_size=3)().shape == (3,)
  assert tasks.sample('tiny', batch_size=3)().shape == (3, 8, 8, 3)
  images, log_prob = tasks.sample_and_log_prob('tiny', batch_size=3)()
  assert images.shape == (3, 8, 8, 3)
  assert log_prob.shape == (3,)


def test_convolutions_are_those_of_the_graph():
  calls = tasks.convolution_calls('tiny', 'training_step', batch_size=2)
  # Each network: the input's, two blocks of two, two skips and the output's.
  assert sum(call.count for call in calls) == 10 * 8 * 3
  # Of the 3 first couplings: 7 channels to 4, 3x3, on 2 images of 8x8.
  (call,) = (
    call
    for call in calls
    if call.kind == 'Conv2D' and call.kernel == (3, 3, 7, 4)
  )
  assert call.count == 3
  assert call.operations == 2 * (2 * 8 * 8) * (3 * 3 * 7 * 4)
  assert call.run().shape == call.output == (2, 8, 8, 4)
  tasks.convolutions('tiny', 'log_prob', batch_size=2)()


@pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed.'
)
def test_the_pytorch_module_is_the_same_flow():
  import torch

  distribution = tasks._distribution('tiny')
  flow = flow_testing.randomize(distribution.bijector)
  model = tasks._pytorch('tiny').eval()
  networks = [m for m in flow.submodules if hasattr(m, 'input_kernel')]
  others = [m for m in model.modules() if type(m).__name__ == '_Network']
  assert len(networks) == len(others) == 10
  parameter = lambda value: torch.tensor(np.asarray(value))
  kernel = lambda value: parameter(np.transpose(value, [3, 2, 0, 1]))
  column = lambda value: parameter(value)[:, None, None, None]

  def assign(target, **values):
    for name, value in values.items():
      getattr(target, name).data.copy_(value)

  def assign_norm(norm, offset, mean, variance):
    assign(
      norm,
      bias=parameter(offset),
      running_mean=parameter(mean),
      running_var=parameter(variance),
    )

  with torch.no_grad():
    for ours, theirs in zip(networks, others):
      statistics = ours.statistics
      norms = iter(zip(ours.offsets, statistics.mean, statistics.variance))
      assign_norm(
        theirs.input_norm,
        ours.input_offset,
        ours.input_statistics.mean,
        ours.input_statistics.variance,
      )
      assign(theirs.input, kernel=kernel(ours.input_kernel))
      for i, block in enumerate(theirs.blocks):
        norm_0, _, first, norm_1, _, second = block.layers
        assign_norm(norm_0, *next(norms))
        assign(first, kernel=kernel(ours.first_kernels[i]))
        assign_norm(norm_1, *next(norms))
        assign(
          second,
          kernel=kernel(ours.second_kernels[i]),
          magnitude=column(ours.second_magnitudes[i]),
        )
      for i, skip in enumerate(theirs.skips):
        assign(
          skip,
          kernel=kernel(ours.skip_kernels[i]),
          magnitude=column(ours.skip_magnitudes[i]),
        )
      norm, _, output = theirs.output
      assign_norm(norm, *next(norms))
      assign(
        output,
        kernel=kernel(ours.output_kernel),
        magnitude=column(ours.output_magnitude),
        bias=parameter(ours.output_bias),
      )
      assign(theirs, magnitude=parameter(ours.magnitude))
    norms = [m for m in flow.submodules if hasattr(m, 'epsilon')]
    others = [
      m for m in model.modules() if type(m).__name__ == '_FlowBatchNorm'
    ]
    assert len(norms) == len(others) == 10
    for ours, theirs in zip(norms, others):
      assign(
        theirs,
        mean=parameter(ours.statistics.mean),
        variance=parameter(ours.statistics.variance),
      )
    images = tasks._images(2, 8) + np.float32(0.5)
    log_prob = model.log_prob(torch.tensor(images.transpose(0, 3, 1, 2)))
  np.testing.assert_allclose(log_prob, distribution.log_prob(images), rtol=1e-5)


def test_report_writes_what_was_measured(tmp_path, capsys):
  result = harness.Result([3.0, 1.0, 2.0], 5.0, 9.0, 100.0, 200.0)
  slow = harness.Result([4.0], 5.0, 9.0, 100.0, 200.0)
  harness.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(output_dir=str(tmp_path)):
    harness.report_speed('speed', {'ours': result, 'slow': slow}, ['slow', 'x'])
  harness.FLAGS.unparse_flags()
  content = json.loads((tmp_path / 'speed.json').read_text())
  assert content['rows'][0] == {
    'variant': 'ours',
    'seconds': 2.0,
    'lowest': 1.0,
    'highest': 3.0,
    'first call': 9.0,
    'speed / slow': 2.0,
  }
  assert content['machine']['tensorflow']
  assert 'speed / slow' in capsys.readouterr().out


@pytest.mark.slow
def test_variants_take_turns_in_processes_of_their_own():
  variant = harness.Variant('pipeline', {'batch_size': 4, 'image_size': 8})
  results = harness.measure({'a': variant, 'b': variant}, rounds=3)
  for result in results.values():
    assert len(result.seconds) == 3
    assert 0 < result.base_memory <= result.peak_memory
    assert 0 < result.median < result.build
