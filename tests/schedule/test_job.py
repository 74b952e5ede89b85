"""`sanac schedule` as it is typed: what it prints and writes, what it finds again, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from sanac.core.artifact.model import open_model
from sanac.core.artifact.schedule import Schedule
from sanac.core.checkpoint.locate import locate
from sanac.nn.pipeline_config import noise_levels
from tests.conftest import Sanac, Shared, sanac_must

QUICK = ("--num-prompts", "2", "--timesteps", "6", "--try-steps", "4,6", "--front", "0.25", "--images", "48")


@pytest.fixture(scope="module")
def scheduled(shared: Shared) -> Path:
    """Four blocks of sanac:tiny with a schedule that few images chose."""
    four = shared("four-blocks", lambda out: sanac_must("prune", "sanac:tiny", "--keep", "0,3,7,11", "--out", out))
    return shared("scheduled", lambda out: sanac_must("schedule", four, "--budget", "0.25", *QUICK, "--out", out))


def test_the_artifact_holds_the_schedule_and_what_it_was_chosen_from(scheduled: Path) -> None:
    schedule = open_model(locate(str(scheduled))).schedule
    assert schedule is not None
    assert schedule.forwards <= 0.25 * 80
    found = json.loads((scheduled / "measurements" / "schedule.json").read_text())
    assert found["chosen"] == schedule.to_json()
    (row,) = found["rows"]
    assert row["plain_forwards"] == 20
    assert row["score"]["n"] > 40
    assert found["confirmed"] == "shapes"
    metrics = json.loads((scheduled / "measurements" / "metrics.json").read_text())
    assert metrics["schedule/forwards"] == schedule.forwards
    assert "blocks" in (scheduled / "README.md").read_text()


def test_it_says_what_it_found_and_finds_it_again(sanac: Sanac) -> None:
    words = ("schedule", "sanac:tiny", "--budget", "0.3", "--confirm", "none", *QUICK[:4])
    dry = sanac(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert "to be computed first" in dry.out
    first = sanac(*words)
    assert first.code == 0, first.err
    assert "chosen for 0.3: 10 steps of" in first.out
    assert "schedule.png" in first.out
    again = sanac(*words, "--json")
    assert again.json["status"] == "cached"
    assert again.json["forwards"] <= 0.3 * 240
    assert Path(again.json["pictures"][0]).is_file()
    other = sanac(*words, "--seed", "1", "--dry-run")
    assert "to be computed first" in other.out, "other settings are another schedule"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "one of --budget, --max-loss is required"),
        (("--budget", "0"), 2, "--budget"),
        (("--max-loss", "0.1", "--confirm", "none"), 2, "--max-loss needs scores"),
        (
            ("--budget", "0.02", "--confirm", "none", "--front", "0.02", *QUICK[:4]),
            2,
            "a budget of 0.02 is too small for 10 steps",
        ),
    ],
)
def test_what_can_not_be_done(sanac: Sanac, words: tuple[str, ...], code: int, said: str) -> None:
    ran = sanac("schedule", "sanac:tiny", *words)
    assert ran.code == code
    assert said in ran.err


def test_models_without_the_vocabulary_are_not_judged(sanac: Sanac, sprint: Path) -> None:
    """SANA-Sprint has one branch, and a schedule of depth alone."""
    ran = sanac("schedule", sprint, "--budget", "0.9", "--confirm", "none", "--num-prompts", "2", "--json")
    assert ran.code == 0, ran.err
    schedule = open_model(locate(ran.json["out"])).schedule
    assert schedule is not None
    assert schedule.steps == 2
    assert all(schedule.guided)
    assert schedule.forwards <= 0.9 * 6
    assert sanac("generate", ran.json["out"], "a red circle").code == 0


def test_a_schedule_is_not_scheduled_again(sanac: Sanac, scheduled: Path) -> None:
    ran = sanac("schedule", scheduled, "--budget", "0.5")
    assert ran.code == 2
    assert "already has a schedule" in ran.err


def test_its_graphs_follow_it(sanac: Sanac, scheduled: Path, tmp_path: Path) -> None:
    """A graph per depth over the same weights: verified, run by step, and as cheap as the schedule, rounded up."""
    assert sanac("convert", scheduled, "--to", "diffusers", "--out", "by-hand").code == 0
    (tmp_path / "by-hand" / "sanac.json").unlink()
    model = open_model(locate("by-hand"))
    schedule = Schedule((0, 3, 1, 2), noise_levels(model, 4), (1, 2, 3, 4), (True, True, False, True))
    (tmp_path / "by-hand" / "schedule.json").write_text(json.dumps(schedule.to_json()))
    scheduled = tmp_path / "by-hand"
    ran = sanac(
        "export", scheduled, "--precision", "fp32", "--component", "transformer", "--depths", "2", "--out", "exported"
    )
    assert ran.code == 0, ran.err
    depths = schedule.grouped(2)
    partial = [depth for depth in depths if depth < 4]
    assert partial
    assert {path.name for path in (tmp_path / "exported" / "transformer").glob("model.depth-*.onnx")} == {
        f"model.depth-{depth}.onnx" for depth in partial
    }
    for depth in partial:
        assert f"{depth} blocks: relative error" in ran.out
    weights = sum(path.stat().st_size for path in (tmp_path / "exported" / "transformer").glob("*.safetensors"))
    assert weights == sum(path.stat().st_size for path in (scheduled / "transformer").glob("*.safetensors"))
    assert sanac("generate", "exported", "a red circle", "--backend", "onnx", "--out", "graphs").code == 0
    rounded = schedule.deepened((*depths, 4))
    assert sanac("convert", scheduled, "--to", "diffusers", "--out", "plain").code == 0
    (tmp_path / "plain" / "sanac.json").unlink()
    (tmp_path / "plain" / "schedule.json").write_text(json.dumps(rounded.to_json()))
    assert sanac("generate", "plain", "a red circle", "--out", "weights").code == 0
    from PIL import Image

    one, two = (np.asarray(Image.open(tmp_path / folder / "a-red-circle-0.png")) for folder in ("graphs", "weights"))
    assert np.abs(one.astype(int) - two).max() <= 1
