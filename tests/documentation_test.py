"""Runs the examples of README.md and of the docstrings."""

import pathlib
import re
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp

_ROOT = pathlib.Path(__file__).parent.parent


def _examples(text):
  return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


@pytest.mark.slow
def test_quickstart(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  readme = (_ROOT / 'README.md').read_text()
  (quickstart,) = _examples(readme)
  shorter = quickstart.replace('epochs=3', 'epochs=1, steps_per_epoch=2')
  assert shorter != quickstart
  names = {}
  exec(shorter, names)
  assert names['samples'].shape == names['latents'].shape == [16, 8, 8, 1]
  assert np.isfinite(names['log_prob']).all()
  assert (tmp_path / 'models' / 'digits' / '1' / 'saved_model.pb').exists()


@pytest.fixture(scope='module')
def names():
  """What the docstrings take as given."""
  names = {name: getattr(tfp_realnvp, name) for name in tfp_realnvp.__all__}
  names |= {
    'keras': keras,
    'tf': tf,
    'tfb': tfp.bijectors,
    'tfd': tfp.distributions,
    'tfp_realnvp': tfp_realnvp,
  }
  images = np.random.default_rng(0).integers(0, 256, [64, 4, 4, 1], np.uint8)
  for name in ('images', 'uint8_images', 'held_out', 'held_out_images'):
    names[name] = images
  setup = """
networks = ResidualNetworks(num_blocks=1, hidden_channels=4)
flow = RealNVPChain((4, 4, 1), networks=networks)
base = tfd.Sample(tfd.Normal(0., 1.), sample_shape=(4, 4, 1))
dist = tfd.TransformedDistribution(base, flow)
model = DensityEstimator(dist)
model.compile('adam')
batches_from = lambda start: tf.data.Dataset.from_tensors(images).repeat()
"""
  exec(setup, names)
  return names


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    name
    for name in tfp_realnvp.__all__
    if _examples(getattr(tfp_realnvp, name).__doc__)
  ],
)
def test_examples_of_docstrings_run(name, names, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  names = dict(names)  # Examples assign to some of them.
  for example in _examples(getattr(tfp_realnvp, name).__doc__):
    example = textwrap.dedent(example).replace('1000', '3')
    exec(example, names)
    # A comment such as [[1., 2.]] is the value of its line.
    for code, value in re.findall(
      r'^(.+?) +# (\[\[.+)$', example, re.MULTILINE
    ):
      np.testing.assert_array_equal(
        np.ravel(eval(code, names)), np.ravel(eval(value))
      )
