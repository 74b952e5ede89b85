"""What is needed is said first and refused at once."""

import shutil
from pathlib import Path

import pytest

from sanac.core import resources
from sanac.core.errors import MissingResource
from sanac.core.progress import NullReporter
from sanac.core.resources import Needs, available_memory, check_room
from sanac.core.view import path_text


class Listening(NullReporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.details: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)


def test_it_says_and_refuses(tmp_path: Path) -> None:
    reporter = Listening()
    check_room(Needs(disk=1000, memory=1000, traffic=10**12), tmp_path / "not" / "there", reporter)
    assert f"1.00 kB of disk in {tmp_path}" in reporter.said[0]
    assert "about 42 min" in reporter.said[0]
    with pytest.raises(MissingResource, match="disk") as caught:
        check_room(Needs(disk=10**18, memory=0), tmp_path, reporter)
    assert caught.value.hint
    with pytest.raises(MissingResource, match="memory"):
        check_room(Needs(disk=0, memory=10**15), tmp_path, reporter)
    assert len(reporter.said) == 3


def test_a_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    without = available_memory()
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("2500000\n")
    (tmp_path / "memory.stat").write_text("inactive_file 400000\nactive_file 100000\nanon 9\n")
    assert available_memory() == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() == pytest.approx(without, rel=0.2)


def test_disk_is_measured_where_the_output_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or real(path))
    check_room(Needs(disk=1, memory=1), tmp_path / "a" / "b", NullReporter())
    assert asked == [tmp_path]


def test_only_memory_that_matters_is_a_line(tmp_path: Path) -> None:
    """Little memory is a detail; much of what is free is said; disk always is."""
    little, much = Listening(), Listening()
    check_room(Needs(disk=1000, memory=10_000_000), tmp_path, little)
    check_room(Needs(disk=0, memory=int(0.5 * available_memory())), tmp_path, much)
    (line,) = little.said
    assert line.startswith("needs 1.00 kB of disk in ")
    assert "10.0 MB of memory" in little.details[0]
    (line,) = much.said
    assert "of memory (free: " in line
    assert not much.details


def test_paths_are_shown_as_one_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert path_text(tmp_path / "here" / "less" / "a.png") == "less/a.png"
    assert path_text(Path("less")) == "less"
    assert path_text(tmp_path / "here") == "."
    assert path_text(tmp_path / "hereafter") == str(tmp_path / "hereafter")
