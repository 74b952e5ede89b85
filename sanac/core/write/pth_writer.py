"""Writes .pth files: torch's zip of a pickle and raw storages, streamed with at most one chunk in memory.

The pickle is written opcode by opcode; no pickler runs. Checksums are computed one entry ahead of the copy.
"""

import itertools
import math
import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sanac.core.artifact.staging import StagingArea
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import GeneratedBytes, Range, whole
from sanac.core.progress import Reporter
from sanac.core.write.safetensors_writer import TensorSource, place_weights

_FOLDER = "archive"
_ALIGN = 64
_STORAGES = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
    "I32": "IntStorage",
    "I16": "ShortStorage",
    "I8": "CharStorage",
    "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}
_WINDOW = 16 << 20
_LIMIT_32 = 0xFFFF_FFFF


def write_pth(
    staging: StagingArea, name: str, tensors: Sequence[TensorSource], *, reporter: Reporter
) -> dict[str, str]:
    """Write `{"state_dict": pieces}` as one .pth file that torch and NVlabs' code load; returns tensor digests."""
    unknown = sorted({tensor.dtype for tensor in tensors} - set(_STORAGES))
    if unknown:
        raise InvalidInput(f"a .pth file can't hold {', '.join(unknown)} here", hint="convert to safetensors instead")
    with ThreadPoolExecutor(max_workers=1) as pool:
        entries = [*_small_entries(tensors), *_tensor_entries(tensors, pool)]
        return place_weights(staging, name, tensors, list(_archive(entries)), reporter=reporter)


@dataclass(frozen=True)
class _Entry:
    """One entry of the archive: its name, its bytes, and their checksum."""

    name: str
    parts: tuple[Range | GeneratedBytes, ...]
    checksum: "_Checksum"

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


class _Checksum:
    """The CRC-32 of an entry's bytes, computed in the background one entry before it is needed."""

    def __init__(self, parts: Sequence[Range | GeneratedBytes], pool: ThreadPoolExecutor | None) -> None:
        self._parts = parts
        self._pool = pool
        self._future: Future[int] | None = None
        self.following: _Checksum | None = None

    def start(self) -> None:
        if self._pool is not None and self._future is None:
            self._future = self._pool.submit(_crc, self._parts)

    def value(self) -> int:
        self.start()
        if self.following:
            self.following.start()
        return self._future.result() if self._future else _crc(self._parts)


def _crc(parts: Sequence[Range | GeneratedBytes]) -> int:
    value = 0
    for part in parts:
        if isinstance(part, GeneratedBytes):
            for start, count in part.steps:
                value = zlib.crc32(part.make(start, count), value)
        else:
            for chunk in _windows(part):
                value = zlib.crc32(chunk, value)
    return value


def _windows(part: Range) -> Iterator[memoryview]:
    with part.path.open("rb") as file:
        for done in range(0, part.size, _WINDOW):
            start, size = part.start + done, min(_WINDOW, part.size - done)
            shift = start % mmap.ALLOCATIONGRANULARITY
            try:
                window = mmap.mmap(file.fileno(), size + shift, prot=mmap.PROT_READ, offset=start - shift)
            except ValueError as error:
                raise InvalidInput(f"{part.path} is truncated", why="it was truncated while it was read") from error
            with window, memoryview(window) as view, view[shift:] as chunk:
                yield chunk


def _small_entries(tensors: Sequence[TensorSource]) -> Iterator[_Entry]:
    for name, data in (("data.pkl", _describe(tensors)), ("byteorder", b"little"), ("version", b"3\n")):
        parts = (whole("", len(data), lambda data=data: data),)  # type: ignore[misc]
        yield _Entry(name, parts, _Checksum(parts, None))


def _tensor_entries(tensors: Sequence[TensorSource], pool: ThreadPoolExecutor) -> list[_Entry]:
    entries = [_Entry(f"data/{n}", p.parts, _Checksum(p.parts, pool)) for n, p in enumerate(tensors)]
    for entry, following in itertools.pairwise(entries):
        entry.checksum.following = following.checksum
    return entries


def _archive(entries: Sequence[_Entry]) -> Iterator[Range | GeneratedBytes]:
    """The bytes of the zip file in order: header and data of each entry, then the central directory."""
    position = 0
    offsets: list[int] = []
    for entry in entries:
        name = f"{_FOLDER}/{entry.name}".encode()
        fixed = 30 + len(name) + 4
        padding = -(position + fixed) % _ALIGN
        offsets.append(position)
        yield whole("", fixed + padding, lambda e=entry, n=name, p=padding: _local_header(e, n, p))  # type: ignore[misc]
        yield from entry.parts
        position += fixed + padding + entry.size
    size = sum(len(_central(entry, offset, 0)) for entry, offset in zip(entries, offsets, strict=True))
    end = _end(len(entries), size, position)
    yield whole("", size + len(end), lambda: _directory(entries, offsets) + end)


def _local_header(entry: _Entry, name: bytes, padding: int) -> bytes:
    if entry.size > _LIMIT_32:
        raise InvalidInput(f"{entry.name} is too large for a .pth file", why=f"it has {entry.size:,} bytes")
    crc = entry.checksum.value()
    fields = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0x21, crc, entry.size, entry.size, len(name), padding + 4
    )
    return fields + name + struct.pack("<HH", 0x4246, padding) + b"Z" * padding


def _central(entry: _Entry, offset: int, crc: int) -> bytes:
    name = f"{_FOLDER}/{entry.name}".encode()
    far = offset > _LIMIT_32 - 1
    extra = struct.pack("<HHQ", 1, 8, offset) if far else b""
    where = _LIMIT_32 if far else offset
    version = 45 if far else 20
    fields = struct.pack("<4sHHHHHHIII", b"PK\1\2", version, version, 0, 0, 0, 0x21, crc, entry.size, entry.size)
    return fields + struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, where) + name + extra


def _directory(entries: Sequence[_Entry], offsets: Sequence[int]) -> bytes:
    rows = zip(entries, offsets, strict=True)
    return b"".join(_central(entry, offset, entry.checksum.value()) for entry, offset in rows)


def _end(count: int, size: int, start: int) -> bytes:
    """The end of the central directory, with the zip64 record that large archives need."""
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
    narrow = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _LIMIT_32, _LIMIT_32, 0)
    return wide + locator + narrow


def _describe(tensors: Sequence[TensorSource]) -> bytes:
    """The pickle of {"state_dict": OrderedDict(name -> tensor on storage number n)}, protocol 2."""
    out = [b"\x80\x02}", _text("state_dict"), b"ccollections\nOrderedDict\n)R("]
    for number, tensor in enumerate(tensors):
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        out += [_text(tensor.name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        out += [_text("storage"), f"ctorch\n{_STORAGES[tensor.dtype]}\n".encode(), _text(str(number)), _text("cpu")]
        out += [_integer(math.prod(tensor.shape)), b"tQ", _integer(0), _tuple(tensor.shape), _tuple(strides)]
        out += [b"\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join([*out, b"us."])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    data = number.to_bytes((number.bit_length() + 8) // 8, "little")
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(_integer(number) for number in numbers) + b"t"
