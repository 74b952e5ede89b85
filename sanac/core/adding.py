"""What is made of an artifact's files and stands among them: the artifact stays what it is, and is sealed anew."""

from dataclasses import replace

from sanac.core.copying import Written
from sanac.core.errors import Misuse
from sanac.core.execute import Surgery
from sanac.core.manifest import Manifest
from sanac.core.resources import Needs, announce
from sanac.core.stage import open_addition, reseal
from sanac.core.talk import Talk


def standing(job: Surgery) -> Manifest:
    """The manifest of what is added to; Misuse where there is none."""
    located, manifest = job.model.located, job.model.manifest
    if manifest is None:
        raise Misuse(
            f"{located.name} is no artifact of sanac",
            why="models that others made are never written to",
            hint=f"--out DIR instead of --in-place: sanac {job.stage} {located.name} --out DIR",
        )
    return manifest


def there(job: Surgery) -> bool:
    """Whether all that the job makes has been added already."""
    added, names = standing(job).added, job.finish.names if job.finish else ()
    return all(added.get(name) == job.key for name in names)


def add(job: Surgery, talk: Talk) -> tuple[str, Manifest]:
    """Have the job's last step done in the artifact itself: ('ok' or 'cached', its new manifest)."""
    manifest, folder = standing(job), job.model.located.path
    if there(job) and not job.writing.force:
        return "cached", manifest
    assert job.finish
    announce(Needs(disk=job.finish.disk + (1 << 20), memory=job.finish.memory), folder, talk)
    others = _without(manifest, {*job.finish.names})
    with open_addition(folder, job.key, others) as stage:
        if others != manifest:
            reseal(folder, others)  # it never vouches for a file that is being replaced
        job.finish.make(stage, talk)
        made = {name: Written(file.size, file.blake3) for name, file in stage.files.items()}
        files, added = {**others.files, **made}, {**others.added, **dict.fromkeys(made, job.key)}
        manifest = replace(others, files=files, added=added)
        reseal(folder, manifest)
    return "ok", manifest


def _without(manifest: Manifest, names: set[str]) -> Manifest:
    files = {path: file for path, file in manifest.files.items() if path not in names}
    return replace(manifest, files=files, added={p: key for p, key in manifest.added.items() if p not in names})
