"""A component's weight files, and a lazy view of their tensors."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sanac.core import json_files
from sanac.core.checkpoint.locate import inside
from sanac.core.checkpoint.pth_reader import read_pth
from sanac.core.checkpoint.quant_json import FILE as QUANTIZED
from sanac.core.checkpoint.quant_json import PACKED_FILE, QuantConfig, QuantizedTensor, attach, read_quantized
from sanac.core.errors import InvalidInput
from sanac.core.family import nvlabs
from sanac.core.safetensors_header import Header, TensorRef, read_header

PTH_SUFFIXES = (".pth", ".pt", ".ckpt")
# Keys under which training code stores the weights, in order of preference; '' is the file's top level.
_MODEL_GROUPS = ("state_dict", "model", "module", "state_dict_ema", "ema", "")

_STEMS = ("diffusion_pytorch_model", "model", PACKED_FILE)  # file names that diffusers, transformers and sanac load
_INDEX = re.compile(r"(?P<stem>[\w-]+)\.safetensors\.index(?:\.(?P<variant>[\w-]+))?\.json", re.ASCII)
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_SINGLE = re.compile(r"(?P<stem>[\w-]+)(?:\.(?P<variant>[\w-]+))?\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Weights:
    """Tensors by name, from one or more .safetensors files, none of them loaded."""

    tensors: Mapping[str, TensorRef]
    headers: tuple[Header, ...]
    index: Path | None = None
    variant: str = ""
    layout: str = "diffusers"  # or nvlabs: names on disk; `tensors` always uses diffusers' names
    extras: Mapping[str, TensorRef] = field(default_factory=dict)  # tensors that only NVlabs' layout has
    notes: tuple[str, ...] = ()  # choices made while opening, for the user
    quantized: QuantConfig | None = None
    parts: Mapping[str, QuantizedTensor] = field(default_factory=dict)  # stored parts of the quantized tensors

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(map(self.size_of, self.tensors.values()))

    @property
    def stored(self) -> Iterator[TensorRef]:
        """All tensors on disk, including scales."""
        for ref in self.tensors.values():
            yield from self.parts[ref.name].refs if ref.name in self.parts else (ref,)

    def size_of(self, ref: TensorRef) -> int:
        """Bytes of one tensor, with its scales if it is quantized."""
        return self.parts[ref.name].size if ref.name in self.parts else ref.size

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(ref.count for ref in self.tensors.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files and their index, if any: the files to copy."""
        paths = tuple(header.path for header in self.headers)
        return (*paths, self.index) if self.index else paths

    def identity(self) -> list[list[str | int]]:
        """Identity of each file: the hub's blob name, else header digest, size and mtime."""
        return [_identity(header) for header in self.headers]

    def __iter__(self) -> Iterator[TensorRef]:
        return iter(self.tensors.values())


def _identity(header: Header) -> list[str | int]:
    real = header.path.resolve()
    if real.parent.name == "blobs" and len(real.name) in (40, 64):
        return ["blob", real.name]
    stat = real.stat()
    return ["file", hashlib.sha256(header.raw).hexdigest(), stat.st_size, stat.st_mtime_ns]


def open_file(path: Path, boundary: Path) -> Weights:
    """The tensors of one .safetensors or .pth file."""
    inside(boundary, path)
    if path.suffix in PTH_SUFFIXES:
        return open_pickled(path, boundary)
    header = read_header(path)
    return Weights(header.tensors, (header,))


def open_pickled(path: Path, boundary: Path) -> Weights:
    """The model's weights in a file of torch's own format, which may also hold an EMA and an optimizer's state."""
    inside(boundary, path)
    contents = read_pth(path)
    name = next((name for name in _MODEL_GROUPS if name in contents.groups), None)
    if name is None:
        what = ": an optimizer's state" if any("optim" in key or key == "state" for key in contents.keys) else ""
        raise InvalidInput(
            f"{path} has no model weights",
            why=f"its keys are {', '.join(contents.keys[:8]) or 'none'}{what}",
            hint="use a checkpoint that has a state_dict",
        )
    others = [key for key in contents.keys if key != name and name]
    notes = (f"{path.name}: using {name!r}, ignoring {', '.join(map(repr, others))}",) if others else ()
    tensors = contents.groups[name]
    return Weights(tensors, (Header(path, contents.raw, tensors, {}),), notes=notes)


