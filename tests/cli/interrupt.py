"""Runs `sanac` with something going wrong in the middle of a write: python interrupt.py WHAT AFTER ARGS...

WHAT is a signal's name (it hits this process after AFTER copied chunks), `hold` (it stops there, holding the lock,
until its stdin closes), or `full` (the disk looks roomy beforehand: only the write itself runs into its end).
With `-making` behind it, chunks that were made are counted instead of copied ones.
"""

import itertools
import os
import shutil
import signal
import sys

from sanac.cli import main
from sanac.core import file_copy

what, _, making = sys.argv[1].partition("-")
after, counted = int(sys.argv[2]), "_write_all" if making else "_copy"
sys.argv[1:] = sys.argv[3:]
real_copy, real_usage = getattr(file_copy, counted), shutil.disk_usage
file_copy._CHUNK = 50_000
copied = itertools.count(1)


def copy(*arguments):
    if next(copied) == after:
        if what == "hold":
            print("holding", flush=True)
            sys.stdin.read()
        elif what != "full":
            os.kill(os.getpid(), getattr(signal, what))
    return real_copy(*arguments)


setattr(file_copy, counted, copy)
if what == "full":
    shutil.disk_usage = lambda path: real_usage(path)._replace(free=10**12)
main()
