"""Replaces itself by a program that starts with a given handler of SIGINT.

A process inherits whether SIGINT is ignored, as it is in the background of a
script.
"""

import os
import signal
import sys

handler, *command = sys.argv[1:]
signal.signal(signal.SIGINT, getattr(signal, handler))
os.execv(command[0], command)
