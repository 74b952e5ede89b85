"""Writes .safetensors weights: shards of a chosen size, aligned tensors, diffusers' file names and index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sanac.core import json_files
from sanac.core.artifact.manifest import changed_after_sealing
from sanac.core.artifact.staging import StagingArea
from sanac.core.file_copy import FileRecord, GeneratedBytes, Range, whole, write_parts
from sanac.core.progress import Reporter
from sanac.core.safetensors_header import DTYPE_BITS, TensorRef

SHARD_BYTES = 5_000_000_000
DIFFUSERS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class TensorSource:
    """An output tensor and the sources of its bytes, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Range | GeneratedBytes, ...]
    sealed: str = ""  # its digest according to the source's manifest; '' if unknown
    with_next: bool = False  # whether it must be in the same shard as the next tensor

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return sum(part.size for part in self.parts)


def copied_tensor(name: str, source: TensorRef, sealed: str = "") -> TensorSource:
    """The source's tensor, copied under a new name."""
    return TensorSource(
        name, source.dtype, source.shape, (Range(name, source.path, source.start, source.size),), sealed
    )


def computed_tensor(
    name: str, dtype: str, shape: tuple[int, ...], size: int, make: Callable[[], bytes | memoryview]
) -> TensorSource:
    """A tensor that `make` computes at once when it is written."""
    return TensorSource(name, dtype, shape, (whole(name, size, make),))


def fused_tensor(name: str, tensors: Sequence[TensorSource]) -> TensorSource:
    """One tensor that concatenates the rows of `tensors`."""
    if len(tensors) == 1:
        (only,) = tensors
        return replace(only, name=name, parts=tuple(replace(part, label=name) for part in only.parts))
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    parts = tuple(replace(part, label=name) for tensor in tensors for part in tensor.parts)
    return TensorSource(name, tensors[0].dtype, shape, parts)


def write_weights(
    staging: StagingArea,
    folder: str,
    tensors: Sequence[TensorSource],
    *,
    shard_bytes: int,
    reporter: Reporter,
    digests: bool = True,
    stem: str = DIFFUSERS_STEM,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write `tensors` as `folder/STEM*.safetensors`, sharded by `shard_bytes`; returns each tensor's digest."""
    shards = split(tensors, shard_bytes)
    names = shard_names(len(shards), stem)
    labels: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        file = f"{folder}/{name}"
        labels |= write_safetensors(staging, file, shard, reporter=reporter, digests=digests, metadata=metadata)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size for tensor in tensors)
        index = json_files.pretty({"metadata": {"total_size": total}, "weight_map": weight_map})
        staging.place_bytes(f"{folder}/{stem}.safetensors.index.json", index)
    return labels


def write_safetensors(
    staging: StagingArea,
    name: str,
    tensors: Sequence[TensorSource],
    *,
    reporter: Reporter,
    digests: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write `tensors` as one .safetensors file `name`; returns each tensor's digest."""
    ordered = in_file_order(tensors)
    head = encode_header(ordered, metadata)
    return place_weights(staging, name, ordered, [_plain(head), *_parts(ordered)], reporter=reporter, digests=digests)


def place_weights(
    staging: StagingArea,
    name: str,
    tensors: Sequence[TensorSource],
    parts: Sequence[Range | GeneratedBytes],
    *,
    reporter: Reporter,
    digests: bool = True,
) -> dict[str, str]:
    """Place the weight file `name` with bytes `parts` and tensors `tensors` in the artifact; returns tensor digests."""

    def write(path: Path) -> FileRecord:
        written = write_parts(path, parts, reporter=reporter, digests=digests)
        changed = [p for p in tensors if p.sealed and written.labels.get(p.name, p.sealed) != p.sealed]
        if changed:
            problems = [
                f"{p.name}: its digest is {written.labels[p.name][:16]}, the sealed one is {p.sealed[:16]}"
                for p in changed
            ]
            raise changed_after_sealing(Path(name), problems)
        return written

    return staging.place(name, write).labels


def _plain(data: bytes) -> GeneratedBytes:
    return whole("", len(data), lambda: data)


def _parts(tensors: Sequence[TensorSource]) -> list[Range | GeneratedBytes]:
    return [part for tensor in tensors for part in tensor.parts]


def shard_names(count: int, stem: str = DIFFUSERS_STEM) -> list[str]:
    """File names of `count` shards as diffusers names them: STEM.safetensors, or STEM-NNNNN-of-NNNNN.safetensors."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]


def split(tensors: Sequence[TensorSource], limit: int) -> list[list[TensorSource]]:
    """`tensors` in order, split into shards of at most `limit` bytes; a larger tensor gets a shard of its own."""
    shards: list[list[TensorSource]] = []
    room, together = 0, False
    for tensor in tensors:
        if not shards or (tensor.size > room and not together):
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= tensor.size
        together = tensor.with_next
    return shards


def in_file_order(tensors: Sequence[TensorSource]) -> list[TensorSource]:
    """`tensors` sorted by dtype, widest first (stable), so that every tensor starts at a multiple of its item size."""
    return sorted(tensors, key=_alignment)


def _alignment(tensor: TensorSource) -> int:
    return -DTYPE_BITS[tensor.dtype]


def encode_header(tensors: Sequence[TensorSource], metadata: Mapping[str, str] | None = None) -> bytes:
    """The length prefix and JSON header of a .safetensors file that holds `tensors` in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    position = 0
    for tensor in tensors:
        end = position + tensor.size
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    raw = json_files.canonical(entries)
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