def in_diffusers_names(weights: Weights, where: str) -> Weights:
    """A transformer's weights under diffusers' names, converted from NVlabs' if necessary."""
    if not nvlabs.is_nvlabs(weights.tensors):
        return weights
    tensors, extras = nvlabs.to_diffusers(weights.tensors, where)
    return replace(weights, tensors=tensors, extras=extras, layout="nvlabs")


def open_folder(folder: Path, boundary: Path) -> Weights | None:
    """The tensors in a component's folder, quantized or not; None if it has no .safetensors weights."""
    found = _open_plain(folder, boundary)
    if found is None or not (folder / QUANTIZED).is_file():
        return found
    quantized = read_quantized(inside(boundary, folder / QUANTIZED))
    tensors, parts = attach(quantized, found.tensors, found.headers, folder)
    return replace(found, tensors=tensors, parts=parts, quantized=quantized)


def _open_plain(folder: Path, boundary: Path) -> Weights | None:
    """The tensors as stored, from the files without a variant suffix, else from the only variant (fp16, bf16, ...)."""
    names = sorted(entry.name for entry in folder.iterdir())
    found: dict[str, str] = {}  # variant -> file name; an index wins over a single file, as in diffusers
    for name in names:
        if (match := _SINGLE.fullmatch(name)) and match["stem"] in _STEMS and not _SHARD.fullmatch(name):
            found[match["variant"] or ""] = name
    for name in names:
        if (match := _INDEX.fullmatch(name)) and match["stem"] in _STEMS:
            found[match["variant"] or ""] = name
    if not found:
        return None
    if "" not in found and len(found) > 1:
        raise InvalidInput(
            f"{folder} has several variants of its weights and none without a suffix",
            why=f"found {', '.join(sorted(found))}",
            hint="keep one of them in the folder",
        )
    variant = "" if "" in found else next(iter(found))
    path = folder / found[variant]
    if not path.name.endswith(".json"):
        inside(boundary, path)
        header = read_header(path)
        return Weights(header.tensors, (header,), variant=variant)
    return _open_sharded(path, boundary, variant)


def _open_sharded(index: Path, boundary: Path, variant: str) -> Weights:
    inside(boundary, index)
    weight_map = json_files.read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidInput(f"{index} is not an index of shards", why="it has no weight_map of names to files")
    shards = sorted(set(weight_map.values()))
    problems = [
        f"{index} names {shard!r}, which is not a .safetensors file in the same folder"
        for shard in shards
        if (not _SINGLE.fullmatch(shard) and not _SHARD.fullmatch(shard)) or "/" in shard or "\\" in shard
    ]
    problems += [f"{index} names {shard}, which is missing" for shard in shards if not (index.parent / shard).exists()]
    if problems:
        raise InvalidInput(problems[0], problems=problems, hint="fetch the checkpoint again")
    tensors: dict[str, TensorRef] = {}
    headers = []
    for shard in shards:
        inside(boundary, index.parent / shard)
        header = read_header(index.parent / shard)
        headers.append(header)
        for name, ref in header.tensors.items():
            if name in tensors:
                problems.append(f"{name} is in {tensors[name].path.name} and in {shard}")
            elif weight_map.get(name) != shard:
                problems.append(f"{name} is in {shard}, the index says {weight_map.get(name, 'no file')}")
            tensors[name] = ref
    problems += [f"{name} is in the index, but not in {weight_map[name]}" for name in weight_map if name not in tensors]
    if problems:
        raise InvalidInput(f"{index} and its shards disagree", why=problems[0], problems=problems)
    return Weights(tensors, tuple(headers), index, variant)


def plain_name(name: str, variant: str) -> str:
    """A file's name without its variant suffix."""
    return name.replace(f".{variant}", "", 1) if variant else name


def plain_index(weights: Weights, variant: str) -> bytes:
    """The shard index with file names without the variant suffix."""
    weight_map = {ref.name: plain_name(ref.path.name, variant) for ref in weights}
    return json_files.pretty({"metadata": {"total_size": weights.size}, "weight_map": weight_map})
