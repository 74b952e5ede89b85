"""Files that are added to an artifact: it stays what it is, and never vouches for what is half there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sanac.core.artifact.integrity import scan
from sanac.core.artifact.manifest import read_manifest
from sanac.core.artifact.model import open_model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import LinkRefused
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.write.executor import write_partial
from sanac.core.write.in_place import add, is_complete
from sanac.core.write.job import ArtifactJob, PostProcess, WriteOptions, plan_artifact

NAMES = ("transformer/notes.onnx", "beside/notes.txt")


def cut() -> ArtifactJob:
    return plan_artifact("prune", open_model(locate("sanac:tiny")), keep_blocks(12, range(4)), {}, WriteOptions())


def job(
    folder: Path, make: Callable[[StagingArea, Reporter], None], *, writing: WriteOptions | None = None, how: str = ""
) -> ArtifactJob:
    model = open_model(locate(str(folder)))
    found = plan_artifact("export", model, keep_blocks(4, range(4)), {"how": how}, writing or WriteOptions())
    return replace(found, post_process=PostProcess(make, disk=10, memory=10, names=dict.fromkeys(NAMES, found.key)))


def two_notes(stage: StagingArea, _: Reporter) -> None:
    for name in NAMES:
        stage.place_bytes(name, name.encode())


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_partial(cut(), tmp_path / "artifact", NULL_REPORTER)
    return tmp_path / "artifact"


def test_it_stays_the_artifact_that_it_is(artifact: Path) -> None:
    before = {path: path.stat().st_ino for path in artifact.rglob("*.safetensors")}
    key, identity = read_manifest(artifact).key, open_model(locate(str(artifact))).identity()
    status, manifest = add(job(artifact, two_notes), NULL_REPORTER)
    assert status == "ok"
    assert manifest == read_manifest(artifact)
    assert set(NAMES) == manifest.added.keys()
    assert manifest.added.keys() <= manifest.files.keys()
    model = open_model(locate(str(artifact)))
    assert (manifest.key, model.identity()) == (key, identity)
    assert write_partial(cut(), artifact, NULL_REPORTER)[0] == "cached"
    assert not scan(model, NULL_REPORTER)
    assert before == {path: path.stat().st_ino for path in artifact.rglob("*.safetensors")}
    assert not (artifact / ".sanac").exists()


def test_the_same_again_is_cached_and_another_replaces_it(artifact: Path) -> None:
    assert not is_complete(job(artifact, two_notes))
    add(job(artifact, two_notes), NULL_REPORTER)
    assert is_complete(job(artifact, two_notes))
    assert add(job(artifact, lambda *_: pytest.fail("made again")), NULL_REPORTER)[0] == "cached"
    assert add(job(artifact, two_notes, writing=WriteOptions(force=True)), NULL_REPORTER)[0] == "ok"

    def others(stage: StagingArea, _: Reporter) -> None:
        for name in NAMES:
            stage.place_bytes(name, b"of another kind")

    assert add(job(artifact, others, how="otherwise"), NULL_REPORTER)[0] == "ok"
    assert (artifact / NAMES[0]).read_bytes() == b"of another kind"
    assert not scan(open_model(locate(str(artifact))), NULL_REPORTER)
    assert not is_complete(job(artifact, two_notes))


@pytest.mark.parametrize("error", [InvalidInput("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("before", [False, True])
def test_what_ends_early_leaves_a_whole_artifact(artifact: Path, error: BaseException, *, before: bool) -> None:
    if before:
        add(job(artifact, two_notes, how="earlier"), NULL_REPORTER)

    def fails(stage: StagingArea, _: Reporter) -> None:
        stage.place_bytes(NAMES[0], b"half of it")
        (artifact / "beside").mkdir(exist_ok=True)
        (artifact / f"{NAMES[1]}.unfinished").write_bytes(b"still less")
        raise error

    wanted = MissingResource if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted):
        add(job(artifact, fails), NULL_REPORTER)
    assert not (artifact / NAMES[0]).exists()
    assert not (artifact / "beside").exists()
    assert not (artifact / ".sanac").exists()
    assert not scan(open_model(locate(str(artifact))), NULL_REPORTER)
    assert add(job(artifact, two_notes), NULL_REPORTER)[0] == "ok"


def test_two_at_once(artifact: Path) -> None:
    def meets(stage: StagingArea, reporter: Reporter) -> None:
        two_notes(stage, reporter)
        with pytest.raises(MissingResource, match="written by another run"):
            add(job(artifact, two_notes, how="other"), NULL_REPORTER)

    add(job(artifact, meets), NULL_REPORTER)


def test_what_another_run_added_in_the_meantime_stays(artifact: Path) -> None:
    late = job(artifact, two_notes)
    other = replace(job(artifact, lambda stage, _: stage.place_bytes("else.txt", b"x")), key="b" * 64)
    add(replace(other, post_process=replace(other.post_process, names={"else.txt": "b" * 64})), NULL_REPORTER)
    _, manifest = add(late, NULL_REPORTER)
    assert {"else.txt", *NAMES} == manifest.added.keys()
    assert not scan(open_model(locate(str(artifact))), NULL_REPORTER)


def test_another_artifact_in_its_place_is_refused(artifact: Path) -> None:
    late = job(artifact, two_notes)
    other = plan_artifact(
        "prune", open_model(locate("sanac:tiny")), keep_blocks(12, range(1, 5)), {}, WriteOptions(force=True)
    )
    write_partial(other, artifact, NULL_REPORTER)
    with pytest.raises(InvalidInput, match="changed while it was read"):
        add(late, NULL_REPORTER)


def test_one_killed_leaves_nothing_in_the_way(artifact: Path) -> None:
    (artifact / ".sanac").mkdir()
    (artifact / NAMES[0]).write_bytes(b"of a run that was killed")
    (artifact / f"{NAMES[0]}.unfinished").write_bytes(b"the same")
    add(job(artifact, two_notes), NULL_REPORTER)
    assert (artifact / NAMES[0]).read_bytes() == NAMES[0].encode()
    assert not list(artifact.rglob("*.unfinished"))


def test_what_is_not_the_artifact_s_is_not_written_over(artifact: Path, tmp_path: Path) -> None:
    (artifact / NAMES[0]).write_bytes(b"mine")
    with pytest.raises(UsageError, match="already exists"):
        add(job(artifact, two_notes), NULL_REPORTER)
    assert (artifact / NAMES[0]).read_bytes() == b"mine"
    (artifact / NAMES[0]).unlink()
    (tmp_path / "outside").mkdir()
    (artifact / "beside").symlink_to(tmp_path / "outside")
    with pytest.raises(LinkRefused, match="is a link"):
        add(job(artifact, two_notes), NULL_REPORTER)
    assert not list((tmp_path / "outside").iterdir())


def test_what_it_was_made_with_stays(artifact: Path) -> None:
    names = {"model_index.json": "b" * 64}
    with pytest.raises(UsageError, match="already contains"):
        add(replace(job(artifact, two_notes), post_process=PostProcess(two_notes, 10, 10, names)), NULL_REPORTER)


def test_an_added_file_that_got_lost_is_made_again(artifact: Path) -> None:
    add(job(artifact, two_notes), NULL_REPORTER)
    (artifact / NAMES[1]).unlink()
    assert [found.name for found in scan(open_model(locate(str(artifact))), NULL_REPORTER)] == [NAMES[1]]
    assert not is_complete(job(artifact, two_notes))
    assert add(job(artifact, two_notes), NULL_REPORTER)[0] == "ok"
    assert not scan(open_model(locate(str(artifact))), NULL_REPORTER)


def test_foreign_models_are_never_written_to(tmp_path: Path) -> None:
    found = replace(cut(), post_process=PostProcess(two_notes, 10, 10, dict.fromkeys(NAMES, "k")))
    with pytest.raises(UsageError, match="not an artifact"):
        add(found, NULL_REPORTER)
