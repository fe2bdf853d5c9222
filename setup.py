"""Packaging of tfp_realnvp."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_ROOT / 'tfp_realnvp' / '__init__.py').read_text()
).group(1)

# TFP needs tf-keras beside TensorFlow, of the same release, and setuptools.
_REQUIRED = [
  'absl-py>=2.0',
  'numpy>=1.26',
  'setuptools',
  'tensorflow>=2.18',
  'tensorflow-probability>=0.25',
  'tf-keras>=2.18',
]
# TFDS imports importlib_resources without declaring it.
_EXAMPLES = [
  'importlib_resources>=6.0',
  'matplotlib>=3.8',
  'scikit-learn>=1.4',
  'tensorboard>=2.18',
  'tensorflow-datasets>=4.9.8',
]
_TESTS = _EXAMPLES + ['hypothesis>=6.100', 'pytest>=8.0', 'pytest-xdist>=3.5']
_DEVELOPMENT = _TESTS + ['pre-commit>=3.7', 'ruff==0.17.6']

setuptools.setup(
  name='tfp_realnvp',
  version=_VERSION,
  description='Real NVP as TensorFlow Probability bijectors.',
  long_description=(_ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=['tfp_realnvp'],
  python_requires='>=3.10',
  install_requires=_REQUIRED,
  extras_require={
    'examples': _EXAMPLES,
    'tests': _TESTS,
    'development': _DEVELOPMENT,
  },
)
