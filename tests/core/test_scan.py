"""NaN and Inf are found wherever they are, in every float type; nothing else is."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from sanac.core import scan as scanning
from sanac.core.execute import Writing, execute
from sanac.core.header import read_header
from sanac.core.locate import locate
from sanac.core.model import open_model
from sanac.core.scan import scan
from sanac.core.talk import SILENCE
from sanac.prune.manual import decide_keep

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_bad_values_are_counted(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "_CHUNK", 64)
    extremes = torch.tensor(
        [torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny, 0.0, -0.0], dtype=torch.float64
    )
    good = torch.cat([torch.randn(100).double(), extremes]).to(dtype)
    bad = good.clone()
    bad[3] = bad[77] = float("nan")
    if dtype != torch.float8_e4m3fn:  # has no infinity
        bad[50], bad[51] = float("inf"), float("-inf")
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"good": good, "bad": bad, "whole": torch.full((9,), -1)}, path)
    refs = read_header(path).tensors
    counts = {name: scanning._count_bad(ref, SILENCE) for name, ref in refs.items()}
    expected = int((~torch.isfinite(bad.double())).sum())
    assert counts == {"good": 0, "bad": expected, "whole": 0}


def test_a_model_is_scanned_in_all_components_and_against_its_digests(pipeline: Path, tmp_path: Path) -> None:
    job = decide_keep(open_model(locate(str(pipeline))), "0-1", Writing())
    execute(job, tmp_path / "out", SILENCE)
    assert scan(open_model(locate(str(tmp_path / "out"))), SILENCE) == ()
    path = tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    findings = scan(open_model(locate(str(tmp_path / "out"))), SILENCE)
    assert [finding.component for finding in findings] == ["vae", "artifact"]
    assert "1 of " in findings[0].what
