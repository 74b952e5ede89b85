"""Stopped in the middle of a write, in real processes: exit code, nothing that looks finished, same bytes after."""

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

SCRIPT = Path(__file__).with_name("interrupt.py")


def command(source: Path, out: Path, *more: str) -> list[str]:
    workspace = str(out.parent / "ws")
    return ["prune", str(source), "--keep", "0-4", "--out", str(out), "--workspace", workspace, "--json", *more]


def sanac(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sanac", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def interrupted(what: str, after: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, str(SCRIPT), what, str(after), *arguments]
    return subprocess.run(code, capture_output=True, text=True, check=False, timeout=120)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert sanac(*command(pipeline, out, "--shard-size", "1MB")).returncode == 0
    return contents(out)


@pytest.mark.parametrize(
    ("what", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGTERM", 75), ("SIGINT", 130)], ids=["kill", "term", "ctrl-c"]
)
@pytest.mark.parametrize("after", [1, 30, 70])
def test_stopped_and_continued(
    what: str, code: int, after: int, pipeline: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    arguments = command(pipeline, out, "--shard-size", "1MB")
    stopped = interrupted(what, after, arguments)
    assert stopped.returncode == code
    assert not out.exists()
    assert read_manifest(tmp_path / "out.partial") is None
    if what != "SIGKILL":
        assert json.loads(stopped.stdout)["exit"] == code
        assert "run the same command again" in stopped.stderr
    done = sanac(*arguments)
    assert json.loads(done.stdout)["status"] == "ok", done.stderr
    if after > 1:
        assert "already written" in done.stderr
    assert contents(out) == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "ws"]


@pytest.mark.parametrize(("what", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGTERM", 75)], ids=["kill", "term"])
@pytest.mark.parametrize("after", [5, 60, 110])
def test_stopped_while_making_new_blocks(what: str, code: int, after: int, pipeline: Path, tmp_path: Path) -> None:
    def grow(name: str) -> list[str]:
        arguments = ["grow", str(pipeline), "--target-blocks", "9", "--seed", "3", "--shard-size", "1MB"]
        return [*arguments, "--out", str(tmp_path / name), "--workspace", str(tmp_path / "ws"), "--json"]

    stopped = interrupted(f"{what}-making", after, grow("out"))
    assert stopped.returncode == code
    assert not (tmp_path / "out").exists()
    _key, *kept = (tmp_path / "out.partial" / ".sanac" / "journal.jsonl").read_text().splitlines()
    done = sanac(*grow("out"))
    assert json.loads(done.stdout)["status"] == "ok", done.stderr
    assert f"{len(kept)} files are already written" in done.stderr
    assert sanac(*grow("undisturbed")).returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_fresh_starts_over(pipeline: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    arguments = command(pipeline, tmp_path / "out", "--shard-size", "1MB")
    assert interrupted("SIGTERM", 70, arguments).returncode == 75
    other = [word if word != "0-4" else "0-3" for word in arguments]
    refused = sanac(*other)
    assert refused.returncode == 2
    assert "--fresh" in json.loads(refused.stdout)["error"]["hint"]
    done = sanac(*arguments, "--fresh")
    assert "already written" not in done.stderr
    assert contents(tmp_path / "out") == undisturbed


def test_a_disk_that_fills_up(pipeline: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        arguments = command(pipeline, disk / "out", "--shard-size", "1MB")
        refused = sanac(*arguments)
        assert refused.returncode == 4
        assert "not enough disk space" in refused.stderr
        assert list(disk.iterdir()) == []
        full = interrupted("full", 0, arguments)
        assert full.returncode == 4, full.stderr
        assert "No space left" in json.loads(full.stdout)["error"]["why"]
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        done = sanac(*arguments)
        assert done.returncode == 0, done.stderr
        assert "already written" in done.stderr
        assert contents(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_second_process_is_told_who_writes(pipeline: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    arguments = command(pipeline, tmp_path / "out", "--shard-size", "1MB")
    holder = subprocess.Popen(
        [sys.executable, str(SCRIPT), "hold", "30", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    second = sanac(*arguments)
    assert second.returncode == 4
    failure = json.loads(second.stdout)["error"]
    assert "being written by another run" in failure["message"]
    assert f"process {holder.pid}" in failure["why"]
    holder.communicate()
    assert holder.returncode == 0
    assert contents(tmp_path / "out") == undisturbed
    assert json.loads(sanac(*arguments).stdout)["status"] == "cached"


@pytest.mark.slow
def test_killed_at_random_moments(pipeline: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    rng = random.Random(0)
    arguments = command(pipeline, tmp_path / "out", "--shard-size", "1MB")
    kills = 0
    for _ in range(40):
        process = subprocess.Popen([sys.executable, "-m", "sanac", *arguments], stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 0.6))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if os.path.lexists(tmp_path / "out"):
            assert contents(tmp_path / "out").items() >= undisturbed.items()
    assert sanac(*arguments).returncode == 0
    assert contents(tmp_path / "out") == undisturbed
    assert kills > 0
