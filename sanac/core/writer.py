"""How weights are laid out on disk: shards of a chosen size, aligned, with diffusers' file names and index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sanac.core import jsonfile
from sanac.core.copying import Range, Written, write_ranges
from sanac.core.header import DTYPE_BITS, TensorRef
from sanac.core.manifest import changed_after_sealing
from sanac.core.stage import Stage
from sanac.core.talk import Talk

SHARD_BYTES = 5_000_000_000
DIFFUSERS_STEM = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor of the output: its new name, and the source's tensor whose bytes it takes."""

    name: str
    source: TensorRef
    sealed: str = ""  # the digest it must have, where the source's manifest knows it


def write_weights(
    stage: Stage, folder: str, pieces: Sequence[Piece], *, shard_bytes: int, talk: Talk, digests: bool = True
) -> dict[str, str]:
    """Write the pieces as `folder/diffusion_pytorch_model*.safetensors`; returns each tensor's digest."""
    shards = split(pieces, shard_bytes)
    names = shard_names(len(shards))
    labels: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        head = encode_header(shard)

        def write(path: Path, head: bytes = head, shard: Sequence[Piece] = shard) -> Written:
            ranges = [Range(p.name, p.source.path, p.source.start, p.source.size) for p in shard]
            written = write_ranges(path, head, ranges, talk=talk, digests=digests)
            _check(shard, written)
            return written

        labels |= stage.place(f"{folder}/{name}", write).labels
    if len(shards) > 1:
        weight_map = {piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard}
        total = sum(piece.source.size for piece in pieces)
        index = jsonfile.pretty({"metadata": {"total_size": total}, "weight_map": weight_map})
        stage.place_bytes(f"{folder}/{DIFFUSERS_STEM}.safetensors.index.json", index)
    return labels


def _check(shard: Sequence[Piece], written: Written) -> None:
    """Tensors of an artifact must still have the digests they were sealed with."""
    changed = [p for p in shard if p.sealed and written.labels.get(p.name, p.sealed) != p.sealed]
    if changed:
        problems = [f"{p.source.name}: read {written.labels[p.name][:16]}, sealed was {p.sealed[:16]}" for p in changed]
        raise changed_after_sealing(changed[0].source.path, problems)


def shard_names(count: int) -> list[str]:
    """Diffusers' names: one plain file, or NNNNN-of-NNNNN."""
    if count == 1:
        return [f"{DIFFUSERS_STEM}.safetensors"]
    return [f"{DIFFUSERS_STEM}-{index:05d}-of-{count:05d}.safetensors" for index in range(1, count + 1)]


def split(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """In order, a new shard whenever the next tensor would not fit; a larger tensor stands alone."""
    shards: list[list[Piece]] = []
    room = 0
    for piece in pieces:
        if not shards or piece.source.size > room:
            shards.append([])
            room = limit
        shards[-1].append(piece)
        room -= piece.source.size
    return [sorted(shard, key=_alignment) for shard in shards]


def _alignment(piece: Piece) -> int:
    """Wider types first, else in the order given: every tensor then starts at a multiple of its item size."""
    return -DTYPE_BITS[piece.source.dtype]


def encode_header(pieces: Sequence[Piece]) -> bytes:
    """The length and the JSON header of a .safetensors file that holds these tensors in this order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for piece in pieces:
        end = position + piece.source.size
        entries[piece.name] = {
            "dtype": piece.source.dtype,
            "shape": list(piece.source.shape),
            "data_offsets": [position, end],
        }
        position = end
    raw = jsonfile.canonical(entries)
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw
