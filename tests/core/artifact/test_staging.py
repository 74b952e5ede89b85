"""OUT.partial: resume, refuse, replace, lock."""

import os
from pathlib import Path

import pytest

from sanac.core.artifact.manifest import Ancestor, Manifest
from sanac.core.artifact.staging import StagingArea, find_finished, open_stage
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.file_copy import FileRecord, digest_bytes

KEY, OTHER = "1" * 64, "2" * 64


def seal(stage: StagingArea) -> None:
    lineage = (Ancestor("source", OTHER, "x"),)
    stage.seal(Manifest("prune", stage.key, {}, lineage, {}, dict(stage.files)), {"origin.json": b"not sealed"})


def make(out: Path, key: str = KEY, text: bytes = b"hello") -> None:
    with open_stage(out, key, fresh=False) as stage:
        stage.place_bytes("sub/a.txt", text)
        seal(stage)


def explode(path: Path) -> FileRecord:
    raise AssertionError("this file was finished before")


def test_what_was_finished_is_not_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_stage(out, KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        (stage.partial / "b.unfinished").write_bytes(b"half")
        raise KeyboardInterrupt
    assert not out.exists()
    with open_stage(out, KEY, fresh=False) as stage:
        assert stage.place("a", explode) == FileRecord(5, digest_bytes(b"first"))
        stage.place_bytes("b", b"second")
        seal(stage)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "origin.json", "sanac.json"]
    assert not (tmp_path / "out.partial").exists()


def test_a_torn_journal_line_is_forgotten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_stage(out, KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        raise KeyboardInterrupt
    journal = tmp_path / "out.partial" / ".sanac" / "journal.jsonl"
    whole = journal.read_bytes()
    for torn in (whole + b'{"path": "b", "si', b"", b'{"key"'):
        journal.write_bytes(torn)
        with open_stage(out, KEY, fresh=False) as stage:
            assert set(stage.files) == ({"a"} if torn.startswith(whole) else set())
        assert journal.read_bytes().endswith(b"\n")


def test_a_finished_file_that_vanished_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        raise KeyboardInterrupt
    (tmp_path / "out.partial" / "a").unlink()
    with open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        assert stage.files == {}


def test_a_broken_journal_and_other_settings_name_fresh(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_stage(out, OTHER, fresh=False):
        raise KeyboardInterrupt
    with pytest.raises(UsageError, match="other settings") as caught, open_stage(out, KEY, fresh=False):
        pass
    assert "--fresh" in caught.value.hint
    with open_stage(out, KEY, fresh=True) as stage:
        assert stage.files == {}
    (tmp_path / "out.partial" / ".sanac" / "journal.jsonl").write_text("garbage\n")
    with pytest.raises(InvalidInput, match="broken"), open_stage(out, KEY, fresh=False):
        pass


def test_fresh_discards_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("sub/a", b"first")
        stage.place_bytes("b", b"first")
        raise KeyboardInterrupt
    with open_stage(tmp_path / "out", KEY, fresh=True) as stage:
        assert sorted(path.name for path in stage.partial.iterdir()) == [".sanac"]


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput), open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        raise InvalidInput("the source is rotten")
    assert list(tmp_path.iterdir()) == []


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        with (
            pytest.raises(MissingResource, match="another run") as caught,
            open_stage(tmp_path / "out", KEY, fresh=True),
        ):
            pass
        assert f"process {os.getpid()}" in caught.value.why
        seal(stage)
    assert (tmp_path / "out" / "a").read_bytes() == b"first"


def test_finished_other_damaged_and_forced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert find_finished(out, KEY, force=False) is None
    make(out)
    found = find_finished(out, KEY, force=False)
    assert found is not None
    assert found.key == KEY
    with pytest.raises(UsageError, match="another artifact"):
        find_finished(out, OTHER, force=False)
    assert find_finished(out, OTHER, force=True) is None
    (out / "sub" / "a.txt").write_bytes(b"longer than it was")
    with pytest.raises(InvalidInput, match="damaged"):
        find_finished(out, KEY, force=False)
    make(out, OTHER, b"anew")
    assert (out / "sub" / "a.txt").read_bytes() == b"anew"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("force", [True, False])
def test_what_sanac_did_not_write_is_never_replaced(force: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    assert find_finished(tmp_path / "folder", KEY, force=force) is None  # empty: may be filled
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    for name in ("file", "folder"):
        with pytest.raises(UsageError, match=r"can't be replaced|did not write"):
            find_finished(tmp_path / name, KEY, force=force)


def test_a_run_killed_between_the_two_renames_is_finished_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, OTHER)
    with pytest.raises(KeyboardInterrupt), open_stage(out, KEY, fresh=False) as stage:
        stage.place_bytes("sub/a.txt", b"new")
        out.rename(tmp_path / "out.replaced")
        raise KeyboardInterrupt
    make(out, KEY, b"new")
    assert (out / "sub" / "a.txt").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MissingResource, match="cannot write"), open_stage(tmp_path / "file" / "out", KEY, fresh=False):
        pass


def test_leftovers_do_not_slip_into_the_artifact(tmp_path: Path) -> None:
    with open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        (stage.partial / "b.unfinished").write_bytes(b"half")
        (stage.partial / "sub").mkdir()
        (stage.partial / "sub" / "stray").write_bytes(b"x")
        seal(stage)
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {"a", "origin.json", "sanac.json"}


def test_a_finished_file_of_another_size_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        stage.place_bytes("a", b"first")
        raise KeyboardInterrupt
    (tmp_path / "out.partial" / "a").write_bytes(b"fir")
    with open_stage(tmp_path / "out", KEY, fresh=False) as stage:
        assert stage.files == {}


def test_state_left_by_a_kill_after_the_last_rename_is_cleared_away(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / ".sanac").mkdir()
    assert find_finished(tmp_path / "out", KEY, force=False) is not None
    assert not (tmp_path / "out" / ".sanac").exists()


def test_a_lock_on_what_another_run_has_just_renamed_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def late(file: object, flags: int) -> None:
        (tmp_path / "out.partial").rename(tmp_path / "out")

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(MissingResource, match="just finished"), open_stage(tmp_path / "out", KEY, fresh=False):
        pass


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_rename, real_move = os.fsync, Path.rename, os.rename

    def fsync(descriptor: int) -> None:
        events.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)

    def move(source: str, target: str, **handles: int) -> None:
        if handles:  # a file in the artifact
            events.append(f"rename {source}")
        real_move(source, target, **handles)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "rename", move)
    make(tmp_path / "out")
    first = events.index("flush a.txt.unfinished")
    assert events[first : first + 4] == [
        "flush a.txt.unfinished", "rename a.txt.unfinished", "flush sub", "flush journal.jsonl",
    ]  # fmt: skip
    last = events.index("rename out.partial")
    assert "flush sanac.json" in events[first:last]
    assert events[last - 1] == "flush out.partial"
    assert events[last + 1] == f"flush {tmp_path.name}"
