"""`sanac doctor` reports what is there, and what isn't."""

from pathlib import Path

import pytest

from sanac.runtime import doctor
from tests.conftest import Sanac


def test_it_looks_at_everything(sanac: Sanac) -> None:
    ran = sanac("doctor", "--json")
    assert (ran.code, ran.json["status"]) == (0, "ok")
    findings = {(f["group"], f["name"]): f for f in ran.json["findings"]}
    for name in ("Python", "processor", "memory", "disk", "hub cache"):
        assert findings["machine", name]["text"]
    import diffusers
    import torch

    assert torch.__version__ in findings["torch", "torch"]["text"]
    assert findings["versions", "diffusers"]["text"].startswith(diffusers.__version__)
    assert {"onnxruntime", "tensorrt", "tensorrt-rtx"} <= {name for group, name in findings if group == "backends"}
    if not torch.cuda.is_available():
        assert "none that torch can use" in findings["torch", "GPU"]["text"]


def test_text(sanac: Sanac) -> None:
    ran = sanac("doctor")
    assert ran.code == 0
    assert ran.out.startswith("machine\n")
    assert all(f"\n{group}\n" in ran.out for group in ("torch", "backends", "versions"))


def test_a_broken_torch_exits_4(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor._import
    monkeypatch.setattr(doctor, "_import", lambda name: None if name == "torch" else real(name))
    ran = sanac("doctor", "--json")
    assert (ran.code, ran.json["status"]) == (4, "error")
    broken = [f for f in ran.json["findings"] if f["state"] == "broken"]
    assert [f["hint"] for f in broken] == ["pip install torch"]


def test_both_onnxruntime_wheels_and_odd_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "" if name == "torchao" else "0.0.1")
    findings = doctor.examine(tmp_path)
    assert any("overwrite each other" in finding.text for finding in findings)
    states = {finding.name: finding.state for finding in findings if finding.group == "versions"}
    assert states["torchao"] == "broken"
    assert states["torch"] == "warn"
