"""Device selection, memory and capability of the device at hand or of one that is planned for, image sizes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sanac.core.devices import Device, find_device
from sanac.core.errors import MissingResource, UsageError
from sanac.core.resources import available_memory

SIDES = {16: 512, 32: 1024, 64: 2048, 128: 4096}  # config's sample_size -> the pipeline's default image size


_planned: ContextVar[Device | None] = ContextVar("planned", default=None)


@contextmanager
def planning_for(device: Device) -> Iterator[None]:
    """Plans made inside are for `device`, as if it were installed and free; nothing can be computed on it."""
    token = _planned.set(device)
    try:
        yield
    finally:
        _planned.reset(token)


def gpu_entry(device: str) -> Device | None:
    """The table's entry for the GPU planned for or installed as `device`; None for a CPU or an unknown GPU."""
    import torch

    if torch.device(device).type != "cuda":
        return None
    if planned := _planned.get():
        return planned
    properties = torch.cuda.get_device_properties(device)
    return find_device(properties.name, properties.total_memory)


def is_planned() -> bool:
    """Whether plans are being made for a device that isn't at hand."""
    return _planned.get() is not None


def shrinkage(layers: Sequence[int]) -> int:
    """Downsampling factor of an autoencoder (pixels per latent, per side), from its layers per encoder stage.

    Stages without layers don't downsample, except possibly the first.
    """
    return int(2 ** sum(count > 0 for count in layers[:-1])) * (1 if layers[0] else 2)


def pick_device(requested: str | None) -> str:
    """The device `requested`, checked; if None, cuda if available, else cpu."""
    if _planned.get():
        return "cuda"
    import torch

    cuda = torch.cuda.is_available()
    if requested is None:
        return "cuda" if cuda else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise UsageError(f"{requested!r} is not a device", hint="pass cpu, cuda or cuda:N") from error
    if device.type not in {"cpu", "cuda"}:
        raise UsageError(f"{requested!r} is not supported", hint="pass cpu, cuda or cuda:N")
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise MissingResource(
            f"{requested} is not available", why=f"torch {torch.__version__} sees no such GPU", hint="sanac doctor"
        )
    return requested


def capability() -> int | None:
    """The GPU's compute capability as an integer (89 for 8.9); None without a GPU."""
    if planned := _planned.get():
        return planned.capability
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return int(10 * major + minor)


def free_memory(device: str) -> int:
    """Bytes of free memory on `device`."""
    import torch

    where = torch.device(device)
    if where.type == "cuda" and (planned := _planned.get()):
        return planned.memory
    return int(torch.cuda.mem_get_info(where)[0]) if where.type == "cuda" else available_memory()
