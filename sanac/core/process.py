"""Child processes that the kernel ends together with their parent."""

import ctypes
import os

_DIE_WITH_PARENT, _KILL = 1, 9


def end_with(parent: int) -> bool:
    """Have the kernel kill this process when `parent` ends; False if `parent` has already ended."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, _KILL)
    return os.getppid() == parent
