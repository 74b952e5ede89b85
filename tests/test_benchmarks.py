"""The synthetic checkpoint is one that diffusers loads, and the measuring instrument measures."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel

from benchmarks import measure as instrument
from benchmarks.measure import Run, measure, report
from benchmarks.synthetic import SANA_4_8B, write_transformer


def test_a_narrow_twin_of_the_synthetic_checkpoint_loads(tmp_path: Path) -> None:
    narrow = dataclasses.replace(SANA_4_8B, blocks=2, width=1152, hidden=2880, cross_width=1152)
    size = write_transformer(tmp_path / "model", narrow)
    assert size == sum(path.stat().st_size for path in (tmp_path / "model").iterdir())
    model = SanaTransformer2DModel.from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16)
    assert all(torch.isfinite(p).all() and p.std() > 0.001 for p in model.parameters() if p.numel() > 100)


def test_peak_anonymous_memory_is_seen() -> None:
    code = "import time; x = bytearray(b'x') * 200_000_000; time.sleep(0.2); del x; time.sleep(0.1)"
    run = measure([sys.executable, "-c", code])
    assert 200e6 < run.anonymous < 300e6
    assert run.seconds > 0.3


SHOWN = [
    ("devices", "devices.md"),
    ("small", "research/runtime.md"),
    ("schedule", "research/schedules.md"),
    ("judges", "research/judges.md"),
    ("search", "research/search.md"),
    ("reinforce", "research/reinforce.md"),
]


@pytest.mark.parametrize(("script", "page"), SHOWN)
def test_a_page_shows_the_recorded_tables(script: str, page: str) -> None:
    """`python benchmarks/devices.py --table` prints what docs/devices.md says."""
    root = Path(__file__).parent.parent
    command = [sys.executable, f"benchmarks/{script}.py", "--table"]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() in (root / "docs" / page).read_text()


def test_the_page_of_schedules_shows_recorded_rows() -> None:
    docs = Path(__file__).parent.parent / "docs"
    page, every = ((docs / name).read_text() for name in ("schedule.md", "research/schedules.md"))
    table = page.partition("<!-- table of benchmarks/schedule.py -->")[2].partition("<!-- end of table -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) > 15
    assert [row for row in rows if row not in every] == []


def test_a_report_keeps_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instrument, "RESULTS", tmp_path)
    report("twice", "a title", {"cp": [Run(2.0, 1, 9)], "sanac": [Run(3.0, 5, 7)]}, ("cp",), "")
    kept = json.loads((tmp_path / "twice.json").read_text())
    assert kept["figures"]["sanac"] == {
        "seconds": 3.0, "anonymous": 5, "resident": 7, "ratios": {"cp": 1.5}, "all_seconds": [3.0],
    }  # fmt: skip
    assert kept["rounds"] == 1
