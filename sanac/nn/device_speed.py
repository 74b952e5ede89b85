"""How fast a device computes and reads blocks of a model: measured for half a second and cached, else from its name."""

import contextlib
import os
import platform
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.atomic import write_atomically
from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput
from sanac.core.resources import user_cache
from sanac.nn.blocks.block import Conditioning, Geometry, block
from sanac.nn.device import gpu_entry, is_planned
from sanac.nn.precision import dtype_of
from sanac.nn.streaming import Blocks

_SPENT = 0.4  # seconds of a measurement
_KEPT = 24 * 3600.0  # seconds that a measurement is trusted
_SIDE = 16  # of the latents that are measured on
_UPDATED = 15  # bytes read and written for each byte of gradients: weights, moments, their statistics, the average
_PROCESSOR = 5e9  # bytes per second that an optimizer reads and writes on a processor
_FILES = 3e9  # bytes per second of a checkpoint that is in the page cache
_ON_GPU = 32  # pictures at once: a GPU is measured while it is full


@dataclass(frozen=True, slots=True)
class Speed:
    """A device's speed with blocks of one architecture in one precision."""

    operations: float  # per second, multiplications and additions counted separately
    source: str  # how it is known, for messages


def speed_of(model: Model, device: str, precision: str) -> Speed:
    """The speed of `device` with the model's blocks, measured; kept for a day in the user's cache."""
    if is_planned():
        gpu = gpu_entry(device)
        assert gpu is not None
        return Speed(gpu.speed(precision), "from its name")
    where = torch.device(device)
    architecture = model.architecture
    path = user_cache() / "device-speed.json"
    key = json_files.key_of([_name(where), precision, architecture.width, architecture.hidden, _software()])[:16]
    known = _known(path)
    entry = known.get(key)
    if isinstance(entry, list) and len(entry) == 2 and 0 <= time.time() - float(entry[1]) < _KEPT:
        return Speed(float(entry[0]), "measured")
    measured = _measured(model, where, precision)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_files.pretty({**known, key: [measured, time.time()]}))
    return Speed(measured, "measured")


def reading_seconds(model: Model, device: str, precision: str) -> float:
    """Estimated seconds to read all blocks, from reading one."""
    if is_planned():
        entry = gpu_entry(device)
        assert entry is not None
        return sum(ref.size for ref in model.weights) / min(entry.link, _FILES)
    since = time.perf_counter()
    Blocks(model, torch.device(device), dtype_of(precision)).block(0)
    return model.architecture.blocks * (time.perf_counter() - since)


def update_seconds(gradients: int, device: str) -> float:
    """Estimated seconds of one step of the optimizer, for `gradients` bytes of gradients in fp32."""
    gpu = gpu_entry(device)
    return _UPDATED * gradients / (gpu.bandwidth if gpu else _PROCESSOR)


def _known(path: AnyPath) -> dict[str, object]:
    try:
        return dict(json_files.read_object(path))
    except InvalidInput:
        return {}


def _name(device: torch.device) -> str:
    """What the speed of a device depends on, besides the software."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()} of {affinity}"


def _software() -> str:
    return f"torch {torch.__version__}"


def _measured(model: Model, device: torch.device, precision: str) -> float:
    """Operations per second of one block with made-up weights, the median of as many runs as fit."""
    architecture = model.architecture
    dtype, count = dtype_of(precision), _ON_GPU if device.type == "cuda" else 1
    tensors = {
        name: torch.full(shape, 0.01, dtype=dtype, device=device)
        for name, shape in architecture.block_tensors().items()
    }
    width, tokens = architecture.width, _SIDE * _SIDE
    state = torch.ones(count, tokens, width, dtype=dtype, device=device)
    caption = torch.ones(count, 64, architecture.cross_width, dtype=dtype, device=device)
    modulation = torch.zeros(count, 6 * width, dtype=dtype, device=device)
    conditioning = Conditioning(modulation, caption, None, _SIDE, _SIDE)
    geometry = Geometry.of(model.transformer.config or architecture.config())
    operations = 2.0 * sum(tensor.numel() for tensor in tensors.values()) * count * tokens
    times: list[float] = []
    with torch.no_grad():
        _run(tensors, state, conditioning, geometry)
        while sum(times) < _SPENT and len(times) < 50:
            since = time.perf_counter()
            _run(tensors, state, conditioning, geometry)
            times.append(time.perf_counter() - since)
    return float(operations / statistics.median(times))


def _run(tensors: dict[str, Tensor], state: Tensor, conditioning: Conditioning, geometry: Geometry) -> None:
    """One block, waited for."""
    block(tensors, state, conditioning, geometry)
    if state.is_cuda:
        torch.cuda.synchronize(state.device)
