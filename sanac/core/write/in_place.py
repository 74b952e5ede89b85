"""What is made of an artifact's files and stands among them: the artifact stays what it is, and is sealed anew."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sanac.core.artifact.manifest import Manifest, read_manifest
from sanac.core.artifact.staging import left_unfinished, open_addition, reseal
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import FileRecord
from sanac.core.progress import Reporter
from sanac.core.resources import Needs, check_room
from sanac.core.write.job import ArtifactJob


def require_artifact(job: ArtifactJob) -> Manifest:
    """The manifest of what is added to; Misuse where nothing can be."""
    located, manifest = job.model.located, job.model.manifest
    hint = f"--out DIR instead of --in-place: sanac {job.stage} {located.name} --out DIR"
    if manifest is None:
        why = "models that others made are never written to"
        raise UsageError(f"{located.name} is no artifact of sanac", why=why, hint=hint)
    if job.model.kind == "file":
        raise UsageError(
            f"{located.name} holds a single file of weights", why="there is no folder to add to", hint=hint
        )
    own = [name for name in _names(job) if name in manifest.files and name not in manifest.added]
    if own:
        why = f"{own[0]} is what it is, and was made together with it"
        raise UsageError(f"{located.name} has its own already", why=why, problems=own, hint=hint)
    return manifest


def is_complete(job: ArtifactJob) -> bool:
    """Whether all that the job makes has been added already."""
    return not _missing(job, require_artifact(job))


def add(job: ArtifactJob, reporter: Reporter) -> tuple[str, Manifest]:
    """Have the job's last step done in the artifact itself: ('ok' or 'cached', its new manifest)."""
    folder, force = job.model.located.path, job.writing.force
    if is_complete(job) and not force:
        return "cached", require_artifact(job)
    assert job.finish
    check_room(Needs(disk=job.finish.disk + (1 << 20), memory=job.finish.memory), folder, reporter)
    _check_free(job, folder)
    with open_addition(folder, job.key, _names(job)) as stage:
        manifest = _unchanged(job, folder)
        wanted = list(_names(job)) if force else _missing(job, manifest)
        others = _without(manifest, wanted)
        if others != manifest:
            reseal(folder, others)  # it never vouches for a file that is being replaced
        stage.files.update({name: others.files[name] for name in _names(job) if name in others.files})
        job.finish.make(stage, reporter)
        made = {name: FileRecord(stage.files[name].size, stage.files[name].blake3) for name in wanted}
        added = {**others.added, **{name: job.finish.names[name] for name in wanted}}
        manifest = replace(others, files={**others.files, **made}, added=added)
        reseal(folder, manifest)
    return "ok", manifest


def _names(job: ArtifactJob) -> Iterable[str]:
    return job.finish.names if job.finish else ()


def _missing(job: ArtifactJob, manifest: Manifest) -> list[str]:
    """Of what the job makes, what isn't there as it would make it. Files of one key are made together."""
    assert job.finish
    folder, lost = job.model.located.path, set()
    for name, key in job.finish.names.items():
        known, path = manifest.files.get(name), folder / name
        stands = known is not None and path.is_file() and path.stat().st_size == known.size
        if not stands or manifest.added.get(name) != key:
            lost.add(key)
    return [name for name, key in job.finish.names.items() if key in lost]


def _check_free(job: ArtifactJob, folder: Path) -> None:
    """What is written is the artifact's own, or nobody's; and in its folder."""
    manifest = require_artifact(job)
    for name in _names(job):
        path = folder / name
        if path.parent.is_symlink() or path.is_symlink():
            raise UsageError(
                f"{path} leads elsewhere", why="it is a link, and nothing outside the artifact is written to"
            )
        if path.exists() and name not in manifest.files and not left_unfinished(folder):
            raise UsageError(f"{path} is in the way", why="it is no file of the artifact", hint="move it away")


def _unchanged(job: ArtifactJob, folder: Path) -> Manifest:
    """The manifest as it is now that nobody else writes: with what others added in the meantime."""
    manifest = read_manifest(folder)
    known = job.model.manifest
    if manifest is None or known is None or (manifest.key, _own(manifest)) != (known.key, _own(known)):
        raise InvalidInput(f"{folder} was changed while it was read", hint="run the same command again")
    return manifest


def _own(manifest: Manifest) -> dict[str, str]:
    return {path: file.blake3 for path, file in manifest.files.items() if path not in manifest.added}


def _without(manifest: Manifest, names: Iterable[str]) -> Manifest:
    gone = set(names)
    files = {path: file for path, file in manifest.files.items() if path not in gone}
    return replace(manifest, files=files, added={p: key for p, key in manifest.added.items() if p not in gone})
