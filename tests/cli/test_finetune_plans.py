"""What `sanac finetune` decides before it spends anything: plans for other devices, captions that are missing."""

from pathlib import Path

import pytest

from tests.conftest import Sanac
from tests.finetune.test_image_text_data import folder_of


def test_a_plan_for_another_device_makes_nothing(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0,1,3,5", "--out", "small").code == 0
    before = sorted(tmp_path.rglob("*"))
    ran = sanac("finetune", "small", "--plan-for", "RTX 4090", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["device"], ran.json["precision"], ran.json["changes"]) == ("RTX 4090", "bf16", [])
    assert ran.json["seconds"]["training"] > 0
    tight = sanac("finetune", "small", "--plan-for", "700MB", "--json").json
    assert tight["memory"] < ran.json["memory"]
    assert any("checkpointing" in change for change in tight["changes"])
    assert "on RTX 4090:" in sanac("finetune", "small", "--plan-for", "RTX 4090").out
    assert sanac("finetune", "small", "--plan-for", "toaster").code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_captions_are_looked_for_before_anything_is_encoded(
    sanac: Sanac, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sanac("prune", pipeline, "--keep", "0,1,3,5", "--out", "small").code == 0
    data = folder_of(tmp_path / "pictures", 12)
    for number in range(4):
        (data / f"{number:03d}.txt").unlink()
    monkeypatch.setattr("sanac.finetune.encode_dataset.open_autoencoder", lambda *_: pytest.fail("encoding began"))
    ran = sanac("finetune", "small", "--steps", "1", "--data", data)
    assert ran.code == 3
    assert "4 of 12 samples" in ran.err
    assert "NAME.txt" in ran.err
