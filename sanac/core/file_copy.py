"""Bytes from one file to another: in the kernel where it can, digests beside the copy, flushed at the end."""

import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from blake3 import blake3

from sanac.core.errors import InvalidInput
from sanac.core.progress import NULL_REPORTER, Reporter

_CHUNK = 16 << 20
_BUFFER = 256 << 10  # stays in the core's own cache between the two digests
_FLUSH_EVERY = 64 << 20  # keeps the disk busy from the start, so that the last flush is short
_AHEAD = 8  # chunks the copy may be ahead of the digests: bounds what must stay in the page cache
_MADE_AHEAD = 8 << 20  # bytes that may be made before their turn
MAKE_STEP = 2 << 20  # bytes to make at a time, where that can be chosen
_ALL_AT_ONCE = 1 << 62
_FICLONE = 0x40049409
_NO_KERNEL_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of a source file that go into the target, under the label their digest is kept by."""

    label: str
    path: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GeneratedBytes:
    """Bytes that no file holds: made step by step when their turn comes, dropped when they are written."""

    label: str
    size: int
    make: Callable[[int, int], bytes | memoryview]  # (start, count) -> these of its bytes
    step: int = _ALL_AT_ONCE

    @property
    def steps(self) -> Iterator[tuple[int, int]]:
        """(start, count) of what is made at a time; a single empty step when there is nothing to make."""
        for start in range(0, max(self.size, 1), self.step):
            yield start, min(self.step, self.size - start)


def whole(label: str, size: int, make: Callable[[], bytes | memoryview]) -> GeneratedBytes:
    """Bytes that can only be made all at once."""
    return GeneratedBytes(label, size, lambda _start, _count: make())


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What was written: the whole file's size and digest, and one digest per label."""

    size: int
    blake3: str
    labels: dict[str, str] = field(default_factory=dict)


def write_parts(
    target: Path, parts: Sequence[Range | GeneratedBytes], *, reporter: Reporter = NULL_REPORTER, digests: bool = True
) -> FileRecord:
    """Write the parts to `target` one after the other, flushed to disk."""
    with ExitStack() as stack:
        out = stack.enter_context(target.open("w+b", buffering=0)).fileno()
        digester = _Digester(out)
        hashing = stack.enter_context(_Follower(ahead=_AHEAD))
        flushing = stack.enter_context(_Follower(ahead=1))
        maker = stack.enter_context(_Maker(parts))
        paths = dict.fromkeys(part.path for part in parts if isinstance(part, Range))
        sources = {path: stack.enter_context(path.open("rb", buffering=0)).fileno() for path in paths}
        position = flushed = 0
        for part, offset, count in _chunks(parts):
            end = position + count
            if isinstance(part, GeneratedBytes):
                _write_all(out, part.label, maker.take(), count, position)
            else:
                _copy_all(part.path, sources[part.path], out, count, offset, position)
            if digests:
                hashing.do(digester.take, part.label, position, count)
            reporter.advance(count)
            position = end
            if position - flushed >= _FLUSH_EVERY:
                flushing.do(os.fdatasync, out)
                flushed = position
        hashing.finish()
        flushing.finish()
        os.fsync(out)
        return digester.result(position) if digests else FileRecord(position, "")


def _chunks(parts: Sequence[Range | GeneratedBytes]) -> Iterator[tuple[Range | GeneratedBytes, int, int]]:
    """(part, offset in its file, bytes); an empty range yields one empty chunk, so that it gets a digest too."""
    for part in parts:
        if isinstance(part, GeneratedBytes):
            yield from ((part, start, count) for start, count in part.steps)
        else:
            for done in range(0, max(part.size, 1), _CHUNK):
                yield part, part.start + done, min(_CHUNK, part.size - done)


def _write_all(target: int, label: str, made: bytes | memoryview, count: int, position: int) -> None:
    data = memoryview(made)
    assert len(data) == count, f"{label}: {len(data)} bytes made, {count} announced"
    while data:
        written = os.pwrite(target, data, position)
        data, position = data[written:], position + written


