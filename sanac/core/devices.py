"""Accelerators by name: memory, matrix throughput and memory bandwidth, and the share of the throughput that SANA gets.

Figures are the makers' dense rates with fp32 accumulation. `SHARE` follows from the throughputs in the SANA-1.5 paper
(A100, bf16, 20 steps, 1024 px): 0.26 images per second of 4.8B are 32 % of the A100's rate, 1.0 of 1.6B are 42 %.
"""

from dataclasses import dataclass, replace

from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes

SHARE = 0.3  # of a device's matrix rate that a forward or backward pass of SANA gets


@dataclass(frozen=True, slots=True)
class Device:
    """An accelerator: bytes of memory, and rates per second."""

    name: str
    memory: int  # bytes
    bf16: float  # operations; 0 if it has no bf16
    tf32: float
    fp32: float
    bandwidth: float  # bytes of its memory
    capability: int  # compute capability: 89 for 8.9
    link: float = 20e9  # bytes from the host's memory

    @property
    def base(self) -> str:
        """The name without a size."""
        return self.name.partition("-")[0]

    def speed(self, precision: str) -> float:
        """Operations per second of a SANA block in this precision."""
        rate = {"bf16": self.bf16, "tf32": self.tf32, "fp32": self.fp32}[precision] or self.fp32
        return SHARE * rate


def _device(
    name: str, gigabytes: float, bf16: float, tf32: float, fp32: float, bandwidth: float, capability: int
) -> Device:
    return Device(name, int(gigabytes * 1e9), bf16 * 1e12, tf32 * 1e12, fp32 * 1e12, bandwidth * 1e9, capability)


DEVICES = (  # gigabytes free for a job; tera-operations in bf16, tf32, fp32; GB/s
    _device("H200", 150, 989, 495, 67, 4800, 90),
    _device("H100", 85, 989, 495, 67, 3350, 90),
    _device("A100-80GB", 85, 312, 156, 19.5, 2039, 80),
    _device("A100-40GB", 42, 312, 156, 19.5, 1555, 80),
    _device("L40S", 47, 362, 183, 91.6, 864, 89),
    _device("RTX 5090", 33, 210, 105, 105, 1792, 120),
    _device("RTX 4090", 25, 165, 82.6, 82.6, 1008, 89),
    _device("L4", 23.5, 121, 60, 30.3, 300, 89),
    _device("A10", 23.5, 125, 62.5, 31.2, 600, 86),
    _device("RTX 3090", 25, 71, 35.6, 35.6, 936, 86),
    _device("RTX 4080", 16.5, 97.5, 48.7, 48.7, 717, 89),
    _device("T4", 15.5, 0, 8.1, 8.1, 320, 75),
)


def find_device(name: str, memory: int | None = None) -> Device | None:
    """The device that a GPU's own name contains, such as 'NVIDIA GeForce RTX 4090'; the nearest in memory of several.

    Sizes at the end of a name in the table, such as 80GB, tell apart devices that differ in memory alone.
    """
    letters = _letters(name)
    found = [device for device in DEVICES if _letters(device.base) in letters]
    longest = max((len(device.base) for device in found), default=0)  # A100, not A10
    found = [device for device in found if len(device.base) == longest]
    exact = [device for device in found if _letters(device.name) in letters]
    if memory is None or exact:
        return min(exact or found, key=lambda device: device.memory, default=None)
    return min(found, key=lambda device: abs(device.memory - memory), default=None)


def parse_device(text: str) -> Device:
    """A device of the table by its name, or one with this much memory and the speed of an RTX 3090: '24GB', 'A100'."""
    found = find_device(text)
    if found is not None:
        return found
    try:
        memory = parse_bytes(text)
    except UsageError:
        names = ", ".join(device.name for device in DEVICES)
        raise UsageError(f"is {text!r}, neither a size such as 24GB nor one of {names}") from None
    usual = find_device("RTX 3090")
    assert usual is not None
    return replace(usual, name=text, memory=memory)


def _letters(text: str) -> str:
    """'RTX 4090' -> 'RTX4090'."""
    return "".join(letter for letter in text.upper() if letter.isalnum())
