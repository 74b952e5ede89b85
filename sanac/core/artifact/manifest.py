"""The manifest, sanac.json: an artifact's stage, settings, lineage, and the digests of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.plan import BlockPlan, from_json
from sanac.core.confined import AnyPath, ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import FileRecord

MANIFEST = "sanac.json"
SCHEMA = 1
_HEX = set("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One step of a lineage: the original source model, or a stage applied to it."""

    stage: str
    key: str
    name: str = ""  # of the source model; for other stages, how it was done ('100 steps of distill')
    plan: BlockPlan | None = None
    hub: str = ""  # of a source model in a local folder: the hub id that its own configuration names

    @property
    def moved(self) -> str:
        """The block plan as text; '' if no block moved and the name already describes the stage."""
        return str(self.plan) if self.plan and (self.plan.moves or not self.name) else ""

    def to_json(self) -> dict[str, Any]:
        """The entry as stored in the manifest."""
        entry: dict[str, Any] = {"stage": self.stage, "key": self.key}
        if self.name:
            entry["name"] = self.name
        if self.plan:
            entry["plan"] = self.plan.to_json()
        if self.hub:
            entry["hub"] = self.hub
        return entry


@dataclass(frozen=True)
class Manifest:
    """The sealed description of an artifact. No timestamps, no machine paths."""

    stage: str
    key: str
    settings: Mapping[str, Any]
    lineage: tuple[Ancestor, ...]  # oldest first; the last one is this stage
    builder: Mapping[str, str]
    files: Mapping[str, FileRecord]  # by path; `labels` empty here
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # component -> tensor -> digest
    left_out: tuple[str, ...] = ()  # components of the source that were not written
    added: Mapping[str, str] = field(default_factory=dict)  # files added in place -> key of the job

    @property
    def whole_plan(self) -> BlockPlan | None:
        """The composition of the lineage's block plans, relative to the original source; None if there are none."""
        return compose(self.lineage)

    @property
    def origins(self) -> tuple[int | None, ...] | None:
        """Each block's number in the original source model (None for a new block); None if the lineage has no plans."""
        plan = self.whole_plan
        return plan.sources if plan else None

    def to_json(self) -> dict[str, Any]:
        """The content of sanac.json."""
        return {
            "schema": SCHEMA,
            "stage": self.stage,
            "key": self.key,
            "settings": dict(self.settings),
            "lineage": [ancestor.to_json() for ancestor in self.lineage],
            "builder": dict(self.builder),
            "left_out": list(self.left_out),
            **({"added": dict(self.added)} if self.added else {}),
            "files": [
                {"path": path, "blake3": file.blake3, "size": file.size} for path, file in sorted(self.files.items())
            ],
            "tensors": {part: dict(digests) for part, digests in self.tensors.items()},
        }


def compose(lineage: Sequence[Ancestor]) -> BlockPlan | None:
    """The block plans of a lineage composed into one; None if there are none."""
    plan: BlockPlan | None = None
    for ancestor in lineage:
        if ancestor.plan:
            plan = plan.then(ancestor.plan) if plan else ancestor.plan
    return plan


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`; None if there is none. Only its form is checked, not the files it lists."""
    path = ConfinedPath(folder) / MANIFEST
    if path.path.is_symlink() or not path.is_file():  # a link: in a snapshot of the hub's cache, which is a plain model
        return None
    value = json_files.read_object(path)
    if value.get("schema") != SCHEMA:
        raise InvalidInput(
            f"{path} has schema {value.get('schema')!r}, this version reads {SCHEMA}",
            hint="use the version of sanac that wrote it, or delete sanac.json to treat the folder as a plain model",
        )
    try:
        manifest = Manifest(
            stage=_text(value["stage"]),
            key=_digest(value["key"]),
            settings=_mapping(value["settings"]),
            lineage=tuple(_ancestor(entry, path) for entry in value["lineage"]),
            builder=_mapping(value["builder"]),
            files={_relative(entry["path"]): _written(entry) for entry in value["files"]},
            tensors={part: {k: _digest(v) for k, v in names.items()} for part, names in value["tensors"].items()},
            left_out=tuple(_text(name) for name in value["left_out"]),
            added={_relative(path): _digest(key) for path, key in value.get("added", {}).items()},
        )
        if not manifest.lineage:
            raise ValueError("its lineage is empty")
        compose(manifest.lineage)
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise InvalidInput(f"{path} is broken", why=str(error), hint="rerun the stage that made it") from error
    return manifest


def check_sealed(folder: Path, manifest: Manifest) -> list[str]:
    """Problems of an artifact's files that show without reading them: missing files, other sizes. A link is refused."""
    problems = []
    for name, file in manifest.files.items():
        path = ConfinedPath(folder) / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != file.size:
            problems.append(f"{name} has {path.stat().st_size:,} bytes, sealed with {file.size:,}")
    return problems


def changed_after_sealing(what: Path, problems: Sequence[str]) -> InvalidInput:
    """The error for an artifact whose files no longer match its manifest."""
    return InvalidInput(
        f"{what} was changed after it was sealed",
        why=problems[0],
        problems=problems,
        hint="rerun the stage that made it, or delete its sanac.json to treat it as a plain model",
    )


def _ancestor(entry: Any, path: AnyPath) -> Ancestor:
    plan = from_json(entry["plan"], str(path)) if "plan" in entry else None
    name, hub = (_text(entry.get(field, "")) for field in ("name", "hub"))
    return Ancestor(_text(entry["stage"]), _digest(entry["key"]), name, plan, hub)


def _written(entry: Any) -> FileRecord:
    if type(entry["size"]) is not int or entry["size"] < 0:
        raise ValueError(f"size {entry['size']!r} is not a size")
    return FileRecord(entry["size"], _digest(entry["blake3"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not an object")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or not set(value) <= _HEX:
        raise ValueError(f"{value!r} is not a digest")
    return value


def _relative(value: Any) -> str:
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{value!r} points outside the folder")
    return str(path)
