import contextlib
import importlib
import importlib.util
import inspect
import json
import multiprocessing
import subprocess
import sys
import threading
import time

from absl import app
from absl.testing import flagsaver
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import datasets
import tensorflow as tf

from benchmarks import compare
from benchmarks import convolutions
from benchmarks import harness
from benchmarks import profile_step
from benchmarks import tasks
from benchmarks import two_pass
from benchmarks import vector_tasks
from tests import flow_testing
from tests import program_testing
from tfp_realnvp import preprocessing

compare.define_flags()

TINY = {
  'image_size': 8,
  'num_scales': 2,
  'num_blocks': 1,
  'hidden_channels': 4,
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(tasks.ARCHITECTURES, 'tiny', TINY)


@contextlib.contextmanager
def parsed_flags(**values):
  """Gives flags values, as if a program had parsed them."""
  harness.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**values):
    yield
  harness.FLAGS.unparse_flags()


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
  tasks.training_step('tiny', batch_size=4)()
  assert not batches
  step = tasks.training_step('tiny', batch_size=4, from_pipeline=True)
  for _ in range(3):
    step()
  assert [batch.shape for batch in batches] == [(4, 8, 8, 3)] * 3
  # All of them differ, and from what the other variant trains on.
  images = [tasks._images(4, 8), *batches]
  assert len({np.asarray(batch).tobytes() for batch in images}) == 4


def test_pipeline_gives_one_batch_after_another():
  run = tasks.pipeline('tiny', batch_size=2)
  for batch in tasks._training_batches(2, 8).take(3):
    np.testing.assert_array_equal(run(), batch)


@pytest.mark.parametrize('name', compare.BENCHMARKS)
def test_variants_that_are_compared_differ(name):
  seen = []
  for variant in compare.BENCHMARKS[name].values():
    options = variant.options
    if variant.module == tasks.__name__:
      options = {'architecture': 'tiny', 'batch_size': 64} | options
    task = getattr(importlib.import_module(variant.module), variant.task)
    arguments = inspect.signature(task).bind(**options)
    arguments.apply_defaults()
    environment = harness.ENVIRONMENT | variant.environment
    seen.append((variant.task, arguments.arguments, environment))
    assert seen.count(seen[-1]) == 1


@pytest.mark.parametrize('name', ['training_step', 'log_prob', 'sample'])
def test_peers_compute_at_the_same_precision_and_are_compiled_likewise(name):
  variants = compare.BENCHMARKS[name]
  peers = {v.peer: v for v in variants.values() if v.peer}
  assert set(peers) == {n for n in variants if n.startswith('PyTorch')}
  for peer, variant in peers.items():
    assert variants[peer].task == f'pytorch_{variant.task}'
    options = variants[peer].options
    assert options.get('compiled') == variant.options.get('jit_compile')
    assert options.get('bfloat16', False) == (
      variant.options.get('compute_dtype') == 'bfloat16'
    )


def test_program_compares_the_variants_asked_for(tmp_path, monkeypatch, capsys):
  seconds = {'float32': 2.0, 'recomputed': 4.0, 'PyTorch': 3.0}
  variants = {
    'float32': harness.Variant('log_prob', peer='PyTorch'),
    'XLA': harness.Variant('log_prob', {'jit_compile': True}),
    'recomputed': harness.Variant('log_prob', {'recompute': True}),
    'PyTorch': harness.Variant('pytorch_log_prob'),
    'other': harness.Variant('other', packages=('no_such_package',)),
  }

  def measure(variants):
    return {
      name: harness.Result(5.0, 9.0, 100.0, 200.0, [1.0, seconds[name], 8.0])
      for name in variants
    }

  monkeypatch.setitem(compare.BENCHMARKS, 'speed', variants)
  monkeypatch.setattr(harness, 'measure', measure)
  with parsed_flags(
    variants=['float32', 'recomputed', 'PyTorch', 'other'],
    output_dir=str(tmp_path),
  ):
    compare.main(['', 'speed'])
    for names in [], ['speed', 'x']:
      with pytest.raises(app.UsageError, match='Name some of training_step'):
        compare.main(['', *names])
  with parsed_flags(variants=['x']):
    with pytest.raises(app.UsageError, match=r"float32, XLA, .*got \['x'\]"):
      compare.main(['', 'speed'])
  content = json.loads((tmp_path / 'speed.json').read_text())
  first, second, third = content['rows']
  assert first == {
    'variant': 'float32',
    'seconds': 2.0,
    'lowest': 1.0,
    'highest': 8.0,
    'build': 5.0,
    'first call': 9.0,
    'MiB before': 100.0,
    'MiB at most': 200.0,
    'speed / float32': 1.0,
    'speed / peer': 1.5,
  }
  assert second['variant'] == 'recomputed'
  assert second['speed / float32'] == 0.5
  assert second['speed / peer'] is None
  assert third['variant'] == 'PyTorch'
  assert content['options'] == {'architecture': 'small', 'batch_size': 64}
  assert content['machine']['tensorflow']
  assert 'speed / peer' in capsys.readouterr().out


