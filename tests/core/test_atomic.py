"""A file appears whole or not at all: on a full disk, in a missing folder, and when its writer is stopped."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sanac.core.atomic import atomic_path, write_atomically


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond this many bytes."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("before", [None, b"", b"what was there"])
def test_whole_or_not_at_all(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "a.json"
    if before is not None:
        path.write_bytes(before)
    with full_disk(1000), pytest.raises(OSError, match="too large"):
        write_atomically(path, bytes(5000))
    assert (path.read_bytes() if path.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == (before is not None), "nothing unfinished is left"
    write_atomically(path, bytes(5000))
    assert (path.read_bytes(), [*tmp_path.iterdir()]) == (bytes(5000), [path])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ValueError])
def test_a_writer_that_is_stopped_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"before")
    with pytest.raises(stop), atomic_path(path) as partial:
        partial.write_bytes(b"half")
        assert (partial.name, path.read_bytes()) == ("a.partial", b"before")
        raise stop
    assert (path.read_bytes(), [*tmp_path.iterdir()]) == (b"before", [path])


def test_a_writer_that_wrote_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.partial").mkdir()
    for name in ("a", "b", "nowhere/c"):
        with pytest.raises(OSError, match=r"irectory"):
            write_atomically(tmp_path / name, b"x")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b.partial"]


def test_what_a_killed_run_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.partial").write_bytes(b"a longer half of something else")
    write_atomically(tmp_path / "a", b"x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"x"}


def test_flushed_before_and_after_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        events.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(f"rename {self.name}")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    write_atomically(tmp_path / "a", b"x")
    assert events == ["flush a.partial", "rename a.partial", f"flush {tmp_path.name}"]
