"""Steps that are typed again, in any order: each starts from what comes before it, and never from its own output."""

import json
import shutil
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from tests.conftest import Sanac, Shared, sanac_must

STEPS: dict[str, tuple[str, ...]] = {
    "prune": ("prune", "--keep", "3,7"),
    "finetune": ("finetune", "--steps", "2", "--batch", "2", "--data", "shapes", "--samples", "4"),
    "quantize": ("quantize", "--scheme", "int8-wo", "--component", "transformer"),
    "export": ("export", "--component", "transformer", "--precision", "fp32", "--no-verify"),
}


@pytest.fixture
def chain(shared: Shared, tmp_path: Path) -> Path:
    """A workspace in which every step was typed once, in the order of work."""

    def making(out: Path) -> None:
        (out / "workspace").mkdir(parents=True)
        for name, words in STEPS.items():
            model = (Path("sanac:tiny"),) if name == "prune" else ()
            sanac_must(words[0], *map(str, model), *words[1:], "--workspace", out / "workspace")

    home = shared("retried-steps", making) / "workspace"
    copy = Path(shutil.copytree(home, tmp_path / "sanac-out"))
    for file in [*copy.glob("*/origin.json"), copy / "workspace.json"]:  # paths of the place that it was made in
        file.write_text(file.read_text().replace(str(home), str(copy)))
    return copy


def head(workspace: Path) -> str:
    return json.loads((workspace / "workspace.json").read_text())["head"].partition("-")[0]


def test_the_chain_typed_again_and_again(chain: Path, sanac: Sanac) -> None:
    before = sorted(path.name for path in chain.iterdir())
    for _ in range(2):
        for name, words in STEPS.items():
            ran = sanac(*words, "--json")
            assert (ran.code, ran.json["status"]) == (0, "cached"), (name, ran.err)
            assert head(chain) == name
    assert sorted(path.name for path in chain.iterdir()) == before


@pytest.mark.parametrize(("one", "other"), [*combinations_with_replacement(STEPS, 2)])
def test_pairs(one: str, other: str, chain: Path, sanac: Sanac) -> None:
    """Two steps in the order of work, typed twice: the second time both are cached, and each is HEAD after it."""
    for name in (one, other):
        assert sanac(*STEPS[name]).code == 0
    for name in (one, other, other):
        ran = sanac(*STEPS[name], "--json")
        assert (ran.code, ran.json["status"]) == (0, "cached"), (name, ran.err)
        assert head(chain) == name


@pytest.mark.parametrize(("later", "earlier"), [("export", "prune"), ("quantize", "finetune"), ("export", "quantize")])
def test_a_step_back_and_on_again(later: str, earlier: str, chain: Path, sanac: Sanac) -> None:
    """A step back makes its output HEAD: what is typed after it starts there, and that is cached, too."""
    for name in (later, earlier, later, earlier):
        assert sanac(*STEPS[name]).code == 0
    for name in (later, earlier):
        ran = sanac(*STEPS[name], "--json")
        assert (ran.code, ran.json["status"]) == (0, "cached"), (name, ran.err)


def test_it_says_what_it_took_and_where_head_went(chain: Path, sanac: Sanac) -> None:
    ran = sanac(*STEPS["finetune"])
    assert "the newest artifact before finetune; sanac-out/export-" in ran.err
    assert "HEAD of sanac-out moves back from export-" in ran.err
    assert "the newest artifact in sanac-out" in sanac(*STEPS["quantize"]).err
    assert "moves back" not in sanac(*STEPS["quantize"]).err


def test_other_settings_make_another_artifact_of_the_same_model(chain: Path, sanac: Sanac) -> None:
    """A retried step starts where the first try did, and what follows starts from the second try."""
    again = sanac("quantize", "--scheme", "int4-wo", "--component", "transformer", "--json")
    assert (again.code, again.json["status"]) == (0, "ok"), again.err
    lineage = json.loads((Path(again.json["out"]) / "sanac.json").read_text())["lineage"]
    assert [step["stage"] for step in lineage] == ["source", "prune", "finetune", "quantize"]
    exported = sanac(*STEPS["export"], "--json")
    assert (exported.code, exported.json["status"]) == (0, "ok"), exported.err
    assert len(list(chain.glob("export-*"))) == 2


def test_another_component_is_quantized_on_top(chain: Path, sanac: Sanac) -> None:
    assert sanac(*STEPS["quantize"]).code == 0
    ran = sanac("quantize", "--scheme", "int8-wo", "--component", "text-encoder", "--json")
    assert ran.code == 0, ran.err
    lineage = json.loads((Path(ran.json["out"]) / "sanac.json").read_text())["lineage"]
    assert [step["stage"] for step in lineage][-2:] == ["quantize", "quantize"]


def test_what_it_was_made_from_is_gone(chain: Path, sanac: Sanac) -> None:
    (before,) = chain.glob("prune-*")
    shutil.rmtree(before)
    assert sanac(*STEPS["export"]).code == 0, "it needs the quantized one only"
    ran = sanac(*STEPS["finetune"])
    assert (ran.code, "which is gone" in ran.err, "sanac finetune MODEL" in ran.err) == (2, True, True), ran.err
