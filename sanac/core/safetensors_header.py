"""The tensors of a .safetensors file, read from its header alone. The file is treated as untrusted."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.errors import InvalidInput

MAX_HEADER_BYTES = 100_000_000
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor that is not loaded: the byte range, dtype and shape to read it by."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int  # absolute position in the file
    size: int  # bytes

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: its tensors in file order, and the raw bytes of the header."""

    path: Path
    raw: bytes
    tensors: Mapping[str, TensorRef]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Parse and check the header of `path`: sizes, names, dtypes, and offsets without gaps or overlaps."""
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            _check_length(path, len(prefix), length, file_size)
            raw = file.read(length)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error
    entries = json_files.parse_object(raw, f"the header of {path}")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidInput(f"the header of {path} is broken", why="__metadata__ must map strings to strings")
    problems: list[str] = []
    refs: list[TensorRef] = []
    for name, entry in entries.items():
        try:
            refs.append(_tensor(name, entry, path, 8 + length))
        except ValueError as error:
            problems.append(f"{name}: {error}")
    refs.sort(key=lambda ref: (ref.start, ref.size))
    problems += _layout_problems(refs, 8 + length, file_size) if not problems else []
    if problems:
        raise InvalidInput(
            f"the header of {path} is broken",
            why=problems[0],
            problems=problems,
            hint="the file is damaged or truncated: fetch it again",
        )
    return Header(path, raw, {ref.name: ref for ref in refs}, metadata)


def _check_length(path: Path, prefix: int, length: int, file_size: int) -> None:
    why = ""
    if file_size == 0:
        why = "it is empty"
    elif prefix < 8:
        why = f"it has only {file_size} bytes"
    elif length > MAX_HEADER_BYTES or length > file_size - 8:
        why = f"its header claims {length:,} bytes, the file has {file_size:,}"
    if why:
        raise InvalidInput(
            f"{path} is not a complete .safetensors file",
            why=why,
            hint="fetch it again; if it is a Git LFS pointer, run `git lfs pull`",
        )


def _tensor(name: str, entry: Any, path: Path, data_start: int) -> TensorRef:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("an entry needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"unknown dtype {dtype!r}")
    if not _naturals(shape):
        raise ValueError(f"shape {shape!r} is not a list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"data_offsets {offsets!r} are not a range")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{dtype} {shape} takes {bits // 8} bytes, its range has {offsets[1] - offsets[0]}")
    return TensorRef(name, dtype, tuple(shape), path, data_start + offsets[0], offsets[1] - offsets[0])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)


def _layout_problems(refs: list[TensorRef], data_start: int, file_size: int) -> list[str]:
    """Gaps, overlaps and truncation: the format requires byte ranges that fill the file exactly, in any order."""
    problems: list[str] = []
    position = data_start
    for ref in refs:
        if ref.start != position:
            what = "overlaps the tensor before it" if ref.start < position else "leaves a gap before it"
            problems.append(f"{ref.name}: its range {what}")
        position = max(position, ref.start + ref.size)
    if position != file_size:
        what = "is truncated" if position > file_size else "has bytes that belong to no tensor"
        problems.append(f"the file {what}: {position:,} bytes according to its header, {file_size:,} on disk")
    return problems
