"""In-place additions: graphs and engines derived from an artifact are written into it and the manifest is resealed."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sanac.core.artifact.manifest import Manifest, read_manifest
from sanac.core.artifact.staging import left_unfinished, open_addition, reseal
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import FileRecord
from sanac.core.progress import Reporter
from sanac.core.resources import Needs, check_room
from sanac.core.write.job import ArtifactJob


def require_artifact(job: ArtifactJob) -> Manifest:
    """The manifest of the artifact that the job adds files to; UsageError if nothing can be added to it."""
    located, manifest = job.model.located, job.model.manifest
    hint = f"--out DIR instead of --in-place: sanac {job.stage} {located.name} --out DIR"
    if manifest is None:
        why = "sanac never writes into models of other origin"
        raise UsageError(f"{located.name} is not an artifact of sanac", why=why, hint=hint)
    if job.model.kind == "file":
        raise UsageError(
            f"{located.name} holds a single file of weights", why="there is no folder to add to", hint=hint
        )
    own = [name for name in _names(job) if name in manifest.files and name not in manifest.added]
    if own:
        why = f"{own[0]} was written together with the artifact and is part of its content"
        raise UsageError(f"{located.name} already contains these files", why=why, problems=own, hint=hint)
    return manifest


def is_complete(job: ArtifactJob) -> bool:
    """Whether all files of the job have already been added."""
    return not _missing(job, require_artifact(job))


def add(job: ArtifactJob, reporter: Reporter) -> tuple[str, Manifest]:
    """Run the job's post-processing inside the artifact and reseal it: ('ok' or 'cached', the new manifest)."""
    folder, force = job.model.located.path, job.options.force
    if is_complete(job) and not force:
        return "cached", require_artifact(job)
    assert job.post_process
    check_room(Needs(disk=job.post_process.disk + (1 << 20), memory=job.post_process.memory), folder, reporter)
    _check_free(job, folder)
    with open_addition(folder, job.key, _names(job)) as staging:
        manifest = _unchanged(job, folder)
        wanted = list(_names(job)) if force else _missing(job, manifest)
        others = _without(manifest, wanted)
        if others != manifest:
            reseal(folder, others)  # the manifest must not list a file that is being replaced
        staging.files.update({name: others.files[name] for name in _names(job) if name in others.files})
        job.post_process.make(staging, reporter)
        made = {name: FileRecord(staging.files[name].size, staging.files[name].blake3) for name in wanted}
        added = {**others.added, **{name: job.post_process.names[name] for name in wanted}}
        manifest = replace(others, files={**others.files, **made}, added=added)
        reseal(folder, manifest)
    return "ok", manifest


def _names(job: ArtifactJob) -> Iterable[str]:
    return job.post_process.names if job.post_process else ()


def _missing(job: ArtifactJob, manifest: Manifest) -> list[str]:
    """The job's missing or outdated files. Files of one key are made together: if one is missing, all are listed."""
    assert job.post_process
    folder, lost = job.model.located.path, set()
    for name, key in job.post_process.names.items():
        known, path = manifest.files.get(name), ConfinedPath(folder) / name
        stands = known is not None and path.is_file() and path.stat().st_size == known.size
        if not stands or manifest.added.get(name) != key:
            lost.add(key)
    return [name for name, key in job.post_process.names.items() if key in lost]


def _check_free(job: ArtifactJob, folder: Path) -> None:
    """UsageError if a file to write is a link or exists without belonging to the artifact."""
    manifest = require_artifact(job)
    for name in _names(job):
        path = ConfinedPath(folder) / name
        if path.exists() and name not in manifest.files and not left_unfinished(folder):
            raise UsageError(f"{path} already exists", why="it is not a file of the artifact", hint="move it away")


def _unchanged(job: ArtifactJob, folder: Path) -> Manifest:
    """The current manifest, read under the lock: it includes what other runs added since the model was opened."""
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
