"""What MODEL may be, and that nothing outside the given folder is read."""

import os
import shutil
from pathlib import Path

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import BUNDLED, NotDownloaded, inside, locate
from sanac.core.errors import InvalidInput, MissingResource, SanacError, UsageError

REPO = "some-org/some.model"


@pytest.fixture
def cache(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as huggingface_hub lays it out: snapshots of links into blobs."""
    repo = tmp_path / "hub" / "models--some-org--some.model"
    snapshot = repo / "snapshots" / ("a" * 40)
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    for number, path in enumerate(sorted(p for p in pipeline.rglob("*") if p.is_file())):
        blob = repo / "blobs" / f"{number:064x}"
        shutil.copy(path, blob)
        link = snapshot / path.relative_to(pipeline)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repo


def test_a_hub_id_in_the_cache(cache: Path) -> None:
    located = locate(REPO)
    assert (located.name, located.boundary) == (REPO, cache)
    model = open_model(located)
    assert model.architecture.blocks == 6
    assert model.weights.identity()[0][0] == "blob"
    assert open_model(locate(f"{REPO}@{'a' * 40}")).architecture.blocks == 6


def test_a_snapshot_given_by_path_is_known_as_the_hub_id(cache: Path) -> None:
    located = locate(str(cache / "snapshots" / ("a" * 40)))
    assert (located.name, located.boundary) == (REPO, cache)


def test_a_link_out_of_the_cache_repository(cache: Path, tmp_path: Path) -> None:
    link = cache / "snapshots" / ("a" * 40) / "transformer" / "config.json"
    (tmp_path / "secret").write_text("{}")
    link.unlink()
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInput, match="points outside"):
        open_model(locate(REPO))


def test_a_hub_id_that_is_not_here(cache: Path) -> None:
    for word in ("other-org/model", f"{REPO}@no-such-revision"):
        with pytest.raises(NotDownloaded) as caught:
            locate(word)
        assert caught.value.exit_code == 4
        assert caught.value.hint.startswith("hf download " + word.split("@")[0])


@pytest.mark.parametrize("word", ["a/b/c", "nowhere", "", "../..no/x", "a//b", "/no/such/place", "x" * 300])
def test_no_such_place(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, InvalidInput, MissingResource)) as caught:
        open_model(locate(word))
    assert caught.value.exit_code in {2, 3}


def test_a_misspelt_path(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    with pytest.raises(UsageError) as caught:
        locate(str(tmp_path / "my-modle"))
    assert caught.value.hint == f"did you mean {tmp_path / 'my-model'}?"


@pytest.mark.parametrize("word", ["sanac-out/prune-2a", "elsewhere/model.pth"])
def test_a_wrong_path_of_two_parts_is_not_taken_for_a_hub_id(
    word: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sanac-out" / "prune-2b").mkdir(parents=True)
    with pytest.raises(UsageError, match=f"there is no {word}") as caught:
        locate(word)
    assert "hf download" not in (caught.value.hint or "")
    assert "sanac-out/prune-2b" in (caught.value.hint or "") or word.endswith(".pth")


def test_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InvalidInput, match="broken link"):
        locate(str(tmp_path / "link"))


def test_a_linked_model_folder_is_fine(pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pipeline)
    assert open_model(locate(str(tmp_path / "link"))).architecture.blocks == 6


def test_inside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert inside(tmp_path, tmp_path / "folder" / ".." / "file") == tmp_path / "file"
    for bad in ("folder", "loop", "absent", "../" + tmp_path.parent.name):
        with pytest.raises(InvalidInput):
            inside(tmp_path, tmp_path / bad)


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_models_are_part_of_the_package(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = locate(name)
    assert (found.path / "transformer" / "config.json").is_file()
    assert (found.name, found.boundary) == (name, found.path)
    assert locate(str(found.path)) == found, "a lineage that leads there knows it by its name"
    monkeypatch.setitem(BUNDLED, name, tmp_path / "tiny")
    with pytest.raises(MissingResource, match="missing from this installation"):
        locate(name)


def test_the_bundled_model_is_suggested_for_a_slip() -> None:
    with pytest.raises(SanacError) as caught:
        locate("sanac:tny")
    assert caught.value.hint == "did you mean sanac:tiny?"
    with pytest.raises(SanacError) as caught:
        locate("sanac:token")
    assert caught.value.hint == "did you mean sanac:tokens?"
