"""How many images are generated at once: as many as fit beside the weights, on this machine or a planned device."""

from pathlib import Path

import pytest

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.devices import parse_device
from sanac.nn import generation_memory
from sanac.nn.device import planning_for
from sanac.nn.generation_memory import (
    MOST,
    batch_that_fits,
    image_memory,
    images_that_fit,
    weights_memory,
)


@pytest.fixture(scope="module")
def model(pipeline: Path) -> Model:
    return open_model(locate(str(pipeline)))


def test_fewer_fit_where_less_is_free(model: Model) -> None:
    taken, each = weights_memory(model, "cpu"), image_memory(model, "cpu")
    assert images_that_fit(taken + 100 * each, 0, each) == MOST
    assert images_that_fit(int((taken + 5.5 * each) / 0.9), taken, each) == 5
    assert images_that_fit(0, taken, each) == 1, "one is always tried"


def test_larger_images_take_more_and_tiles_less(model: Model) -> None:
    native = image_memory(model, "cuda")
    assert image_memory(model, "cpu") == 2 * native
    large = image_memory(model, "cuda", (256, 256))
    assert large >= 15 * native
    assert image_memory(model, "cuda", (256, 256), tile=64) < large


def test_a_planned_device_counts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_memory, "image_memory", lambda *_: 2_000_000_000)
    found = []
    for name in ("16GB", "24GB", "80GB"):
        with planning_for(parse_device(name)):
            found.append(batch_that_fits(model, "cuda"))
    assert found == [7, 10, MOST]
