"""Writes tensors as a .safetensors file, atomically."""

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sanac.core.atomic import atomic_path
from sanac.core.confined import AnyPath
from sanac.core.errors import MissingResource


def save_tensors(tensors: Mapping[str, Tensor], path: AnyPath, metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors`, from any device, to `path` atomically; on any failure the previous file is unchanged."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as partial:
            save_file(stored, partial, dict(metadata) if metadata else None)
    except SafetensorError as error:  # errors of the file system are raised as one, too
        hint = "free some space or choose another disk, and run the same command again"
        raise MissingResource(f"cannot write {path}", why=str(error), hint=hint) from error
