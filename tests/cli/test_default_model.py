"""`sanac prune --target-blocks 20` as typed, on a machine that has no model."""

from pathlib import Path

import pytest

from tests.conftest import Sanac


def test_without_a_model_it_names_what_to_do(sanac: Sanac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty" / "hub"))
    ran = sanac("prune", "--target-blocks", "20")
    assert ran.code == 4
    assert "hf download Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers" in ran.err
    assert "sanac:tiny" in ran.err
    assert not list(tmp_path.iterdir())
