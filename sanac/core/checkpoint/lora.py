"""LoRA files (.safetensors only): which tensors they change, and the low-rank change itself."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family import nvlabs
from sanac.core.family.architecture import block_name, split_block
from sanac.core.safetensors_header import TensorRef, read_header

if TYPE_CHECKING:  # numpy takes longer to import than a header to read: only a merge needs it
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?:transformer\.)?(?P<module>.+?)\."
    r"(?P<part>lora_A|lora_B|lora\.down|lora\.up|lora_down|lora_up|alpha)(?:\.default)?(?:\.weight)?"
)
_NVLABS_ROOTS = {"blocks", "x_embedder", "y_embedder", "t_embedder", "t_block", "final_layer"}
_DOWN = {"lora_A", "lora.down", "lora_down"}


@dataclass(frozen=True, slots=True)
class Patch:
    """A LoRA update of one weight: rows first..first+rows of scale * up @ down."""

    down: TensorRef  # (rank, inputs, ...)
    up: TensorRef  # (outputs, rank, ...)
    scale: float
    first: int
    rows: int

    def delta(self, shape: tuple[int, ...]) -> "Floats":
        """The change, in fp32."""
        import numpy as np

        rank = self.down.shape[0]
        rows = load(self.up).reshape(-1, rank)[self.first : self.first + self.rows]
        return np.float32(self.scale) * (rows @ load(self.down).reshape(rank, -1)).reshape(shape)


@dataclass(frozen=True, slots=True)
class Addition:
    """An update of one weight, stored as a full tensor."""

    change: TensorRef

    def delta(self, shape: tuple[int, ...]) -> "Floats":
        """The change, in fp32."""
        return load(self.change).reshape(shape)


def merge(base: TensorRef, patches: Sequence[Patch | Addition]) -> bytes:
    """The weight `base` plus all `patches`, computed in fp32 and stored in the weight's dtype."""
    values = load(base)
    for patch in patches:
        values = values + patch.delta(base.shape)
    return store(values, base.dtype)


def parse_word(word: str) -> tuple[Path, float]:
    """Parse a --lora value: 'FILE' or 'FILE:0.8' -> (path, scale)."""
    path, colon, number = word.rpartition(":")
    if colon and not Path(word).exists():
        try:
            scale = float(number)
        except ValueError as error:
            raise UsageError(f"--lora {word}: {number!r} is not a scale", hint="write FILE or FILE:0.8") from error
        if not math.isfinite(scale):
            raise UsageError(f"--lora {word}: the scale must be finite")
        return Path(path), scale
    return Path(word), 1.0


def read_patches(
    path: Path, scale: float, targets: Mapping[str, TensorRef], origins: Sequence[int | None], source_blocks: int
) -> dict[str, Patch]:
    """The LoRA's patches by name of the tensor of `targets` (diffusers' names).

    The LoRA's block numbers are those of the source, which has `source_blocks`; `origins` maps each block of the model
    to its source block. New blocks have no origin, so no LoRA changes them.
    """
    factors = _read_factors(path)
    patches: dict[str, Patch] = {}
    problems: list[str] = []
    for module, parts in factors.items():
        if not {"down", "up"} <= set(parts):
            problems.append(f"{module} has only one of its two factors")
            continue
        for name, patch in _split(module, parts, scale):
            inside = split_block(name)
            if inside and inside[0] >= source_blocks:
                problems.append(f"{name} is not in the model: its source has {source_blocks} blocks")
            for place in _places(name, origins):
                problem = _misfit(place, patch, targets)
                if problem is None:
                    patches[place] = patch
                elif problem:
                    problems.append(problem)
    if problems:
        raise InvalidInput(f"{path} doesn't fit this model", why=problems[0], problems=problems)
    return patches


def _read_factors(path: Path) -> dict[str, dict[str, TensorRef]]:
    """The tensors of a LoRA file: module -> down, up and alpha."""
    header = read_header(path)
    factors: dict[str, dict[str, TensorRef]] = {}
    strangers = []
    for name, ref in header.tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            strangers.append(name)
            continue
        part = "alpha" if match["part"] == "alpha" else "down" if match["part"] in _DOWN else "up"
        factors.setdefault(match["module"], {})[part] = ref
    if strangers or not factors:
        why = f"{strangers[0]} is not a LoRA factor" if strangers else "it has no tensors"
        raise InvalidInput(f"{path} is not a LoRA that sanac can read", why=why, problems=strangers)
    return factors


def _alpha(ref: TensorRef | None, rank: int) -> float:
    return float(load(ref).reshape(-1)[0]) if ref and ref.count == 1 and ref.dtype in _FLOATS else rank


def _split(module: str, parts: Mapping[str, TensorRef], scale: float) -> Iterator[tuple[str, Patch]]:
    """(tensor name, patch) for each tensor that a factor pair changes; block numbers are the source's."""
    down, up = parts["down"], parts["up"]
    rank = down.shape[0] if down.shape else 0
    strength = scale * _alpha(parts.get("alpha"), rank) / max(rank, 1)
    weight = replace(up, name=f"{module}.weight")
    fused = module.split(".", maxsplit=1)[0] in _NVLABS_ROOTS
    split, _ = nvlabs.to_diffusers({weight.name: weight}, str(up.path)) if fused else ({weight.name: weight}, None)
    first = 0
    for name, part in split.items():
        rows = part.shape[0] if part.shape else 0
        yield name, Patch(down, up, strength, first, rows)
        first += rows


def _places(name: str, origins: Sequence[int | None]) -> list[str]:
    """The model's tensor names for a source tensor: none if its block was dropped, several if it was duplicated."""
    inside = split_block(name)
    if inside is None:
        return [name]
    return [block_name(place, inside[1]) for place, origin in enumerate(origins) if origin == inside[0]]


def _misfit(name: str, patch: Patch, targets: Mapping[str, TensorRef]) -> str | None:
    """Why the patch doesn't fit its tensor; None if it fits."""
    base = targets.get(name)
    if base is None:
        return f"{name} is not in the model"
    down, up = patch.down, patch.up
    if len(down.shape) < 2 or len(up.shape) < 2 or down.dtype not in _FLOATS or up.dtype not in _FLOATS:
        return f"{name}: its factors are not matrices of floats"
    inner = math.prod(base.shape[1:])
    if up.shape[1] != down.shape[0] or math.prod(down.shape[1:]) != inner or patch.rows != base.shape[0]:
        return f"{name} has shape {list(base.shape)}, the LoRA's factors are {list(up.shape)} and {list(down.shape)}"
    return None


_NUMPY = {"F32": "float32", "F16": "float16", "F64": "float64"}
_FLOATS = {*_NUMPY, "BF16"}


def load(ref: TensorRef) -> "Floats":
    """The tensor `ref` loaded in fp32 (bf16 is the upper half of fp32)."""
    import numpy as np

    with ref.path.open("rb") as file:
        data = os.pread(file.fileno(), ref.size, ref.start)
    if len(data) != ref.size:
        raise InvalidInput(f"{ref.path} is truncated")
    if ref.dtype == "BF16":
        values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F32": np.float32, "F16": np.float16, "F64": np.float64}[ref.dtype]).astype(
            np.float32
        )
    return values.reshape(ref.shape)


def store(values: "Floats", dtype: str) -> bytes:
    """The bytes of fp32 `values` in `dtype`; bf16 rounds to nearest even, as torch does."""
    import numpy as np

    if dtype != "BF16":
        return values.astype(_NUMPY[dtype]).tobytes()
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16).tobytes()
