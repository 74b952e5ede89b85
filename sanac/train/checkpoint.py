"""Training checkpoints: one safetensors file per checkpoint, written atomically; no pickle."""

import json
import platform
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib.metadata import version
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.progress import Reporter
from sanac.nn.save_tensors import save_tensors

KEPT = 2  # the newest and a fallback in case it is damaged
_RECORD = "sanac"


def environment(device: torch.device, *, compiled: bool) -> dict[str, str]:
    """Environment that bit-exact resumption depends on besides the checkpoint."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} {name}",
        "threads": str(torch.get_num_threads()),
        "compiled": str(compiled),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def save(folder: ConfinedPath, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> ConfinedPath:
    """Write the checkpoint after `step` steps atomically and delete the older ones beyond KEPT."""
    path = folder / f"step-{step:07d}.safetensors"
    save_tensors(_unshared(tensors), path, {_RECORD: json.dumps({**record, "step": step}, sort_keys=True)})
    files = _newest_first(folder)
    place = files.index(path)
    for old in (*files[:place], *files[place + KEPT :]):  # checkpoints of later steps were unreadable
        old.unlink()
    return path


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with copies of those that share memory (tied weights), which safetensors refuses."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        found[name] = tensor.detach().clone() if storage in seen else tensor.detach()
        seen.add(storage)
    return found


def load(folder: ConfinedPath, reporter: Reporter) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and record of the newest readable checkpoint; None if there is none."""
    for path in _newest_first(folder):
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})[_RECORD])
                return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            reporter.warn(f"{path} can't be read ({error}): trying the one before it")
    return None


def check_checkpoint(
    record: Mapping[str, Any], key: str, surroundings: Mapping[str, str], folder: ConfinedPath, reporter: Reporter
) -> None:
    """Raise InvalidInput for a checkpoint of another configuration; warn if the environment has changed."""
    if record.get("key") != key:
        raise InvalidInput(
            f"the checkpoint in {folder} belongs to another configuration",
            why="its settings, data or tensor shapes differ from this run's",
            hint="delete that folder, or choose another",
        )
    before = record.get("environment", {})
    changed = [
        f"{name} was {before.get(name)}, is {now}" for name, now in surroundings.items() if before.get(name) != now
    ]
    if changed:
        reporter.warn(f"continuing, but not bit-exactly, as the environment changed: {'; '.join(changed)}")


def _newest_first(folder: ConfinedPath) -> list[ConfinedPath]:
    files = [path for path in folder.iterdir() if fnmatch(path.name, "step-*.safetensors")]
    return sorted(files, key=lambda path: path.name, reverse=True)
