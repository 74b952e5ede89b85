"""The workspace remembers source and HEAD, under a lock."""

import multiprocessing
from pathlib import Path

import pytest

from sanac.core.artifact import workspace
from sanac.core.artifact.workspace import Workspace, read_workspace, record, starting_model
from sanac.core.checkpoint.locate import DEFAULT_MODEL
from sanac.core.errors import InvalidInput, MissingResource
from tests.conftest import Sanac


def test_source_and_head_are_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "ws"
    assert read_workspace(folder) == Workspace(folder)
    assert not folder.exists()
    record(folder, "org/model", folder / "prune-1")
    assert read_workspace(folder) == Workspace(folder, "org/model", "prune-1")
    record(folder, "org/other")
    assert read_workspace(folder) == Workspace(folder, "org/other", "prune-1"), "measured, not made"
    record(folder, "org/other", tmp_path / "elsewhere")
    assert read_workspace(folder).head == str(tmp_path / "elsewhere")


def test_an_artifact_does_not_become_the_source(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    folder, artifact = tmp_path / "ws", tmp_path / "small"
    assert sanac("prune", pipeline, "--keep", "0-2", "--out", artifact, "--workspace", tmp_path / "elsewhere").code == 0
    record(folder, "org/model", artifact)
    record(folder, str(artifact))
    assert read_workspace(folder).source == "org/model"
    record(tmp_path / "other", str(artifact))
    assert read_workspace(tmp_path / "other").source == str(artifact), "where there is none"


def test_where_a_verb_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANAC_MODEL", raising=False)
    assert starting_model(Workspace(tmp_path))[0] == DEFAULT_MODEL
    monkeypatch.setenv("SANAC_MODEL", "mine")
    assert starting_model(Workspace(tmp_path)) == ("mine", "the model in $SANAC_MODEL")
    assert starting_model(Workspace(tmp_path, source="recorded"))[0] == "recorded"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "source": 3}'])
def test_a_broken_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "workspace.json").write_text(text)
    with pytest.raises(InvalidInput):
        read_workspace(tmp_path)


def _record_many(folder: Path, name: str) -> None:
    for number in range(20):
        record(folder, name, folder / f"{name}-{number}")


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record_many, args=(tmp_path, name)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = read_workspace(tmp_path)
    assert found.head == f"{found.source}-19"


def test_a_lock_that_stays_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(workspace, "_PATIENCE", 0.05)
    with (tmp_path / "workspace.lock").open("a") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(MissingResource, match="locked"):
            record(tmp_path, "model", tmp_path / "x")
