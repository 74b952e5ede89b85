"""Device selection, GPU memory and capability, and default image sizes."""

from collections.abc import Sequence

from sanac.core.errors import MissingResource, UsageError
from sanac.core.resources import available_memory

SIDES = {16: 512, 32: 1024, 64: 2048, 128: 4096}  # config's sample_size -> the pipeline's default image size


def shrinkage(layers: Sequence[int]) -> int:
    """Downsampling factor of an autoencoder (pixels per latent, per side), from its layers per encoder stage.

    Stages without layers don't downsample, except possibly the first.
    """
    return int(2 ** sum(count > 0 for count in layers[:-1])) * (1 if layers[0] else 2)


def pick_device(requested: str | None) -> str:
    """The device `requested`, checked; if None, cuda if available, else cpu."""
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
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return int(10 * major + minor)


def free_memory(device: str) -> int:
    """Bytes of free memory on `device`."""
    import torch

    where = torch.device(device)
    return int(torch.cuda.mem_get_info(where)[0]) if where.type == "cuda" else available_memory()
