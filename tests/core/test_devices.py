"""Devices by name: what GPUs call themselves, and sizes that stand for none of them."""

import pytest

from sanac.core.devices import DEVICES, SHARE, find_device, parse_device
from sanac.core.errors import UsageError


@pytest.mark.parametrize(
    ("name", "memory", "found"),
    [
        ("NVIDIA A100-SXM4-40GB", None, "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", None, "A100-80GB"),
        ("NVIDIA A100", 85e9, "A100-80GB"),
        ("NVIDIA A10", 24e9, "A10"),
        ("NVIDIA L4", 24e9, "L4"),
        ("NVIDIA L40S", 48e9, "L40S"),
        ("NVIDIA GeForce RTX 4090", 25e9, "RTX 4090"),
        ("NVIDIA H100 80GB HBM3", 85e9, "H100"),
        ("Tesla T4", 15e9, "T4"),
    ],
)
def test_a_gpu_is_found_by_what_it_calls_itself(name: str, memory: float | None, found: str) -> None:
    device = find_device(name, None if memory is None else int(memory))
    assert device is not None
    assert device.name == found


def test_the_share_is_that_of_the_papers_throughputs() -> None:
    """An A100 in bf16, 20 steps with guidance, 1,024 tokens: 0.26 images per second of 4.8B, 1.0 of 1.6B."""
    device = parse_device("A100-80GB")
    for parameters, images in ((4.72e9, 0.26), (1.60e9, 1.0)):
        operations = 2 * parameters * 1024 * 2 * 20 * images
        assert 0.8 * SHARE < operations / device.bf16 < 1.6 * SHARE


def test_names_and_sizes_are_read_and_nothing_else() -> None:
    assert parse_device("rtx4090").name == "RTX 4090"
    assert parse_device("24GB").memory == 24_000_000_000
    with pytest.raises(UsageError, match="neither a size"):
        parse_device("toaster")


def test_every_device_has_what_a_plan_needs() -> None:
    for device in DEVICES:
        assert device.speed("bf16") >= device.speed("fp32") > 0
        assert device.memory > 10e9
        assert device.capability >= 75
    assert parse_device("T4").speed("bf16") == parse_device("T4").speed("fp32"), "no bf16 there"
