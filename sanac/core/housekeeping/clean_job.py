"""`sanac clean`: deletes from a workspace what can be made again and what HEAD doesn't descend from."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from sanac.core.artifact.manifest import read_manifest
from sanac.core.artifact.staging import foreign_files, is_being_written
from sanac.core.artifact.workspace import lock_workspace
from sanac.core.context import Context, Outcome
from sanac.core.errors import UsageError
from sanac.core.housekeeping.contents import Contents, Entry, confined, read_contents
from sanac.core.housekeeping.ls_job import entry_table
from sanac.core.housekeeping.settings import CleanSettings
from sanac.core.units import bytes_text
from sanac.core.view import Block

_KINDS = {"partial": "unfinished", "caches": "cache", "artifacts": "artifact"}


@dataclass(frozen=True, slots=True)
class CleaningPlan:
    """What would be deleted, and why other entries of the chosen kinds stay."""

    contents: Contents
    options: tuple[str, ...]  # the chosen options' names
    doomed: tuple[Entry, ...]
    kept: Mapping[str, str]  # name -> why it stays

    @property
    def size(self) -> int:
        """Bytes of what would be deleted."""
        return sum(entry.size for entry in self.doomed)

    @property
    def unknown(self) -> int:
        """Number of entries that sanac doesn't know; they always stay."""
        return sum(entry.kind == "unknown" for entry in self.contents.entries)


def run(settings: CleanSettings, context: Context) -> Outcome:  # noqa: ARG001 (as every verb is called)
    """List what would be deleted; with --yes, delete it."""
    chosen = tuple(name for name in _KINDS if getattr(settings, name))
    if settings.yes and not chosen:
        raise UsageError(
            "--yes doesn't say what to delete",
            hint="sanac clean --partial --caches --yes; --artifacts for artifacts that didn't lead to HEAD",
        )
    with ExitStack() as stack:
        if settings.yes:
            read_contents(settings.workspace)  # that it is a folder, before a lock file is made in it
            _check_workspace(settings)
            stack.enter_context(lock_workspace(settings.workspace))
        plan = _plan(read_contents(settings.workspace), chosen or tuple(_KINDS), settings.min_age)
        if settings.yes:
            for entry in plan.doomed:
                confined(plan.contents, entry).rmtree()
    deleted = [entry.to_json() for entry in plan.doomed]
    data = {"deleted" if settings.yes else "would_delete": deleted, "bytes": plan.size, "kept": dict(plan.kept)}
    data |= {"unknown": plan.unknown, "dry_run": not settings.yes}
    return Outcome("ok", data, view=plan, show=partial(_show, plan, settings))


def _check_workspace(settings: CleanSettings) -> None:
    """UsageError for a folder that was never a workspace: nothing is deleted there."""
    if not (settings.workspace / "workspace.json").is_file():
        raise UsageError(
            f"{settings.workspace} is not a workspace",
            why="it has no workspace.json",
            hint="--workspace DIR; or delete by hand what an interrupted first command left",
        )


def _plan(contents: Contents, options: tuple[str, ...], min_age: int) -> CleaningPlan:
    kinds = {_KINDS[name] for name in options}
    chosen = [entry for entry in contents.entries if entry.kind in kinds]
    kept = {entry.name: why for entry in chosen if (why := _stays(contents, entry, min_age))}
    return CleaningPlan(contents, options, tuple(entry for entry in chosen if entry.name not in kept), kept)


def _stays(contents: Contents, entry: Entry, min_age: int) -> str:
    """Why an entry isn't deleted; '' if it is."""
    if entry.role:
        return entry.role
    folder = contents.workspace.folder / entry.name
    if is_being_written(folder):
        return "in use by another process"
    if entry.kind != "artifact":
        young = time.time() - entry.modified < 60 * min_age
        return f"written to in the last {min_age} minutes: --min-age" if young else ""
    if contents.head is None:
        return "HEAD is not known, so that every artifact may be needed"
    manifest = read_manifest(folder)
    strangers = foreign_files(folder, manifest) if manifest else []
    return f"holds a file that is not the artifact's: {strangers[0]}" if strangers else ""


def _show(plan: CleaningPlan, settings: CleanSettings) -> Iterator[Block]:
    if plan.doomed:
        yield entry_table(plan.doomed)
    for name, why in plan.kept.items():
        yield f"stays: {name} ({why})"
    if plan.unknown:
        yield f"stays: {plan.unknown} that sanac doesn't know"
    if settings.yes:
        yield f"deleted {len(plan.doomed)}, {bytes_text(plan.size)}"
    elif plan.doomed:
        yield f"would delete {len(plan.doomed)}, {bytes_text(plan.size)}; to delete them: {_command(plan, settings)}"
    else:
        yield "nothing to delete"


def _command(plan: CleaningPlan, settings: CleanSettings) -> str:
    """The command that deletes what is listed."""
    kinds = {entry.kind for entry in plan.doomed}
    words = [f"--{name}" for name in plan.options if _KINDS[name] in kinds]
    words += [f"--min-age {settings.min_age}"] if "min_age" in settings.typed else []
    words += [f"--workspace {settings.workspace}"] if "workspace" in settings.typed else []
    return " ".join(("sanac clean", *words, "--yes"))
