"""User-supplied .safetensors files: caption embeddings and latents. Checked as untrusted input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import TensorRef, read_header
from sanac.nn.calibration.text_encoding import EncodedPrompts, trimmed
from sanac.nn.save_tensors import save_tensors

_FLOATS = ("F32", "F16", "BF16")
_INTEGERS = ("BOOL", "U8", "I32", "I64")
_MASKED = {"mask": "embeddings", "empty_mask": "empty"}
Shape = Sequence[int | None]  # None: any size from 1


@dataclass(frozen=True)
class TensorFile:
    """A tensor file with a checked header; values are checked when they are read."""

    path: Path
    tensors: Mapping[str, TensorRef]

    def __len__(self) -> int:
        """Number of prompts or images."""
        return next(iter(self.tensors.values())).shape[0]

    def read(self, name: str, count: int | None = None) -> Tensor:
        """The first `count` entries of the tensor `name`; InvalidInput for NaN, infinity or an invalid mask."""
        try:
            with safe_open(self.path, framework="pt") as file:
                found: Tensor = file.get_slice(name)[:count]
        except (SafetensorError, OSError) as error:
            raise InvalidInput(f"cannot read {name} of {self.path}", why=str(error)) from error
        if name in _MASKED:
            return self._checked_mask(name, found)
        finite = torch.isfinite(found.flatten(1)).all(dim=1)
        if not finite.all():
            raise InvalidInput(
                f"{name} of {self.path} has NaN or infinity", why=f"in entry {int((~finite).nonzero()[0])}"
            )
        return found

    def _checked_mask(self, name: str, found: Tensor) -> Tensor:
        mask = found.to(torch.int64)
        if not ((mask == found) & (mask >= 0) & (mask <= 1)).all():
            raise InvalidInput(f"{name} of {self.path} is not a mask", why="it has values that are neither 0 nor 1")
        used = mask.any(dim=1)
        if not used.all():
            raise InvalidInput(
                f"{name} of {self.path} masks a whole caption", why=f"in entry {int((~used).nonzero()[0])}"
            )
        return mask


def open_tensor_file(path: Path, shapes: Mapping[str, Shape], what: str) -> TensorFile:
    """Check the header of `path` for tensors of these shapes; InvalidInput lists all problems."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"cannot read {path}", why="it is not a regular file")
    tensors = read_header(path).tensors
    problems = [f"the tensor {name!r} is missing" for name in shapes if name not in tensors]
    for name, shape in shapes.items():
        if name in tensors:
            problems += _problems(tensors[name], shape)
    if not problems:
        for mask, of in _MASKED.items():
            if mask in shapes and tensors[mask].shape != tensors[of].shape[:2]:
                problems.append(f"{mask} has the shape {list(tensors[mask].shape)}, {of} {list(tensors[of].shape)}")
    if problems:
        raise InvalidInput(f"{path} doesn't contain {what}", why=problems[0], problems=problems)
    return TensorFile(path, {name: tensors[name] for name in shapes})


def _problems(ref: TensorRef, shape: Shape) -> list[str]:
    fits = len(ref.shape) == len(shape) and all(
        size == expected if expected is not None else size > 0 for size, expected in zip(ref.shape, shape, strict=True)
    )
    words = ", ".join("any" if size is None else str(size) for size in shape)
    problems = [] if fits else [f"{ref.name} has the shape {list(ref.shape)} instead of [{words}]"]
    if ref.dtype not in _FLOATS + (_INTEGERS if ref.name in _MASKED else ()):
        problems.append(f"{ref.name} is stored as {ref.dtype}")
    return problems


def open_captions(path: Path, width: int) -> TensorFile:
    """Open a file of caption embeddings of channel count `width`."""
    shapes: dict[str, Shape] = {
        "embeddings": (None, None, width),
        "mask": (None, None),
        "empty": (1, None, width),
        "empty_mask": (1, None),
    }
    return open_tensor_file(path, shapes, "caption embeddings for this model")


def read_captions(file: TensorFile, count: int | None = None) -> EncodedPrompts:
    """The first `count` captions of a file, and the empty one."""
    prompts = trimmed(file.read("embeddings", count), file.read("mask", count))
    return EncodedPrompts(*prompts, *trimmed(file.read("empty"), file.read("empty_mask")))


def write_captions(captions: EncodedPrompts, path: Path) -> None:
    """Write the file that `open_captions` opens; it appears whole or not at all."""
    names = ("embeddings", "mask", "empty", "empty_mask")
    tensors = {name: getattr(captions, name) for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, path)
