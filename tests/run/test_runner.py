"""Recipes that run: done once, gone on with, shared, stopped, and judged."""

import fcntl
import json
import shutil
import time
from pathlib import Path

from sanac.core.artifact.manifest import read_manifest
from tests.conftest import Sanac
from tests.run.small import SMALL, write


def test_done_once(sanac: Sanac, tmp_path: Path) -> None:
    """A second run does nothing; another gate judges anew; another scheme prunes nothing again."""
    ran = sanac("run", write(SMALL), "--json", "-q")
    assert (ran.code, ran.json["status"], ran.json["passed"]) == (0, "ok", True), ran.err
    assert [(one["verb"], one["status"]) for one in ran.json["stages"]] == [
        ("evaluate", "ok"), ("prune", "ok"), ("quantize", "ok"), ("evaluate", "ok"),
    ]  # fmt: skip
    out = Path(ran.json["out"])
    assert out.parent == tmp_path / "sanac-out"
    assert json.loads((tmp_path / "sanac-out" / "workspace.json").read_text())["head"] == out.name
    assert json.loads((out / "measurements" / "gate.json").read_text())["checks"] == ran.json["checks"]
    kept = json.loads((tmp_path / "sanac-out" / "measurements" / "metrics.json").read_text())
    assert {"run/size/bytes", "run/evaluate-shapes/overall.low", "run/passed"} <= kept.keys()
    start = time.process_time()
    again = sanac("run", "r.toml", "--json")
    assert (again.code, again.json["status"], again.json["out"]) == (0, "cached", str(out)), again.err
    assert time.process_time() - start < 5
    measured = out / "measurements" / "evaluate-shapes.json"
    measured.write_bytes(measured.read_bytes() + b"\n")
    changed = sanac("run", "r.toml", "--json", "-q")
    assert [one["status"] for one in changed.json["stages"]] == ["cached"] * 3 + ["ok"], "what was measured was edited"
    dry = sanac("run", "r.toml", "--dry-run", "--json")
    assert all(stage["done"] for stage in dry.json["stages"])
    denied = sanac("run", write(SMALL.replace("0.6", "0.1")), "--json", "--junit", "verdicts.xml")
    assert (denied.code, denied.json["status"]) == (5, "failed")
    assert [one["status"] for one in denied.json["stages"]] == ["cached"] * 4
    assert "too much" in Path("verdicts.xml").read_text()
    other = sanac("run", write(SMALL.replace("int8-wo", "int4-wo")), "--json", "-q")
    assert {one["verb"]: one["status"] for one in other.json["stages"][1:3]} == {"prune": "cached", "quantize": "ok"}


def test_what_was_lost_is_done_again(sanac: Sanac, tmp_path: Path) -> None:
    text = SMALL.partition("[evaluate]")[0]
    first = sanac("run", write(text), "--json", "-q").json
    kept = read_manifest(Path(first["out"]))
    shutil.rmtree(Path(first["out"]) / "transformer")
    record = next((tmp_path / "sanac-out" / "run").iterdir())
    again = sanac("run", "r.toml", "--json", "-q")
    assert [one["status"] for one in again.json["stages"]] == ["cached", "ok"], again.err
    assert read_manifest(Path(again.json["out"])) == kept, "the same bytes"
    for broken in (b"", b"[]", b'{"key": 1}'):
        record.write_bytes(broken)
        assert sanac("run", "r.toml", "--json", "-q").code == 0, "a broken record is no record"


def test_a_stage_s_own_error(sanac: Sanac) -> None:
    """With its exit code and its words; what was done before it is kept."""
    text = SMALL.replace('keep = "0-7,10-11"', 'keep = "0-40"')
    ran = sanac("run", write(text), "--json", "-q")
    assert (ran.code, ran.json["status"]) == (2, "error"), ran.err
    assert ran.json["error"]["message"].startswith("prune: ")
    assert (
        "evaluate: cached" in sanac("run", write(SMALL.partition("[quantize]")[0] + SMALL[SMALL.index("[eval") :])).err
    )


def test_two_at_once(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "sanac-out").mkdir()
    with (tmp_path / "sanac-out" / "run.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = sanac("run", write(SMALL))
    assert (ran.code, "another run is using" in ran.err) == (4, True)
