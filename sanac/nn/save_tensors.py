"""Write tensors as a .safetensors file, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sanac.core.atomic import atomic_path
from sanac.core.errors import MissingResource


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the tensors, from whatever device they are on; on any failure the file that was there before stays."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as partial:
            save_file(stored, partial, dict(metadata) if metadata else None)
    except SafetensorError as error:  # what the system refuses arrives as one, too
        hint = "make room, or choose another disk, and run the same command again"
        raise MissingResource(f"cannot write {path}", why=str(error), hint=hint) from error
