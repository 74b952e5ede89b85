"""glibc allocator settings that return freed tensors to the system, so that memory limits hold."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 20


def give_back_when_freed(large: int = _LARGE) -> None:
    """Make glibc return allocations of at least `large` bytes to the system as soon as they are freed.

    By default glibc raises its mmap threshold with each large block freed and serves the next ones from its heap, which
    tensors of mixed lifetimes soon fragment to twice their size. A fixed threshold avoids that and costs up to 20 % of
    the time, so it is only used for models streamed for lack of memory. Other C libraries are left unchanged.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, large)
