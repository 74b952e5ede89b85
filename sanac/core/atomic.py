"""Write a file whole or not at all: beside its place, flushed, renamed, and the rename flushed too.

What a killed process leaves has a name of its own (`NAME.partial`), which the next write of the same file reuses.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file; on any failure the one that was there before stays as it was."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_path(path: Path, suffix: str = PARTIAL) -> Iterator[Path]:
    """The path to write to (`path` and the suffix); it becomes `path` at the end, and is deleted on any failure."""
    partial = path.with_name(path.name + suffix)
    try:
        yield partial
        flush(partial)
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_flushed(path: Path, data: bytes) -> None:
    """Write a file in place and flush it: for folders that are themselves renamed when they are whole."""
    path.write_bytes(data)
    flush(path)


def flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's entries, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
