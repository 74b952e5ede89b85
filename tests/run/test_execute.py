"""Recipes that run: done once, gone on with, shared, stopped, and judged."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanac.cli.recipe import bundled
from sanac.core.manifest import read_manifest
from tests.conftest import Sanac

SMALL = """\
model = "sanac:tiny"
[prune]
keep = "0-7,10-11"
[quantize]
scheme = "int8-wo"
[evaluate]
suite = "shapes"
images = 12
steps = 2
[[gate]]
metric = "size/transformer_bytes"
max_ratio = 0.6
"""

OPEN = SMALL.replace('keep = "0-7,10-11"\n', "")


def write(text: str, name: str = "r.toml") -> str:
    Path(name).write_text(text)
    return name


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
    start = time.monotonic()
    again = sanac("run", "r.toml", "--json")
    assert (again.code, again.json["status"], again.json["out"]) == (0, "cached", str(out)), again.err
    assert time.monotonic() - start < 5
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


def test_in_two_folders_the_same(sanac: Sanac) -> None:
    text = SMALL.partition("[evaluate]")[0] + "[export]\nprecision = 'fp32'\nno_verify = true\n"
    digests = []
    for folder in ("one", "two"):
        ran = sanac("run", write(text), "--workspace", folder, "--json", "-q")
        assert ran.code == 0, ran.err
        made = [Path(one["out"]) for one in ran.json["stages"]]
        digests.append([(place / "sanac.json").read_bytes() for place in made])
    assert digests[0] == digests[1]


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
    assert (ran.code, "another run is at work" in ran.err) == (4, True)


def test_variants_and_the_front(sanac: Sanac) -> None:
    text = OPEN.replace('scheme = "int8-wo"\n', "").replace("max_ratio = 0.6", "max_ratio = 0.5")
    text += '[matrix]\n"prune.keep" = ["0-9", "0-1,10-11"]\n"quantize.scheme" = ["none", "int8-wo"]\n'
    ran = sanac("run", write(text), "--json", "-q")
    assert ran.code == 0, ran.err
    rows = {row["variant"]: row for row in ran.json["variants"]}
    assert len(rows) == 4
    verbs = [one["verb"] for one in ran.json["stages"]]
    assert (verbs.count("prune"), verbs.count("quantize")) == (2, 2)
    for row in rows.values():
        beaten = any(
            other["bytes"] <= row["bytes"] and other["score"] >= row["score"]
            and (other["bytes"], -other["score"]) != (row["bytes"], -row["score"])
            for other in rows.values()
        )  # fmt: skip
        assert row["ahead"] == (not beaten)
    least = min((row for row in rows.values() if row["passed"]), key=lambda row: row["bytes"])
    assert (ran.json["chosen"], ran.json["out"]) == (least["variant"], least["out"])
    shown = sanac("run", "r.toml").out
    assert shown.count("on the front") == sum(row["ahead"] for row in rows.values())


def test_a_target(sanac: Sanac) -> None:
    """What is too large is out, what loses too much is passed over, with reasons; the smallest of the rest is taken."""
    text = OPEN.replace('[quantize]\nscheme = "int8-wo"\n', "").partition("[[gate]]")[0]
    text += '[matrix]\n"prune.keep" = ["0-11", "0-9,11", "0-1,10-11"]\n'
    text += '[target]\nmax_bytes = "6.4MB"\nmin_score_ratio = 0.5\nimages = 12\n'
    ran = sanac("run", write(text), "--json", "-q")
    assert ran.code == 0, ran.err
    reasons = ran.json["reasons"]
    assert ran.json["chosen"] == "prune.keep=0-9,11", reasons
    assert any(reason.startswith("prune.keep=0-11: ") and "over 6.4" in reason for reason in reasons)
    assert any(reason.startswith("prune.keep=0-1,10-11: ") for reason in reasons)
    ran = sanac("run", write(text.replace("0.5", "1.5")), "--json", "-q")
    assert (ran.code, ran.json["chosen"]) == (5, None)
    assert "no candidate keeps every limit" in ran.json["reasons"][-1]
    assert not ran.json["checks"][0]["passed"], "who reads verdicts alone sees it, too"


def start(folder: Path, recipe: Path | str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sanac", "run", str(recipe), "--json", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_stopped_and_gone_on_with(tmp_path: Path, number: int, code: int) -> None:
    """Inside of a stage that takes long: training."""
    (tmp_path / "r.toml").write_text(
        'model = "sanac:tiny"\n[prune]\nkeep = "0-1"\n[finetune]\nsteps = 400\nsamples = 12\nbatch = 8\n'
    )
    process = start(tmp_path, "r.toml")
    assert process.stderr
    for line in process.stderr:
        if line.startswith("training:"):
            break
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert (process.returncode, json.loads(printed)["exit"]) == (code, code)
    again = start(tmp_path, "r.toml")
    printed, told = again.communicate(timeout=300)
    assert again.returncode == 0, told
    assert "continuing" in told, "from where it was"
    assert [one["status"] for one in json.loads(printed)["stages"]] == ["cached", "ok"]


def made(folder: Path) -> dict[str, str]:
    """Digests of what design.md promises, of every artifact: all sealed files but engines, their records and logs."""
    found = {}
    for place in sorted(folder.glob("*/sanac.json")):
        manifest = read_manifest(place.parent)
        assert manifest
        for name, file in manifest.files.items():
            if ".engine" not in name and ".rtx-" not in name:
                found[f"{place.parent.name}/{name}"] = file.blake3
    return found


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """The demo, killed with -9 again and again: in the end what an undisturbed run leaves."""
    recipe, rng = bundled("demo"), random.Random(os.environ.get("SANAC_KILL_SEED", "1"))
    begun = time.monotonic()
    undisturbed = start(tmp_path, recipe, "--workspace", "whole", "-q")
    assert undisturbed.communicate()[0]
    assert undisturbed.returncode == 0
    span = time.monotonic() - begun
    kills = 0
    while kills < 10:
        process = start(tmp_path, recipe, "--workspace", "killed", "-q")
        try:
            process.wait(rng.uniform(0.5, span / 5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        break
    last = start(tmp_path, recipe, "--workspace", "killed", "-q")
    printed, told = last.communicate()
    assert last.returncode == 0, told
    print(f"killed {kills} times, undisturbed {span:.0f} s")
    wanted, found = made(tmp_path / "whole"), made(tmp_path / "killed")
    assert found == wanted
    assert json.loads(printed)["passed"]
