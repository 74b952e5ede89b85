"""Memory that is freed and memory that is given back are two things: what a limit is about is the latter."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def give_back_when_freed(large: int = _LARGE) -> None:
    """Have large tensors return to the system as soon as they are freed.

    glibc learns from each large block that is freed to take the next ones from its heap, which tensors of mixed
    lifetimes soon make twice as large as what they take. With a fixed threshold it doesn't; that costs up to a fifth of
    the time, so it is for models that are streamed because memory is short. Other systems are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, large)
