"""Saves what calls of a task of the benchmarks return.

Arguments: the file to write; the number of calls; the architecture, the module,
the task and its options as JSON. PyTorch's compiler, which its optimizers
import, can crash in a process that has imported TensorFlow.
"""

import importlib
import json
import sys

import numpy as np

from benchmarks import tasks

path, count, *arguments = sys.argv[1:]
tasks.ARCHITECTURES['tiny'], module, task, options = map(json.loads, arguments)
run = getattr(importlib.import_module(module), task)(**options)
np.save(path, [run() for _ in range(int(count))])
