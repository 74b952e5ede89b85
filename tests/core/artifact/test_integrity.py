"""NaN and Inf are found wherever they are, in every float type; nothing else is."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from sanac.core.artifact import integrity as scanning
from sanac.core.artifact.integrity import scan
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.safetensors_header import read_header
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.prune.keep_list import plan_keep

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
    counts = {name: scanning._count_bad(ref, NULL_REPORTER) for name, ref in refs.items()}
    expected = int((~torch.isfinite(bad.double())).sum())
    assert counts == {"good": 0, "bad": expected, "whole": 0}


def test_a_model_is_scanned_in_all_components_and_against_its_digests(pipeline: Path, tmp_path: Path) -> None:
    job = plan_keep(open_model(locate(str(pipeline))), "0-1", WriteOptions())
    write_partial(job, tmp_path / "out", NULL_REPORTER)
    assert scan(open_model(locate(str(tmp_path / "out"))), NULL_REPORTER) == ()
    path = tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    findings = scan(open_model(locate(str(tmp_path / "out"))), NULL_REPORTER)
    assert [finding.component for finding in findings] == ["vae", "artifact"]
    assert "1 of " in findings[0].what
