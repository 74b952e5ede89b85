"""What differs between two models, from their manifests and headers alone."""

from pathlib import Path

import pytest

from sanac.core.artifact.differences import ModelDifference, difference
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate


@pytest.fixture
def family(sanac, pipeline: Path, tmp_path: Path) -> dict[str, Model]:
    """A pipeline of six blocks, two prunings of it, and one of them grown again."""
    for name, blocks in (("front", "0-3"), ("ends", "0-1,4-5")):
        assert sanac("prune", pipeline, "--keep", blocks, "--out", tmp_path / name).code == 0
    grown = sanac("grow", tmp_path / "front", "--target-blocks", "6", "--preserve", "4", "--out", tmp_path / "grown")
    assert grown.code == 0, grown.err
    assert sanac("quantize", tmp_path / "front", "--scheme", "int8-wo", "--out", tmp_path / "int8").code == 0
    words = {"source": pipeline, **{name: tmp_path / name for name in ("front", "ends", "grown", "int8")}}
    return {name: open_model(locate(str(word))) for name, word in words.items()}


def test_what_differs(family: dict[str, Model]) -> None:
    def between(first: str, other: str) -> ModelDifference:
        return difference(family[first], family[other])

    pruned = between("source", "ends")
    assert pruned.ancestor == "pipeline"
    assert pruned.blocks == "keeps 0-1, 4-5 of the 6 blocks of pipeline; lacks 2-3"
    assert pruned.only_other == ("prune: keep 0-1, 4-5 of 6 blocks",)
    assert pruned.only_first == ()
    assert pruned.components == {}

    back = between("ends", "source")
    assert back.blocks == "keeps 0-3 of the 4 blocks of ends; has 2-3 of their common ancestor"
    assert back.only_first == pruned.only_other

    siblings = between("front", "ends")
    assert siblings.blocks == "keeps 0-1 of the 4 blocks of front; lacks 2-3; has 4-5 of their common ancestor"
    assert (len(siblings.only_first), len(siblings.only_other)) == (1, 1)

    grown = between("front", "grown")
    assert grown.blocks == "keeps 0-3 of the 4 blocks of front; 2 new (partial, seed 0)"
    assert grown.origins
    assert [one.first for one in grown.origins] == [0, 1, 2, 3, None, None]

    quantized = between("front", "int8")
    assert quantized.blocks == "the same 4 blocks"
    assert quantized.only_other[0].startswith("quantize: ")
    before, now = quantized.components["transformer"]
    assert (before, now.split(" in ")[0]) == ("F32", "int8-wo")


def test_strangers_share_only_numbers(family: dict[str, Model], sprint: Path) -> None:
    found = difference(family["source"], open_model(locate(str(sprint))))
    assert found.blocks == "6 and 3 blocks; the lineages share no model"
    assert found.origins is None
    assert found.components["scheduler"] == ("DPMSolverMultistepScheduler", "SCMScheduler")


def test_a_model_is_like_itself(family: dict[str, Model]) -> None:
    found = difference(family["ends"], family["ends"])
    assert (found.blocks, found.only_first, found.only_other, found.components) == ("the same 4 blocks", (), (), {})