@pytest.mark.slow
def test_tasks_of_vectors_run():
  first = vector_tasks.training_step(3)()
  assert 1 < first / 3 < 3  # The entropy of a normal is 1.4 nats.
  assert vector_tasks.log_prob(3)().shape == (256,)
  assert vector_tasks.sample(3)().shape == (256, 3)


@pytest.mark.slow
def test_fits_of_vectors_learn():
  run = vector_tasks.fit(2)
  assert run() > run()


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['FlowJAX', 'zuko', 'normflows', 'nflows', 'FrEIA']
)
def test_tasks_of_peers_run(name, tmp_path):
  def calls(task, count):
    variant = compare.BENCHMARKS[f'vectors_{task}_2'][name]
    if not all(map(importlib.util.find_spec, variant.packages)):
      pytest.skip(f'{name} is not installed.')
    return calls_in_a_process(tmp_path, count, variant)

  losses = calls('training_step', 20)
  assert losses[-1] < losses[0] < 10
  assert calls('log_prob', 1).shape == (1, 512)
  assert calls('sample', 1).shape == (1, 512, 2)


def _rows(output_dir, name, module, *arguments):
  """Runs a benchmark and returns the rows of one of its tables."""
  subprocess.run(
    [sys.executable, '-m', module, *arguments, f'--output_dir={output_dir}'],
    cwd=program_testing.ROOT,
    env=program_testing.environment(),
    check=True,
  )
  return json.loads((output_dir / f'{name}.json').read_text())['rows']


@pytest.mark.slow
def test_posteriors_are_held_against_their_references(tmp_path):
  rng = np.random.default_rng(0)
  # The parameters behind the data: theirs and far from them.
  for i, center in enumerate([0.0, 30.0]):
    folder = tmp_path / 'reference' / str(i)
    folder.mkdir(parents=True)
    (folder / 'observation.csv').write_text('data_1,data_2\n0.25,0\n')
    theta = pd.DataFrame(rng.normal(center, 0.4, size=[200, 2]))
    theta.to_csv(folder / 'reference_posterior_samples.csv.bz2', index=False)
  (row,) = _rows(
    tmp_path,
    'posteriors_two_moons',
    *('benchmarks.posteriors', 'two_moons', '--models=affine'),
    *('--num_simulations=500', '--epochs=2', f'--reference={folder.parent}'),
  )
  assert row['epochs'] == 2
  # Standardized parameters have 2.84 nats without data.
  assert 2 < row['validation nats'] < 3.2
  assert row['lowest'] < 0.85
  assert row['highest'] == 1
  np.testing.assert_allclose(row['C2ST'], (row['lowest'] + row['highest']) / 2)


@pytest.mark.slow
def test_densities_of_tables_are_held_against_gaussians(tmp_path):
  flow, gaussian, *_ = _rows(
    tmp_path,
    'table_densities_iris',
    *('benchmarks.table_densities', 'iris'),
    '--train_flag=--num_steps=100',
  )
  rows = datasets.load_iris().data
  train, _, test = preprocessing.split(rows, seed=0)
  normal = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True))
  expected = normal.logpdf(test)
  np.testing.assert_allclose(
    gaussian['log-likelihood'], expected.mean(), rtol=1e-3
  )
  np.testing.assert_allclose(
    gaussian['its error'], expected.std() / 30**0.5, rtol=1e-3
  )
  np.testing.assert_allclose(
    gaussian['behind Real NVP'],
    flow['log-likelihood'] - gaussian['log-likelihood'],
  )
  assert flow['behind Real NVP'] == 0


@pytest.mark.slow
def test_networks_that_run_twice_give_the_same_values():
  x = tf.constant(tasks._images(2, 8), tf.float32) + 0.5
  distribution = tasks.build_distribution('tiny')
  flow_testing.randomize(distribution.bijector)
  twice = two_pass.distribution_in_two_passes(distribution)
  np.testing.assert_allclose(
    twice.log_prob(x), distribution.log_prob(x), rtol=1e-5
  )
  counts = [
    flow_testing.count_ops(d.log_prob, x)['Conv2D']
    for d in (distribution, twice)
  ]
  assert counts[1] == 2 * counts[0]


@pytest.mark.slow
def test_inference_tasks_run():
  assert tasks.log_prob('tiny', batch_size=3)().shape == (3,)
  assert tasks.sample('tiny', batch_size=3)().shape == (3, 8, 8, 3)
  images, log_prob = tasks.sample_and_log_prob('tiny', batch_size=3)()
  assert images.shape == (3, 8, 8, 3)
  assert log_prob.shape == (3,)


