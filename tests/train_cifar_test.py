from absl import flags
import train
import train_cifar


def test_is_train_with_another_default():
  assert train_cifar.train is train
  assert flags.FLAGS['dataset'].default == 'cifar10'