def _copy_all(path: Path, source: int, target: int, count: int, offset: int, position: int) -> None:
    while count:
        copied = _copy(path, source, target, count, offset, position)
        count, offset, position = count - copied, offset + copied, position + copied


def _copy(path: Path, source: int, target: int, count: int, offset: int, position: int) -> int:
    """Copy up to `count` bytes, in the kernel where both file systems allow it; returns how many went over."""
    copied = 0
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, count, offset, position)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
    if copied == 0:  # no kernel copy here, or the source ended
        data = os.pread(source, count, offset)
        if not data:
            raise InvalidInput(f"{path} ended early", why="it got shorter while it was read")
        copied = os.pwrite(target, data, position)
    return copied


def clone(source: Path, target: Path) -> bool:
    """Share the source's blocks with `target` (copy on write); False where the file system can't."""
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            return False
        os.fsync(writer.fileno())
    return True


def digest_file(path: Path, start: int = 0, size: int | None = None, *, reporter: Reporter = NULL_REPORTER) -> str:
    """The BLAKE3 digest of a file or of a range of it, in constant memory."""
    left = path.stat().st_size - start if size is None else size
    digest, buffer = blake3(), memoryview(bytearray(_BUFFER))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left:
            got = file.readinto(buffer[: min(left, _BUFFER)])
            if not got:
                raise InvalidInput(f"{path} ended early", why=f"{left:,} bytes are missing")
            digest.update(buffer[:got])
            left -= got
            reporter.advance(got)
    return digest.hexdigest()


def digest_bytes(data: bytes) -> str:
    """The BLAKE3 digest of bytes in memory."""
    return blake3(data).hexdigest()


class _Digester:
    """Digests what has been written, read back through the page cache: what is sealed is what is on disk."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = blake3()
        self._label = ""
        self._part = blake3()
        self._labels: dict[str, str] = {}

    def take(self, label: str, position: int, size: int) -> None:
        if label != self._label:
            self._close()
            self._label, self._part = label, blake3()
        if not size:
            return
        shift = position % mmap.ALLOCATIONGRANULARITY
        end = shift + size
        with (
            mmap.mmap(self._target, end, prot=mmap.PROT_READ, offset=position - shift) as window,
            memoryview(window) as view,
        ):
            for start in range(shift, end, _BUFFER):
                with view[start : min(start + _BUFFER, end)] as part:
                    self._whole.update(part)
                    self._part.update(part)

    def _close(self) -> None:
        if self._label:
            self._labels[self._label] = self._part.hexdigest()

    def result(self, size: int) -> FileRecord:
        self._close()
        return FileRecord(size, self._whole.hexdigest(), self._labels)


class _Maker:
    """One thread that makes what no file holds, in order, a little ahead of the writer that takes it."""

    def __init__(self, parts: Sequence[Range | GeneratedBytes]) -> None:
        self._steps = ((part, *step) for part in parts if isinstance(part, GeneratedBytes) for step in part.steps)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[tuple[int, Future[bytes | memoryview]]] = deque()
        self._ahead = 0

    def take(self) -> bytes | memoryview:
        """What comes next."""
        self._start()
        weight, made = self._pending.popleft()
        self._ahead -= weight
        self._start()
        return made.result()

    def _start(self) -> None:
        while self._ahead < _MADE_AHEAD and (step := next(self._steps, None)):
            part, start, count = step
            weight = max(count, MAKE_STEP)  # small ones too: making may read, which should stay near the copy
            self._pending.append((weight, self._pool.submit(part.make, start, count)))
            self._ahead += weight

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Follower:
    """One thread that works behind its feeder, never more than `ahead` tasks; its failure surfaces in the feeder."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future[None]] = deque()

    def do(self, work: Callable[..., None], *arguments: object) -> None:
        self._pending.append(self._pool.submit(work, *arguments))
        while len(self._pending) > self._ahead:
            self._pending.popleft().result()

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
