"""What tests of fitting share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sanac.quantize.calibration_sweep import Sweep
from tests.conftest import Shared

Stopping = Callable[[], list[int]]


@pytest.fixture(scope="session")
def half(shared: Shared, pipeline: Path) -> Path:
    """The pipeline in bf16, as released models are."""
    import torch
    from diffusers import SanaPipeline

    def making(out: Path) -> None:
        SanaPipeline.from_pretrained(pipeline, torch_dtype=torch.bfloat16).save_pretrained(out)

    return shared("half", making)


@pytest.fixture
def stopped_at_the_fourth(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    """Once called, the fourth block that is fitted is interrupted; gives the numbers of all that are asked for."""

    def start() -> list[int]:
        real, asked = Sweep._fit, list[int]()

        def stopping(self: object, tensors: object, packings: object, index: int) -> object:
            asked.append(index)
            if len(asked) == 4:
                raise KeyboardInterrupt
            return real(self, tensors, packings, index)

        monkeypatch.setattr(Sweep, "_fit", stopping)
        return asked

    return start
