"""Reads a workspace: what each file and folder in it is, from names and manifests; no weights are read."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sanac.core.artifact.manifest import MANIFEST, Ancestor, Manifest, read_manifest
from sanac.core.artifact.plan import Keep
from sanac.core.artifact.staging import left_unfinished
from sanac.core.artifact.workspace import RUN_LOCK, Workspace, read_workspace
from sanac.core.atomic import PARTIAL
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError

Kind = Literal["artifact", "unfinished", "cache", "result", "unknown"]

_CACHES = {
    "reinforcing": "judged samples and training state of reinforce",
    "data": "encoded training data",
    "painted": "generated training data",
    "teacher": "a teacher's outputs",
    "fit": "calibration of quantize",
    "sensitivity": "sensitivity of weights",
    "search": "block search",
    "repair": "repair of the gaps",
}
_RESULTS = {
    "analyze": "block scores",
    "compare": "pictures side by side",
    "evaluate": "evaluation",
    "verify": "parity check",
    "bench": "timing",
    "gate": "verdict",
    "generate": "pictures",
    "reinforce": "token generator",
}
_RECORDS = {"run": "records of recipes", "runs": "training logs", "measurements": "measurements of a recipe"}
_OWN = {"workspace.json", "workspace.lock", RUN_LOCK}  # files of the workspace itself, not listed
_NAME = re.compile(r"([a-z]+)-[0-9a-f]{8}")
_REPLACED = ".replaced"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of a workspace."""

    name: str
    kind: Kind
    verb: str = ""  # that made it, of an artifact or a result
    description: str = ""
    made_from: str = ""
    size: int = 0  # bytes
    modified: float = 0.0  # seconds since 1970: of an artifact's manifest, else of the newest file
    role: str = ""  # HEAD, ancestor of HEAD, source
    key: str = ""  # content key of an artifact

    def to_json(self) -> dict[str, Any]:
        """The entry as printed by `--json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Contents:
    """All entries of a workspace, oldest first."""

    workspace: Workspace
    entries: tuple[Entry, ...]
    head: Manifest | None  # HEAD's manifest; None if there is no HEAD, or if it can't be read

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.entries)


def read_contents(folder: Path) -> Contents:
    """What the workspace in `folder` holds."""
    if not folder.is_dir():
        raise UsageError(
            f"there is no workspace {folder}",
            why="it is not a folder" if os.path.lexists(folder) else "nothing was made there yet",
            hint="--workspace DIR names another one",
        )
    workspace = read_workspace(folder)
    manifests = dict(_manifests(folder))
    entries = [_entry(folder, path, manifests) for path in sorted(folder.iterdir()) if path.name not in _OWN]
    head = _head(workspace)
    found = (replace(entry, role=_role(entry, workspace, head)) for entry in entries)
    return Contents(workspace, tuple(sorted(found, key=lambda entry: entry.modified)), head)


def _manifests(folder: Path) -> Iterator[tuple[str, Manifest | str]]:
    """(name, manifest) of each artifact; a damaged one's is the complaint."""
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir() or path.name.endswith((PARTIAL, _REPLACED)):
            continue
        try:
            if manifest := read_manifest(path):
                yield path.name, manifest
        except InvalidInput as error:
            yield path.name, error.why or error.message


def _head(workspace: Workspace) -> Manifest | None:
    try:
        return read_manifest(workspace.folder / workspace.head) if workspace.head else None
    except InvalidInput:
        return None


def _entry(folder: Path, path: Path, manifests: Mapping[str, Manifest | str]) -> Entry:
    name = path.name
    if path.is_symlink():
        return Entry(name, "unknown", description="a link, not followed", modified=path.lstat().st_mtime)
    if path.is_dir() and os.path.ismount(path):
        return Entry(name, "unknown", description="another disk", modified=path.lstat().st_mtime)
    size, modified = _size(path)
    manifest = manifests.get(name)
    if isinstance(manifest, Manifest):
        described = _description(manifest)
        modified = (path / MANIFEST).lstat().st_mtime
        from_ = _made_from(manifest.lineage, manifests)
        return Entry(name, "artifact", manifest.stage, described, from_, size, modified, key=manifest.key)
    if manifest is not None:
        return Entry(name, "unknown", description=f"damaged: {manifest}", size=size, modified=modified)
    kind, verb, description = _kind(folder, path)
    return Entry(name, kind, verb, description, size=size, modified=modified)


