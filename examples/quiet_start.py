"""Makes a program start quietly. Programs import it before all others.

Without --verbosity, it hides messages of TensorFlow's C++ code, warnings of its
Python code, and what others log below warnings. Ctrl-C ends the program without
a traceback, with status 130 in a shell. If SIGINT is ignored, it remains so.
"""

import logging as python_logging
import os
import signal
import sys

from absl import logging

if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
  signal.signal(signal.SIGINT, signal.SIG_DFL)
logging.set_verbosity(logging.WARNING)
# TensorFlow is imported before flags are parsed.
is_verbose = any(argument.startswith(('-v', '--v')) for argument in sys.argv)
if not is_verbose and sys.stderr is not None:
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  python_logging.getLogger('tensorflow').setLevel('ERROR')
  # Some messages ignore this level while TensorFlow is being imported.
  stderr = os.dup(2)
  with open(os.devnull, 'w') as nothing:
    os.dup2(nothing.fileno(), 2)
  try:
    import tensorflow  # noqa: F401
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
