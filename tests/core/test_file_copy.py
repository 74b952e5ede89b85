"""Copies are exact and flushed, digests are right, failures are said."""

import errno
import os
from pathlib import Path

import pytest
from blake3 import blake3

from sanac.core import file_copy
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import GeneratedBytes, Range, clone, digest_file, whole, write_parts


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_copy, "_CHUNK", 1000)
    monkeypatch.setattr(file_copy, "_FLUSH_EVERY", 3000)
    path = tmp_path / "source"
    path.write_bytes(os.urandom(10_000))
    return path


def ranges(source: Path) -> list[Range]:
    return [Range("b", source, 5000, 4321), Range("empty", source, 7, 0), Range("a", source, 0, 100)]


@pytest.mark.parametrize("kernel", ["copies", "refuses", "is missing"])
def test_ranges_arrive_in_order_with_their_digests(kernel: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "no")))
    elif kernel == "is missing":
        monkeypatch.delattr(os, "copy_file_range")
    target = source.with_name("target")
    written = write_parts(target, [whole("", 4, lambda: b"head"), *ranges(source)])
    data = source.read_bytes()
    assert target.read_bytes() == b"head" + data[5000:9321] + data[:100]
    assert written.size == 4 + 4321 + 100
    assert written.blake3 == blake3(target.read_bytes()).hexdigest()
    assert written.labels == {
        "b": blake3(data[5000:9321]).hexdigest(),
        "empty": blake3(b"").hexdigest(),
        "a": blake3(data[:100]).hexdigest(),
    }


def test_what_is_made_in_steps_arrives_in_order_between_ranges(source: Path) -> None:
    data = os.urandom(5_000_000)
    asked: list[tuple[int, int]] = []

    def make(start: int, count: int) -> bytes:
        asked.append((start, count))
        return data[start : start + count]

    parts = [
        GeneratedBytes("made", len(data), make, 300_001),
        *ranges(source),
        GeneratedBytes("none", 0, make, 7),
        whole("", 2, lambda: b"xy"),
    ]
    written = write_parts(source.with_name("target"), parts)
    copied = source.read_bytes()
    assert source.with_name("target").read_bytes() == data + copied[5000:9321] + copied[:100] + b"xy"
    assert written.labels["made"] == blake3(data).hexdigest()
    assert written.labels["none"] == blake3(b"").hexdigest()
    assert asked == [(start, min(300_001, len(data) - start)) for start in range(0, len(data), 300_001)] + [(0, 0)]


def test_little_is_made_before_its_turn(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = file_copy.MAKE_STEP
    written, most = 0, 0
    real = file_copy._write_all

    def write_all(*arguments: object) -> None:
        nonlocal written
        real(*arguments)
        written += size

    def make(start: int, count: int) -> bytes:
        nonlocal most
        most = max(most, start + count - written)
        return bytes(count)

    monkeypatch.setattr(file_copy, "_write_all", write_all)
    write_parts(source.with_name("target"), [GeneratedBytes("made", 20 * size, make, size)])
    assert size < most <= file_copy._MADE_AHEAD + 2 * size


def test_what_fails_to_be_made_fails_the_copy(source: Path) -> None:
    def make(start: int, count: int) -> bytes:
        raise InvalidInput("no")

    with pytest.raises(InvalidInput, match="no"):
        write_parts(source.with_name("target"), [*ranges(source), GeneratedBytes("made", 10, make, 3)])


def test_without_digests_the_bytes_are_the_same(source: Path) -> None:
    target = source.with_name("target")
    written = write_parts(target, ranges(source), digests=False)
    assert (written.blake3, written.labels) == ("", {})
    assert target.read_bytes() == source.read_bytes()[5000:9321] + source.read_bytes()[:100]


def test_a_source_that_got_shorter_is_bad_input(source: Path) -> None:
    with pytest.raises(InvalidInput, match="is truncated"):
        write_parts(source.with_name("target"), [Range("a", source, 9_000, 5_000)])
    with pytest.raises(InvalidInput, match="is truncated"):
        digest_file(source, 9_000, 5_000)


def test_a_failing_digest_thread_fails_the_copy(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_copy.mmap, "mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        write_parts(source.with_name("target"), ranges(source))


def test_digest_of_a_part(source: Path) -> None:
    assert digest_file(source, 10, 200) == blake3(source.read_bytes()[10:210]).hexdigest()
    assert digest_file(source) == blake3(source.read_bytes()).hexdigest()


def test_clone_either_shares_or_says_no(source: Path) -> None:
    target = source.with_name("target")
    if clone(source, target):
        assert target.read_bytes() == source.read_bytes()
    else:
        assert target.read_bytes() == b""
