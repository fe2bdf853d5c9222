"""Trains Real NVP on CIFAR-10 with the paper's recipe.

    python examples/train_cifar.py --model_dir=runs/cifar10

This is train.py with --dataset=cifar10. It has the same flags.
"""

if __name__ == '__main__':
  import quiet_start  # noqa: F401

from absl import app
from absl import flags
import train

if __name__ == '__main__':
  train.define_flags()
  flags.FLAGS.set_default('dataset', 'cifar10')
  app.run(train.main)
