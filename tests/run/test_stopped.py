"""Recipes that are stopped, by whatever, and gone on with: the same in the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanac.core.artifact.manifest import read_manifest
from sanac.run.bundled import bundled
from tests.conftest import Sanac
from tests.run.small import SMALL, write

EXPORT = "[export]\nprecision = 'fp32'\nno_verify = true\n"


@pytest.mark.slow
def test_in_two_folders_the_same(sanac: Sanac) -> None:
    text = SMALL.partition("[evaluate]")[0] + EXPORT
    digests = []
    for folder in ("one", "two"):
        ran = sanac("run", write(text), "--workspace", folder, "--json", "-q")
        assert ran.code == 0, ran.err
        made = [Path(one["out"]) for one in ran.json["stages"]]
        digests.append([(place / "sanac.json").read_bytes() for place in made])
    assert digests[0] == digests[1]


def start(folder: Path, recipe: Path | str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sanac", "run", str(recipe), "--json", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_stopped_and_gone_on_with(tmp_path: Path, number: int, code: int) -> None:
    """Inside of a stage that takes long: training."""
    (tmp_path / "r.toml").write_text(
        'model = "sanac:tiny"\n[prune]\nkeep = "0-1"\n[finetune]\nsteps = 100\nsamples = 12\nbatch = 8\n'
    )
    process = start(tmp_path, "r.toml")
    while not any(file.stat().st_size for file in tmp_path.glob("sanac-out/training-*/metrics.jsonl")):
        assert process.poll() is None, "it ended before it was stopped"
        time.sleep(0.01)
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