@pytest.mark.slow
def test_convolutions_are_those_of_the_graph():
  distribution = tasks.build_distribution('tiny')
  calls = convolutions.convolutions_of(distribution, 'training_step', 2)
  # Each network: the input's, two of its block, a skip and the output's.
  assert sum(call.count for call in calls) == 10 * 5 * 3
  # Of the 3 first couplings: 7 channels to 4, 3x3, on 2 images of 8x8.
  (call,) = (
    call
    for call in calls
    if call.kind == 'Conv2D' and call.kernel == (3, 3, 7, 4)
  )
  assert call.count == 3
  assert call.operations == 2 * (2 * 8 * 8) * (3 * 3 * 7 * 4)
  assert call.run().shape == call.output == (2, 8, 8, 4)
  tasks.convolutions_alone('tiny', 2, 'log_prob')()


with_torch = pytest.mark.skipif(
  importlib.util.find_spec('torch') is None, reason='PyTorch is not installed.'
)


def calls_in_a_process(path, count, variant):
  options = variant.options
  if variant.module == tasks.__name__:
    options = {'architecture': 'tiny', 'batch_size': 8} | options
  arguments = map(json.dumps, (TINY, variant.module, variant.task, options))
  program_testing.run_program(
    'benchmark_task', path / 'calls.npy', count, *arguments, check=True
  )
  return np.load(path / 'calls.npy')


@with_torch
def test_pytorch_in_bfloat16_rounds():
  exact = tasks.pytorch_log_prob('tiny', 8)()
  rounded = tasks.pytorch_log_prob('tiny', 8, bfloat16=True)()
  assert rounded.dtype == np.float32
  np.testing.assert_allclose(rounded, exact, rtol=1e-3)
  assert np.abs(rounded / exact - 1).max() > 1e-5
  images = tasks.pytorch_sample('tiny', 3, bfloat16=True)()
  assert images.shape == (3, 3, 8, 8)


@with_torch
@pytest.mark.slow
@pytest.mark.parametrize('bfloat16', [False, True])
def test_pytorch_trains(bfloat16, tmp_path):
  variant = harness.Variant('pytorch_training_step', {'bfloat16': bfloat16})
  losses = calls_in_a_process(tmp_path, 20, variant)
  assert losses[-1] < losses[0]


@with_torch
@pytest.mark.slow
def test_pytorch_compiled_computes_the_same(tmp_path):
  variant = harness.Variant('pytorch_log_prob', {'compiled': True})
  (actual,) = calls_in_a_process(tmp_path, 1, variant)
  expected = tasks.pytorch_log_prob('tiny', 8)()
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@with_torch
def test_the_pytorch_module_is_the_same_flow():
  import torch

  distribution = tasks.build_distribution('tiny')
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


@pytest.mark.slow
def test_variants_take_turns_in_processes_of_their_own():
  variants = {
    'a': harness.Variant('pipeline', {'batch_size': 4}, turn=0.0),
    'b': harness.Variant('pipeline', {'batch_size': 8}, turn=0.0),
  }
  with parsed_flags(rounds=3):
    results = harness.measure(variants)
  for result in results.values():
    assert len(result.seconds) == 3
    assert 0 < result.before <= result.peak
    assert 0 < result.median < result.build


def test_a_turn_is_as_long_as_asked_for(monkeypatch):
  """And gives the time of one call of it."""
  calls = []

  def task():
    return lambda: calls.append(time.sleep(0.01))

  monkeypatch.setattr(tasks, 'task', task, raising=False)
  ours, pipe = multiprocessing.Pipe()
  args = (pipe, tasks.__name__, 'task', {})
  worker = threading.Thread(target=harness._work, args=args, daemon=True)
  worker.start()
  assert ours.poll(60)  # The thread has not died.
  ours.recv()
  for least, low, high in (0.0, 1, 1), (0.2, 2, 20):
    calls.clear()
    ours.send(least)
    seconds, _ = ours.recv()
    assert low <= len(calls) <= high
    assert 0.01 <= seconds
    assert seconds * len(calls) >= least
  ours.close()
  worker.join()


@pytest.mark.slow
def test_profile_adds_up_kernels_and_convolutions(monkeypatch):
  reports = {}
  monkeypatch.setattr(
    harness,
    'report',
    lambda name, _, rows, options: reports.update({name: rows}),
  )
  options = {'architecture': 'tiny', 'batch_size': 2}
  monkeypatch.setattr(harness, 'model_options', lambda: options)
  with parsed_flags(rounds=1):
    profile_step.main([])
  shares = {row[0]: row[3] for row in reports['profile_step']}
  assert sum(shares.values()) == pytest.approx(1)
  assert {'convolution, forward', 'batch norm'} <= set(shares)
  *rows, total = reports['convolutions']
  assert total[3] == sum(row[3] for row in rows) == 10 * 5 * 3
  assert total[-1] == pytest.approx(sum(row[-1] for row in rows))