def _kind(folder: Path, path: Path) -> tuple[Kind, str, str]:
    """(kind, verb, description) of what is not an artifact, by its name."""
    name = path.name
    if not path.is_dir():
        return "unknown", "", "a file of yours"
    if name.endswith(PARTIAL) and left_unfinished(path):
        made_by = _NAME.fullmatch(name.removesuffix(PARTIAL))
        return "unfinished", made_by[1] if made_by else "", "an interrupted run"
    if name.endswith(_REPLACED) and (folder / name.removesuffix(_REPLACED)).is_dir():
        return "unfinished", "", "what an interrupted --force replaced"
    match = _NAME.fullmatch(name)
    word = match[1] if match else ""
    if word == "training":
        return "unfinished", "finetune", "training state of an interrupted run"
    if word in _CACHES:
        return "cache", "", _CACHES[word]
    if name in _RECORDS:
        return "result", "", _RECORDS[name]
    verb = name.split("-")[0]
    if verb in _RESULTS and (match or verb == "evaluate"):
        return "result", verb, _RESULTS[verb]
    return "unknown", "", "a folder of yours"


def _description(manifest: Manifest) -> str:
    """Text such as 'keep 8 of 12 blocks' or '100 steps of distill'."""
    last, parts = manifest.lineage[-1], list[str]()
    if last.plan and last.plan.moves:
        kept = {origin.block for origin in last.plan.blocks if isinstance(origin, Keep)}
        before, now = last.plan.source_blocks, len(last.plan.blocks)
        parts.append(f"keep {now} of {before} blocks" if len(kept) == now else f"{before} -> {now} blocks")
    if last.name:
        parts.append(last.name)
    if manifest.stage == "convert":
        parts.append(f"to {manifest.settings.get('layout')}")
    if manifest.settings.get("loras"):
        parts.append("with LoRA")
    endings = {Path(name).suffix for name in (manifest.added or ())}
    parts += [what for ending, what in ((".onnx", "ONNX added"), (".engine", "TensorRT added")) if ending in endings]
    if manifest.settings.get("transformer_only"):
        parts.append("transformer only")
    return ", ".join(parts)


def _made_from(lineage: tuple[Ancestor, ...], manifests: Mapping[str, Manifest | str]) -> str:
    """The name of the model that an artifact was made from: of an artifact in this workspace, or of the source."""
    if len(lineage) < 2:
        return ""
    before = lineage[-2]
    known = {one.key: name for name, one in manifests.items() if isinstance(one, Manifest)}
    return known.get(before.key) or (before.name if before.stage == "source" else f"{before.stage}-{before.key[:8]}")


def _role(entry: Entry, workspace: Workspace, head: Manifest | None) -> str:
    place = os.path.realpath(workspace.folder / entry.name)
    if workspace.head and os.path.realpath(workspace.folder / workspace.head) == place:
        return "HEAD"
    if workspace.source and os.path.realpath(workspace.source) == place:
        return "source"
    if entry.key and head and entry.key in {step.key for step in head.lineage}:
        return "ancestor of HEAD"
    return ""


def _size(path: Path) -> tuple[int, float]:
    """(bytes, newest time of change) of a file, or of all files below a folder; no link is followed."""
    own = path.lstat()
    size, newest = (0 if stat.S_ISDIR(own.st_mode) else own.st_size), own.st_mtime
    for folder, _, names in os.walk(path) if path.is_dir() else ():
        for name in names:
            found = (Path(folder) / name).lstat()
            size, newest = size + found.st_size, max(newest, found.st_mtime)
    return size, newest


def confined(contents: Contents, entry: Entry) -> ConfinedPath:
    """The path of an entry, through which it may be deleted."""
    return ConfinedPath(contents.workspace.folder) / entry.name
