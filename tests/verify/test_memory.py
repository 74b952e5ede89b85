"""The memory of a comparison is foreseen for the way it takes, and images are left out where it is short."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.cost import comparison_memory
from sanac.core.errors import MissingResource
from sanac.core.progress import NullReporter
from sanac.run.estimate import shape_of
from sanac.verify import end_to_end, memory
from sanac.verify.end_to_end import Comparison
from sanac.verify.streamed_graph import GraphRun


def opened(folder: Path) -> Model:
    return open_model(locate(str(folder)))


def test_the_largest_side_counts(pipeline: Path) -> None:
    model = opened(pipeline)
    foreseen = memory.comparison_memory(model)
    assert memory.comparison_memory(model, {}) <= foreseen < memory.pictures_memory(model) + 10**8
    large = {"transformer": GraphRun((), 10**12, "it names no hidden states")}
    with pytest.raises(MissingResource) as caught:
        memory.check_memory(model, NullReporter(), large)
    assert "it names no hidden states" in str(caught.value.why)
    assert "export the model again" in str(caught.value.hint)


@pytest.mark.parametrize("blocks", [20, 60])
def test_the_full_shape_is_compared_in_less_than_four_gigabytes(blocks: int, tmp_path: Path) -> None:
    write_transformer(tmp_path / "model", dataclasses.replace(SANA_4_8B, blocks=blocks), sparse=True)
    model = opened(tmp_path / "model")
    found = memory.comparison_memory(model)
    assert 1.65e9 < found < 3e9, "at least what was measured"
    assert comparison_memory(shape_of(model)) == pytest.approx(found, rel=0.3), "a recipe's estimate, from shapes alone"


def test_images_are_left_out_where_memory_is_short(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(pipeline)
    default = Comparison(pictures_optional=True)
    assert end_to_end.pictures_compared(model, model, default) == (True, "")
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    compared, note = end_to_end.pictures_compared(model, model, default)
    assert not compared
    assert note.startswith("no images compared: ")
    assert f"sanac verify {pipeline} --against {pipeline} --pictures 4 compares them" in note
    with pytest.raises(MissingResource, match="to compare images"):
        end_to_end.pictures_compared(model, model, Comparison(pictures=4))
    assert end_to_end.pictures_compared(model, model, Comparison(pictures=0)) == (False, "")
