"""The workspace: records the source model and the newest artifact in workspace.json, under a lock."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.manifest import read_manifest
from sanac.core.atomic import write_atomically
from sanac.core.checkpoint.locate import DEFAULT_MODEL
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError

SCHEMA = 1
RUN_LOCK = "run.lock"  # held by `sanac run`
_PATIENCE = 30.0  # seconds; the lock is held for milliseconds


@dataclass(frozen=True, slots=True)
class Workspace:
    """The content of `workspace.json`: MODEL words for the source and for the newest artifact; '' if not recorded."""

    folder: Path
    source: str = ""
    head: str = ""


def read_workspace(folder: Path) -> Workspace:
    """The workspace in `folder`; an empty one if nothing was recorded yet."""
    path = ConfinedPath(folder) / "workspace.json"
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(
            f"{folder} can't be the workspace", why="it is not a folder", hint="choose another --workspace"
        )
    if not path.exists():
        return Workspace(folder)
    value = json_files.read_object(path)
    source, head = value.get("source", ""), value.get("head", "")
    if value.get("schema") != SCHEMA or not isinstance(source, str) or not isinstance(head, str):
        raise InvalidInput(
            f"{path} is broken", why="it is not a workspace file of this version of sanac", hint=f"delete {path}"
        )
    return Workspace(folder, source, head)


def record(folder: Path, word: str, head: Path | None = None) -> Workspace:
    """Record `head` as the newest artifact, and MODEL (`word`) as the source unless it is itself an artifact of one."""
    inside = ConfinedPath(folder)
    inside.mkdir(parents=True, exist_ok=True)
    with _locked(inside / "workspace.lock"):
        current = read_workspace(folder)
        place = _seen_from(folder, head) if head else current.head
        updated = replace(current, source=_source(current, word), head=place)
        value: dict[str, Any] = {"schema": SCHEMA, "source": updated.source, "head": updated.head}
        write_atomically(inside / "workspace.json", json_files.pretty(value))
    return updated


def _source(workspace: Workspace, word: str) -> str:
    """The MODEL word to record as source: an artifact doesn't replace a recorded source."""
    local = Path(word).expanduser()
    if workspace.source and local.is_dir() and read_manifest(local) is not None:
        return workspace.source
    return str(local.absolute()) if local.exists() else word


def _seen_from(folder: Path, place: Path) -> str:
    real, home = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    return str(real.relative_to(home) if real.is_relative_to(home) else real)


@contextmanager
def lock_workspace(folder: Path) -> Iterator[None]:
    """Hold the workspace: no HEAD is recorded and no recipe runs meanwhile. MissingResource if one is running."""
    inside = ConfinedPath(folder)
    with _locked(inside / "workspace.lock"), (inside / RUN_LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MissingResource(
                f"a recipe is running in {folder}", why=f"its process holds {RUN_LOCK}", hint="wait until it ends"
            ) from error
        yield


@contextmanager
def _locked(path: ConfinedPath) -> Iterator[None]:
    with path.open("a") as file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise MissingResource(
                        f"the workspace {path.parent} is locked", why=f"another process holds {path}"
                    ) from error
                time.sleep(0.02)
        yield


def starting_model(workspace: Workspace) -> tuple[str, str]:
    """(MODEL, how it was chosen) for a verb that starts from the source when no MODEL was passed."""
    if workspace.source:
        return workspace.source, f"the source recorded in {workspace.folder}"
    if chosen := os.environ.get("SANAC_MODEL"):
        return chosen, "the model in $SANAC_MODEL"
    return DEFAULT_MODEL, f"the default, as {workspace.folder} records no source and $SANAC_MODEL is not set"


def newest_artifact(workspace: Workspace) -> str:
    """MODEL for a verb that continues from the newest artifact when no MODEL was passed."""
    if not workspace.head:
        raise UsageError(
            f"{workspace.folder} holds no artifact yet",
            why="no MODEL was passed, and no stage has written an artifact there",
            hint="pass a MODEL, or make an artifact: sanac prune MODEL --target-blocks N",
        )
    return str(workspace.folder / workspace.head)  # an absolute head stays absolute
