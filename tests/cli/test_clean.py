"""`sanac ls` and `sanac clean` on a workspace with everything in it."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Ran

CACHES = {"data-0123abcd", "painted-0123abcd", "teacher-0123abcd", "fit-0123abcd", "search-0123abcd", "repair-0123abcd"}
CACHES |= {"sensitivity-0123abcd"}
UNFINISHED = {"training-0123abcd", "finetune-89abcdef.partial"}
OTHERS = {"notes.txt", "mine", "data-mine", "data-89abcdef"}  # the last one is a link


def age(path: Path, minutes: float) -> None:
    for one in (*path.rglob("*"), path):
        os.utime(one, times=(time.time() - 60 * minutes,) * 2, follow_symlinks=False)


@pytest.fixture
def workspace(sanac, pipeline: Path, tmp_path: Path) -> Path:
    """HEAD is a pruning to 3 blocks in int8; beside it a pruning to 2, caches, unfinished runs, strangers."""
    home, outside = tmp_path / "ws", tmp_path / "outside"
    for words in (("prune", pipeline, "--keep", "0-1"), ("prune", pipeline, "--keep", "0-2")):
        assert sanac(*words, "--workspace", home).code == 0
    assert sanac("quantize", "--scheme", "int8-wo", "--workspace", home).code == 0
    for name in (*CACHES, "training-0123abcd", "finetune-89abcdef.partial/.sanac", "analyze-0123abcd", "mine"):
        (home / name).mkdir(parents=True)
        (home / name / "file.bin").write_bytes(bytes(1000))
    (home / "notes.txt").write_text("mine")
    (home / "data-mine").mkdir()
    outside.mkdir()
    (outside / "precious").write_text("precious")
    (home / "data-89abcdef").symlink_to(outside)
    (home / "data-0123abcd" / "link").symlink_to(outside)
    age(home, 90)
    (outside / "precious").touch()
    return home


@pytest.fixture
def names(sanac, workspace: Path) -> Callable[[], dict[str, dict]]:
    """The entries of the workspace by name, as `ls` lists them."""
    return lambda: {one["name"]: one for one in sanac("ls", "--workspace", workspace, "--json").json["entries"]}


def stage(entries: dict[str, dict], description: str) -> dict:
    (found,) = [one for one in entries.values() if one["description"].startswith(description)]
    return found


def test_ls_says_what_everything_is(sanac, names, workspace: Path, pipeline: Path) -> None:
    found = names()
    assert {name for name, one in found.items() if one["kind"] == "cache"} == CACHES
    assert {name for name, one in found.items() if one["kind"] == "unfinished"} == UNFINISHED
    assert {name for name, one in found.items() if one["kind"] == "unknown"} == OTHERS
    assert found["analyze-0123abcd"]["kind"] == "result"
    assert found["finetune-89abcdef.partial"]["verb"] == "finetune"
    two, three, head = (stage(found, text) for text in ("keep 2 of 6 blocks", "keep 3 of 6 blocks", "transformer"))
    assert [one["role"] for one in (two, three, head)] == ["", "ancestor of HEAD", "HEAD"]
    assert (three["made_from"], head["made_from"]) == ("pipeline", three["name"])
    assert two["size"] > 1_000_000

    (workspace / "mine" / "new").touch()
    shown: Ran = sanac("ls", "--workspace", workspace)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[-3].startswith("mine"), "the newest is last"
    assert lines[-1] == f"HEAD: {head['name']}; source: {pipeline}"


def test_nothing_is_deleted_without_yes(sanac, names, workspace: Path) -> None:
    before = names()
    ran: Ran = sanac("clean", "--workspace", workspace, "--json")
    assert ran.json["dry_run"] is True
    doomed = {one["name"] for one in ran.json["would_delete"]}
    assert doomed == CACHES | UNFINISHED | {stage(before, "keep 2 of 6 blocks")["name"]}
    assert ran.json["unknown"] == len(OTHERS)
    assert names() == before
    shown: Ran = sanac("clean", "--workspace", workspace)
    assert f"sanac clean --partial --caches --artifacts --workspace {workspace} --yes" in shown.out
    ran = sanac("clean", "--workspace", workspace, "--yes")
    assert ran.code == 2
    assert "doesn't say what" in ran.err
    assert names() == before


def test_each_option_deletes_its_own_and_nothing_outside(sanac, names, workspace: Path, tmp_path: Path) -> None:
    known = names()
    head, small = stage(known, "transformer")["name"], stage(known, "keep 2 of 6 blocks")["name"]
    left = set(known)
    for option, gone in (("--partial", UNFINISHED), ("--caches", CACHES), ("--artifacts", {small})):
        ran: Ran = sanac("clean", option, "--workspace", workspace, "--yes", "--json")
        assert ran.code == 0, ran.err
        assert {one["name"] for one in ran.json["deleted"]} == gone
        left -= gone
        assert set(names()) == left
    assert (tmp_path / "outside" / "precious").read_text() == "precious"
    assert sanac("inspect", workspace / head, "--scan").code == 0
    assert sanac("clean", "--workspace", workspace).out.splitlines()[-1] == "nothing to delete"


def test_what_may_be_in_use_stays(sanac, names, workspace: Path) -> None:
    (workspace / "data-0123abcd" / "file.bin").touch()
    lock = workspace / "finetune-89abcdef.partial" / ".sanac" / "lock"
    lock.touch()
    age(workspace / "finetune-89abcdef.partial", 90)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran: Ran = sanac("clean", "--partial", "--caches", "--workspace", workspace, "--yes", "--json")
    assert set(ran.json["kept"]) == {"data-0123abcd", "finetune-89abcdef.partial"}
    assert "in use" in ran.json["kept"]["finetune-89abcdef.partial"]
    assert {"data-0123abcd", "finetune-89abcdef.partial"} <= set(names())
    assert not {"fit-0123abcd", "training-0123abcd"} & set(names())
    with (workspace / "run.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = sanac("clean", "--caches", "--min-age", "0", "--workspace", workspace, "--yes")
    assert ran.code == 4
    assert "a recipe is running" in ran.err
    assert "data-0123abcd" in names()


def test_artifacts_stay_where_it_is_not_sure(sanac, names, workspace: Path) -> None:
    small = stage(names(), "keep 2 of 6 blocks")["name"]
    (workspace / small / "my-notes.txt").write_text("mine")
    ran: Ran = sanac("clean", "--artifacts", "--workspace", workspace, "--yes", "--json")
    assert "my-notes.txt" in ran.json["kept"][small]
    (workspace / small / "my-notes.txt").unlink()
    head = stage(names(), "transformer")["name"]
    (workspace / head / "sanac.json").write_text("{}")
    assert names()[head]["kind"] == "unknown"
    ran = sanac("clean", "--artifacts", "--workspace", workspace, "--yes", "--json")
    assert ran.json["deleted"] == []
    assert "HEAD is not known" in ran.json["kept"][small]


def test_only_workspaces(sanac, tmp_path: Path) -> None:
    ran: Ran = sanac("ls", "--workspace", tmp_path / "none")
    assert ran.code == 2
    assert "there is no workspace" in ran.err
    (tmp_path / "data-0123abcd").mkdir()
    ran = sanac("clean", "--caches", "--min-age", "0", "--workspace", tmp_path, "--yes")
    assert ran.code == 2
    assert "no workspace.json" in ran.err
    assert (tmp_path / "data-0123abcd").is_dir()


def test_neither_loads_a_framework(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sanac.cli.app import run\n"
        f"assert run(['ls', '--workspace', {str(tmp_path)!r}]) == 0\n"
        f"assert run(['clean', '--workspace', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'diffusers', 'transformers', 'onnx', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
