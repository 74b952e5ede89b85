"""Atomic file writes: to a temporary name in the same folder, flushed, renamed, and the rename flushed too.

A killed process leaves only the temporary file (`NAME.partial`), which the next write of the same file replaces.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sanac.core.confined import AnyPath, ConfinedPath

PARTIAL = ".partial"


def write_atomically(path: AnyPath, data: bytes) -> None:
    """Write `data` to `path` atomically; on any failure the previous file is unchanged."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_path(path: AnyPath, suffix: str = PARTIAL) -> Iterator[Path]:
    """A temporary path (`path` plus `suffix`) to write to; renamed to `path` on success, deleted on any failure."""
    partial = path.with_name(path.name + suffix)
    partial.unlink(missing_ok=True)  # what a killed process left, or a link
    try:
        yield Path(partial)
        flush(partial)
        _rename(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def _rename(partial: AnyPath, path: AnyPath) -> None:
    if isinstance(partial, ConfinedPath) and isinstance(path, ConfinedPath):
        partial.rename(path)
    else:
        Path(partial).rename(path)


def write_flushed(path: ConfinedPath, data: bytes) -> None:
    """Write a file in place and flush it, inside a folder that is itself renamed when it is complete."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    flush(path)


def flush(path: AnyPath) -> None:
    """Flush a file's bytes, or a folder's entries, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
