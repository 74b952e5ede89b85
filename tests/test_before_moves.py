"""What sanac wrote before its modules moved still opens, resumes and is cached."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from tests.conftest import Sanac

DATA = Path(__file__).parent / "data" / "before_moves"


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of what was written then, with its paths."""
    folder = tmp_path / "before"
    shutil.copytree(DATA, folder)
    for name in ("recipe.toml", "run/workspace.json", "ws/workspace.json"):
        _move(folder / name, folder)
    for path in (*folder.glob("run/run/*.json"), *folder.rglob("origin.json")):
        _move(path, folder)
    monkeypatch.chdir(folder)
    return folder


def _move(path: Path, folder: Path) -> None:
    path.write_text(path.read_text().replace("/BEFORE", str(folder)))


def test_its_artifacts_open(before: Path, sanac: Sanac) -> None:
    for name, blocks in (("source", 2), ("run/prune-bb84eb4d", 1), ("run/quantize-4f81ac34", 1)):
        opened = open_model(locate(str(before / name)))
        assert (opened.architecture.blocks, opened.manifest is not None) == (blocks, True)
        assert sanac("inspect", before / name, "--scan").code == 0


def test_its_recipe_is_cached(before: Path, sanac: Sanac) -> None:
    ran = sanac("run", before / "recipe.toml", "--workspace", before / "run", "--json")
    assert (ran.code, ran.json["status"]) == (0, "cached"), ran.err
    assert [stage["status"] for stage in ran.json["stages"]] == ["cached", "cached"]
    assert Path(ran.json["out"]).name == "quantize-4f81ac34"


def test_its_workspace_is_cached(before: Path, sanac: Sanac) -> None:
    ran = sanac("prune", "--keep", "0", "--workspace", before / "ws", "--json")
    assert (ran.code, ran.json["status"]) == (0, "cached"), ran.err
    assert Path(ran.json["out"]).name == "prune-65eab99b"


def test_its_stopped_write_resumes(before: Path, sanac: Sanac) -> None:
    arguments = ("prune", before / "source", "--keep", "1,0", "--workspace", before / "ws")
    resumed = sanac(*arguments, "--out", before / "stopped", "--json")
    assert (resumed.code, resumed.json["status"]) == (0, "ok"), resumed.err
    assert "already written" in resumed.err
    assert sanac(*arguments, "--out", before / "again").code == 0
    names = ("sanac.json", "transformer/diffusion_pytorch_model.safetensors")
    assert all((before / "stopped" / one).read_bytes() == (before / "again" / one).read_bytes() for one in names)


def test_its_stopped_measurement_resumes(before: Path, sanac: Sanac) -> None:
    """The resume state is of this very job, and the scores are those of an unstopped run."""
    state = before / "scores" / ".progress" / "prompts-0.safetensors"
    with safe_open(state, framework="numpy") as file:
        saved_by = file.metadata()["key"]
    ran = sanac(
        "analyze", before / "source", "--embeddings", before / "captions.safetensors", "--timesteps", "150",
        "--out", before / "scores", "--workspace", before / "ws", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    expected = json.loads((before / "expected-scores.json").read_text())
    found = json.loads((before / "scores" / "scores.json").read_text())
    assert found["key"] == expected["key"] == saved_by
    for metric, rows in expected["metrics"].items():
        assert [row["value"] for row in found["metrics"][metric]] == pytest.approx([row["value"] for row in rows])
