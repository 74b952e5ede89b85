"""The tensors of a .pth file by byte range, read without running any code from it.

torch's format is an uncompressed zip: a pickle that describes tensors, and one entry of raw bytes per storage.
The pickle is read by an unpickler that accepts the few names such a description needs and refuses all others;
accepted names map to plain records, so nothing in the file is ever imported or called.
"""

import io
import math
import pickle  # noqa: TID251 (only through _Describer, which resolves no name to real code)
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import DTYPE_BITS, TensorRef

MAX_PICKLE_BYTES = 100_000_000
_DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
# Harmless objects that training checkpoints store with the weights. They become empty records.
_INERT = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
    ("builtins", "set"),
    ("builtins", "slice"),
    ("argparse", "Namespace"),
    ("collections", "defaultdict"),
    ("torch", "Size"),
    ("torch", "device"),
}


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage: a byte range of the file, and the dtype of its items."""

    dtype: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as the pickle describes it: a view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Entries(dict[Any, Any]):
    """An OrderedDict; attributes that torch attaches to it are dropped."""

    def __setstate__(self, _: Any) -> None:
        """Discard the attributes."""


class _Record(dict[Any, Any]):
    """Stands in for any object that is not a tensor: accepts all arguments and discards them."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        """Discard the state."""


class _Describer(pickle.Unpickler):
    """An unpickler that resolves names to the records of this module only."""

    def __init__(self, data: bytes, storage: Callable[[str, str, int], _Storage]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """This module's record for a known name; raises for any other."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in {"torch", "torch.storage"} and name in _DTYPES:
            return name
        if (module, name) in _INERT:
            return _Record
        raise _Refused(f"its pickle refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor's persistent id refers to."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, str) or not isinstance(key, str) or type(count) is not int:
            raise ValueError(f"{pid!r} is not a storage")
        return self._storage(dtype, key, count)


class _Refused(Exception):
    """The pickle refers to a name that no description of tensors needs."""


def _tensor(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    sizes = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
        raise ValueError("a tensor with impossible sizes")
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): _Entries,
}


@dataclass(frozen=True)
class PthContents:
    """The content of a .pth file: its dictionaries of tensors, by their top-level key."""

    groups: Mapping[str, Mapping[str, TensorRef]]  # '' is the top level
    keys: tuple[str, ...]  # all top-level keys, tensors or not
    raw: bytes  # the pickle: identifies the file, together with size and mtime


def read_pth(path: Path) -> PthContents:
    """The tensors of a .pth file by byte range; InvalidInput for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive)
            raw = archive.read(entries["data.pkl"].info)
            order = entries.get("byteorder")
            if order and archive.read(order.info).strip() != b"little":
                raise ValueError("its numbers are big-endian")
    except zipfile.BadZipFile as error:
        legacy = path.stat().st_size > 2 and path.open("rb").read(2) == b"\x80\x02"
        why = "it has torch's format from before 1.6" if legacy else str(error)
        hint = "load and save it again with a current torch" if legacy else "fetch it again: it is damaged or truncated"
        raise InvalidInput(f"{path} is not a .pth file of torch 1.6 or newer", why=why, hint=hint) from error
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise InvalidInput(f"{path} is not a complete .pth file", why=str(error).strip("'")) from error
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error
    return _contents(path, raw, entries)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the zip archive, and the offset of its bytes in the file."""

    info: zipfile.ZipInfo
    start: int


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, _Entry]:
    """The archive's entries by name below its top folder; ValueError if one is compressed, repeated or truncated."""
    file_size = path.stat().st_size
    found: dict[str, _Entry] = {}
    with path.open("rb") as file:
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if name in found or info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"the entry {info.filename!r} appears twice or is compressed")
            file.seek(info.header_offset)
            local = file.read(30)
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise ValueError(f"the entry {info.filename!r} has no header")
            start = (
                info.header_offset
                + 30
                + int.from_bytes(local[26:28], "little")
                + int.from_bytes(local[28:30], "little")
            )
            if start + info.file_size > file_size:
                raise ValueError(f"the entry {info.filename!r} is truncated")
            found[name] = _Entry(info, start)
    if "data.pkl" not in found:
        raise ValueError("it has no data.pkl")
    if found["data.pkl"].info.file_size > MAX_PICKLE_BYTES:
        raise ValueError("its data.pkl is too large to be a description of tensors")
    return found


def _contents(path: Path, raw: bytes, entries: Mapping[str, _Entry]) -> PthContents:
    def storage(dtype: str, key: str, count: int) -> _Storage:
        entry = entries[f"data/{key}"]
        if count * DTYPE_BITS[_DTYPES[dtype]] != 8 * entry.info.file_size:
            raise ValueError(
                f"storage {key} should have {count:,} items of {dtype}, it has {entry.info.file_size:,} bytes"
            )
        return _Storage(_DTYPES[dtype], entry.start, entry.info.file_size)

    try:
        top = _Describer(raw, storage).load()
    except _Refused as error:
        raise InvalidInput(
            f"{path} is refused: loading it could run code",
            why=str(error),
            hint="if you trust its source, load it with torch and save only the state_dict",
        ) from error
    except _BROKEN_PICKLE as error:
        raise InvalidInput(
            f"{path} has an invalid description of its tensors", why=str(error) or type(error).__name__
        ) from error
    if not isinstance(top, dict):
        raise InvalidInput(f"{path} does not hold a dictionary of tensors", why=f"it holds a {type(top).__name__}")
    groups = {"": top} | {key: value for key, value in top.items() if isinstance(key, str) and isinstance(value, dict)}
    tensors = {name: _references(path, group) for name, group in groups.items()}
    return PthContents({name: found for name, found in tensors.items() if found}, tuple(map(str, top)), raw)


_BROKEN_PICKLE = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    MemoryError,
    OverflowError,
    RecursionError,
)


def _references(path: Path, group: Mapping[Any, Any]) -> dict[str, TensorRef]:
    return {
        name: _reference(path, name, tensor)
        for name, tensor in group.items()
        if isinstance(name, str) and isinstance(tensor, _Tensor)
    }


def _reference(path: Path, name: str, tensor: _Tensor) -> TensorRef:
    """The byte range of a tensor; InvalidInput unless it is contiguous in its storage."""
    item = DTYPE_BITS[tensor.storage.dtype] // 8
    size = math.prod(tensor.shape) * item
    dense = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    axes = list(zip(tensor.stride, dense, tensor.shape, strict=False))
    if size and (len(axes) != len(tensor.shape) or any(have != want for have, want, n in axes if n > 1)):
        raise InvalidInput(
            f"{name} in {path} is not contiguous",
            why=f"shape {list(tensor.shape)}, stride {list(tensor.stride)}",
            hint="save the state_dict again with .contiguous() tensors",
        )
    if tensor.offset * item + size > tensor.storage.size:
        raise InvalidInput(f"{name} in {path} reaches beyond its storage")
    return TensorRef(name, tensor.storage.dtype, tensor.shape, path, tensor.storage.start + tensor.offset * item, size)
