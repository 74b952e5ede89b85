"""What a model card says: the model that it was made from, and how large it is."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sanac.core.artifact.manifest import read_manifest
from sanac.core.checkpoint.locate import hub_id, hub_id_of
from tests.conftest import Sanac

CACHED = "/home/me/.cache/huggingface/hub/models--Owner--a-model_1.5/snapshots/0123abc"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Owner/a-model_1.5", "Owner/a-model_1.5"),
        (CACHED, "Owner/a-model_1.5"),
        ("/models/sana", ""),
        ("./sana", ""),
        ("sana", ""),
        ("a/b/c", ""),
        ("o/" + "n" * 500, ""),
        ("Owner/model\nlicense: mit", ""),
        ("Owner/model\0", ""),
        ("", ""),
    ],
)
def test_the_hub_id_in_a_configuration(written: str, found: str) -> None:
    assert hub_id_of(written) == found


def test_a_path_is_not_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id_of("models/sana") == "models/sana"
    (tmp_path / "models" / "sana").mkdir(parents=True)
    assert hub_id_of("models/sana") == ""
    assert hub_id("models/sana@v1") == "models/sana"


def test_the_base_model_of_a_local_copy(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    index = copy / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_name_or_path": CACHED}))
    assert sanac("prune", copy, "--keep", "0-3", "--out", "four").code == 0
    assert sanac("quantize", "four", "--scheme", "int8-wo", "--out", "int8").code == 0
    for name in ("four", "int8"):
        assert ModelCard.load(tmp_path / name / "README.md").data.base_model == "Owner/a-model_1.5"
        assert str(tmp_path) not in (tmp_path / name / "README.md").read_text()
        assert "/home/me" not in (tmp_path / name / "sanac.json").read_text()
    assert sanac("prune", pipeline, "--keep", "0-3", "--out", "unknown").code == 0
    assert ModelCard.load(tmp_path / "unknown" / "README.md").data.base_model is None
    lineage = read_manifest(tmp_path / "int8").lineage
    assert [step.hub for step in lineage] == ["Owner/a-model_1.5", "", ""]


def test_how_large_it_is(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0-3", "--out", "four").code == 0
    assert sanac("quantize", "four", "--scheme", "int8-wo", "--out", "int8").code == 0
    for name, precision in (("four", "F32"), ("int8", "int8 in 84 of 84 weights")):
        sizes = sanac("inspect", name, "--json").json["components"]
        (transformer,) = [one["amount"]["bytes"] for one in sizes if one["name"] == "transformer"]
        whole = sum(one["amount"]["bytes"] for one in sizes if one["dtypes"])
        text = (tmp_path / name / "README.md").read_text()
        line = next(line for line in text.splitlines() if line.startswith("4 blocks, "))
        assert line.startswith(f"4 blocks, {precision.split()[0]}"), line
        assert f"transformer {transformer / 1e6:.2f} MB" in line
        assert f"all weights {whole / 1e6:.2f} MB" in line
