"""Runs `sanac` with something going wrong in the middle of a write: python interrupt.py WHAT AFTER ARGS...

WHAT is a signal's name (it hits this process after AFTER copied chunks), `hold` (it stops there, holding the lock,
until its stdin closes), or `full` (the disk looks roomy beforehand: only the write itself runs into its end).
"""

import itertools
import os
import shutil
import signal
import sys

from sanac.cli import main
from sanac.core import copying

what, after = sys.argv[1], int(sys.argv[2])
sys.argv[1:] = sys.argv[3:]
real_copy, real_usage = copying._copy, shutil.disk_usage
copying._CHUNK = 50_000
copied = itertools.count(1)


def copy(*arguments):
    if next(copied) == after:
        if what == "hold":
            print("holding", flush=True)
            sys.stdin.read()
        elif what != "full":
            os.kill(os.getpid(), getattr(signal, what))
    return real_copy(*arguments)


copying._copy = copy
if what == "full":
    shutil.disk_usage = lambda path: real_usage(path)._replace(free=10**12)
main()
