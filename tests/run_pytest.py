"""Runs pytest on a test module: the main program of every Bazel test."""

import sys

import pytest

if __name__ == '__main__':
  # Bazel's directories are read-only. Slow tests run too.
  options = ['-p', 'no:cacheprovider', '-v', '-m', 'slow or not slow']
  sys.exit(pytest.main([*options, *sys.argv[1:]]))
