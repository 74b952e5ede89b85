"""`sanac prune --target-blocks` as its user runs it: by scores that it measures, or finds."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from sanac.core.family.architecture import block_name
from sanac.nn.blocks.block import POINT
from sanac.prune.repair import Repair
from tests.conftest import Sanac

FEW = ("--num-prompts", "3", "--timesteps", "3")


def test_pruning_by_importance_keeps_the_best(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    scored = sanac("analyze", pipeline, *FEW, "--json").json
    values = [entry["value"] for entry in scored["metrics"]["bi"]]
    expected = sorted(sorted(range(6), key=lambda index: -values[index])[:3])
    measured = sanac("prune", pipeline, "--target-blocks", "3", "--select", "bi", *FEW, "--json")
    from_file = sanac(
        "prune", pipeline, "--target-blocks", "3", "--scores", Path(scored["out"]) / "scores.json", "--json"
    )
    for ran in (measured, from_file):
        assert [entry["keep"] for entry in ran.json["plan"]["blocks"]] == expected
    assert (measured.json["status"], from_file.json["status"]) == ("ok", "cached")
    assert measured.json["out"] == from_file.json["out"]


def test_options_that_scores_make_idle_are_named(sanac: Sanac, pipeline: Path) -> None:
    scored = sanac("analyze", pipeline, *FEW, "--json").json
    job = ("prune", pipeline, "--target-blocks", "3", "--scores", Path(scored["out"]) / "scores.json")
    assert "no effect" not in sanac(*job, "--yes", "--dry-run").err
    few = ("--timesteps", "7", "--num-prompts", "3", "--dry-run")
    for idle in (sanac(*job, *few), sanac("prune", pipeline, "--keep", "0-2", *few)):
        assert idle.code == 0
        assert "--num-prompts, --timesteps have no effect" in idle.err
    searched = sanac("prune", pipeline, "--target-blocks", "3", "--select", "search", *FEW, "--reduce", "sample")
    assert "--reduce have no effect" in searched.err
    assert "no effect" not in sanac(*job, *FEW, "--compensate", "--dry-run").err, "the repair is measured, too"


def test_scores_hold_for_a_copy_of_the_model(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    """Measured where there is a GPU, used where the model was downloaded again; not for other weights."""
    scores = Path(sanac("analyze", pipeline, *FEW, "--json").json["out"]) / "scores.json"
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    os.utime(weights, (1, 1))
    job = ("prune", copy, "--target-blocks", "3", "--scores", scores)
    assert sanac(*job, "--out", "a").code == 0
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = sanac(*job, "--out", "b")
    assert changed.code == 3
    assert "measured on another model" in changed.err


def test_a_cached_repair_needs_no_memory(sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ("prune", pipeline, "--keep", "0,2,4", "--compensate", *FEW, "--json")
    assert sanac(*job).json["status"] == "ok"
    monkeypatch.setattr("sanac.nn.calibration.memory.LIMIT", 1000)
    monkeypatch.setattr("sanac.nn.calibration.job.free_memory", lambda _: 1000)
    assert sanac(*job).json["status"] == "cached"
    lacking = sanac("prune", pipeline, "--keep", "0,2,5", "--compensate", *FEW)
    assert lacking.code == 4
    assert "are free" in lacking.err
    early = sanac("prune", pipeline, "--target-blocks", "3", "--compensate", *FEW)
    assert early.code == 4
    assert "scoring blocks" not in early.err, "said before hours of scoring"


def test_what_was_analyzed_is_what_is_pruned(sanac: Sanac, pipeline: Path) -> None:
    sanac("analyze", pipeline, *FEW)
    ran = sanac("prune", "--target-blocks", "3", *FEW, "--json")
    assert ran.code == 0, ran.err
    assert "the source recorded" in ran.err


def test_a_repair_that_helps_nothing_is_said_to_be_none(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sanac.prune.repair_job.fit", lambda *_: Repair({block_name(0, POINT): torch.full((96, 240, 1, 1), 9.0)})
    )
    job = ("prune", pipeline, "--keep", "0,2,4", "--compensate", *FEW, "--json")
    for ran in (sanac(*job), sanac(*job)):
        assert "no repair was made" in ran.err
        assert ran.json["repaired"] is False
        assert ran.json["velocity_error"]["pruned"] == ran.json["velocity_error"]["repaired"]


def test_protected_blocks_stay(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac(
        "prune", pipeline, "--target-blocks", "2", "--protect-first", "1", "--protect-last", "1", *FEW, "--json"
    )
    assert [entry["keep"] for entry in ran.json["plan"]["blocks"]] == [0, 5]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "one of --target-blocks, --target-params, --keep is required"),
        (("--target-blocks", "3", "--keep", "0-2"), "contradict"),
        (("--target-blocks", "0"), "at least 1"),
        (("--target-blocks", "7"), "not between 1 and 6"),
        (("--target-blocks", "2.5"), "2.5"),
        (("--target-params", "many"), "not a number of parameters"),
        (("--target-blocks", "2", "--protect-first", "3"), "protect more than the 2 blocks"),
        (("--target-blocks", "3", "--num-prompts", "999"), "100"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str, sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    if says == "100":  # the shapes world has prompts enough; a file doesn't
        (tmp_path / "few.txt").write_text("a circle\n")
        arguments, says = (*arguments, "--prompts", str(tmp_path / "few.txt")), "few.txt has only 1"
    ran = sanac("prune", pipeline, *arguments, "--out", tmp_path / "out")
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_scores_of_another_model_are_refused(sanac: Sanac, pipeline: Path, sharded: Path, tmp_path: Path) -> None:
    sanac("analyze", pipeline, *FEW, "--out", tmp_path / "a")
    ran = sanac("prune", sharded, "--target-blocks", "3", "--scores", tmp_path / "a" / "scores.json")
    assert ran.code == 3
    assert "measured on another model" in ran.err
