"""Files that are added to an artifact: it stays what it is, and never vouches for what is half there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sanac.core.adding import add, there
from sanac.core.errors import BadInput, Lacking, Misuse
from sanac.core.execute import Finish, Surgery, Writing, decide, execute
from sanac.core.locate import locate
from sanac.core.manifest import read_manifest
from sanac.core.model import open_model
from sanac.core.plan import keep_blocks
from sanac.core.scan import scan
from sanac.core.stage import Stage
from sanac.core.talk import SILENCE, Talk

NAMES = ("transformer/notes.onnx", "beside/notes.txt")


def cut() -> Surgery:
    return decide("prune", open_model(locate("sanac:tiny")), keep_blocks(12, range(4)), {}, Writing())


def job(folder: Path, make: Callable[[Stage, Talk], None], *, writing: Writing | None = None, how: str = "") -> Surgery:
    model = open_model(locate(str(folder)))
    found = decide("export", model, keep_blocks(4, range(4)), {"how": how}, writing or Writing())
    return replace(found, finish=Finish(make, disk=10, memory=10, names=NAMES))


def two_notes(stage: Stage, _: Talk) -> None:
    for name in NAMES:
        stage.place_bytes(name, name.encode())


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    execute(cut(), tmp_path / "artifact", SILENCE)
    return tmp_path / "artifact"


def test_it_stays_the_artifact_that_it_is(artifact: Path) -> None:
    before = {path: path.stat().st_ino for path in artifact.rglob("*.safetensors")}
    key, identity = read_manifest(artifact).key, open_model(locate(str(artifact))).identity()
    status, manifest = add(job(artifact, two_notes), SILENCE)
    assert status == "ok"
    assert manifest == read_manifest(artifact)
    assert set(NAMES) == manifest.added.keys()
    assert manifest.added.keys() <= manifest.files.keys()
    model = open_model(locate(str(artifact)))
    assert (manifest.key, model.identity()) == (key, identity)
    assert execute(cut(), artifact, SILENCE)[0] == "cached"
    assert not scan(model, SILENCE)
    assert before == {path: path.stat().st_ino for path in artifact.rglob("*.safetensors")}
    assert not (artifact / ".sanac").exists()


def test_the_same_again_is_cached_and_another_replaces_it(artifact: Path) -> None:
    assert not there(job(artifact, two_notes))
    add(job(artifact, two_notes), SILENCE)
    assert there(job(artifact, two_notes))
    assert add(job(artifact, lambda *_: pytest.fail("made again")), SILENCE)[0] == "cached"
    assert add(job(artifact, two_notes, writing=Writing(force=True)), SILENCE)[0] == "ok"

    def others(stage: Stage, _: Talk) -> None:
        for name in NAMES:
            stage.place_bytes(name, b"of another kind")

    assert add(job(artifact, others, how="otherwise"), SILENCE)[0] == "ok"
    assert (artifact / NAMES[0]).read_bytes() == b"of another kind"
    assert not scan(open_model(locate(str(artifact))), SILENCE)
    assert not there(job(artifact, two_notes))


@pytest.mark.parametrize("error", [BadInput("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("before", [False, True])
def test_what_ends_early_leaves_a_whole_artifact(artifact: Path, error: BaseException, *, before: bool) -> None:
    if before:
        add(job(artifact, two_notes, how="earlier"), SILENCE)

    def fails(stage: Stage, _: Talk) -> None:
        stage.place_bytes(NAMES[0], b"half of it")
        raise error

    wanted = Lacking if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        add(job(artifact, fails), SILENCE)
    assert not (artifact / NAMES[0]).exists()
    assert not (artifact / ".sanac").exists()
    assert not scan(open_model(locate(str(artifact))), SILENCE)
    assert add(job(artifact, two_notes), SILENCE)[0] == "ok"


def test_two_at_once(artifact: Path) -> None:
    def meets(_: Stage, __: Talk) -> None:
        with pytest.raises(Lacking, match="written by another run"):
            add(job(artifact, two_notes, how="other"), SILENCE)

    add(job(artifact, meets), SILENCE)


def test_foreign_models_are_never_written_to(tmp_path: Path) -> None:
    found = replace(cut(), finish=Finish(two_notes, 10, 10, NAMES))
    with pytest.raises(Misuse, match="no artifact"):
        add(found, SILENCE)
