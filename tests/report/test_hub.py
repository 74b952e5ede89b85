"""Pushing to the hub, against a stand-in: one commit, sealed as it is pushed, scores where the hub shows them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.conftest import Sanac
from tests.standins.hub import Hub

RECIPE = """\
model = "sanac:tiny"
[prune]
keep = "0-7,10-11"
[evaluate]
suite = "shapes"
images = 12
steps = 2
baseline = false
[[gate]]
metric = "size/bytes"
most = 1e9
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all, so that the recipe's stages are run once."""
    return tmp_path_factory.mktemp("pushing")


def run(folder: Path, hub: Hub, *words: str, token: str = "hf_standin") -> "subprocess.CompletedProcess[str]":
    names = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, "-m", "sanac", "run", "r.toml", "--json", "-q", *words]
    return subprocess.run(command, cwd=folder, env=os.environ | names, capture_output=True, text=True, check=False)


def test_what_is_pushed(sanac: Sanac, folder: Path, tmp_path: Path, hub: Hub) -> None:
    (folder / "r.toml").write_text(RECIPE)
    ran = run(folder, hub, "--push-to-hub", "me/small")
    assert ran.returncode == 0, ran.stderr
    value = json.loads(ran.stdout)
    assert (value["pushed"], hub.commits, hub.repositories) == (
        f"{hub.endpoint}/me/small/commit/1",
        1,
        {"me/small": True},
    )
    copy = tmp_path / "copy"
    for name, data in hub.files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
    assert "origin.json" not in hub.files, "where it was made is nobody's business"
    scanned = sanac("inspect", copy, "--scan")
    assert scanned.code == 0, scanned.err
    (about,) = ModelCard.load(copy / "README.md").data.eval_results[:1]
    overall = json.loads((copy / "measurements" / "evaluate-shapes.json").read_text())["overall"]["value"]
    assert (about.task_type, about.dataset_type) == ("text-to-image", "shapes")
    assert about.metric_value == pytest.approx(overall, abs=1e-4)
    card = (copy / "README.md").read_text()
    assert "where it comes from" in card.lower(), "the rest of the card is as it was"
    measured = card.partition("## Measured")[2].partition("## Where")[0]
    assert f"score {overall:.3f} (" in measured
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", measured)
    assert Image.open(copy / picture).width > 400, "the picture that the card shows is pushed, too"
    assert "eval_results" not in (Path(value["out"]) / "README.md").read_text(), "what lies here is untouched"
    again = run(folder, hub, "--push-to-hub", "me/small", "--public")
    assert (again.returncode, json.loads(again.stdout)["status"], hub.commits) == (0, "cached", 2), again.stderr


def test_what_is_not_pushed(folder: Path, hub: Hub) -> None:
    (folder / "r.toml").write_text(RECIPE.replace("1e9", "1"))
    ran = run(folder, hub, "--push-to-hub", "me/small")
    assert (ran.returncode, json.loads(ran.stdout)["pushed"], hub.files) == (5, None, {})
    assert "a gate failed" in ran.stderr
    (folder / "r.toml").write_text(RECIPE)
    for words, token, code, said in (
        ("me/sm/all", "hf_standin", 2, "not a valid repository name"),
        ("me/small", "hf_other", 4, "pushing to"),
    ):
        ran = run(folder, hub, "--push-to-hub", words, token=token)
        assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
    hub.fails = True
    ran = run(folder, hub, "--push-to-hub", "me/small")
    assert (ran.returncode, hub.files) == (4, {}), ran.stderr


def test_mlflow_by_a_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A STAND-IN that notes what mlflow is asked; the real one (3.17) was tried by hand."""
    import contextlib
    import types

    from sanac.core.errors import MissingResource
    from sanac.report import mlflow_log
    from sanac.run.recipe import RecipeStep

    class MlflowException(Exception): ...

    noted: list[object] = []
    stand_in = types.SimpleNamespace(
        exceptions=types.SimpleNamespace(MlflowException=MlflowException),
        set_experiment=noted.append,
        start_run=lambda run_name: contextlib.nullcontext(noted.append(run_name)),
        log_params=noted.append,
        log_metrics=noted.append,
        log_artifacts=lambda folder, artifact_path: noted.append((folder, artifact_path)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", stand_in)
    steps = [RecipeStep("prune", {"target_blocks": 6}), RecipeStep("export", {"sm": ["89"]})]
    mlflow_log.log("sana", "run", mlflow_log.flat(steps), {"size/bytes": 1.0}, [tmp_path / "measurements"])
    settings = {"prune.target_blocks": "6", "export.sm": "['89']"}
    assert noted == ["sana", "run", settings, {"size/bytes": 1.0}, (str(tmp_path / "measurements"), "measurements")]

    def refused(_: str) -> None:
        raise MlflowException("no such server")

    stand_in.set_experiment = refused
    with pytest.raises(MissingResource, match="logging to mlflow failed"):
        mlflow_log.log("sana", "run", {}, {}, [])
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingResource, match="not installed"):
        mlflow_log.log("sana", "run", {}, {}, [])
