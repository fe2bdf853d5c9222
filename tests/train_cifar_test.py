import pytest

from tests import program_testing


@pytest.mark.slow
def test_is_train_with_another_default():
  output = program_testing.run('train_cifar', '--helpfull', expect=1)
  dataset = output.split('--dataset: <')[1].split('--', 1)[0]
  assert "(default: 'cifar10')" in dataset
