"""Recognises a model that another tool re-saved, by comparing its tensor digests with the workspace's artifacts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sanac.core.artifact.manifest import Manifest, read_manifest
from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter


@dataclass(frozen=True, slots=True)
class Ancestry:
    """The artifact that shares most tensors with a model, and how many tensors differ."""

    name: str
    manifest: Manifest
    changed: int
    total: int

    def __str__(self) -> str:
        """'descends from prune-1a2b3c4d, 312 of 1,396 tensors changed'."""
        what = f"{self.changed:,} of {self.total:,} tensors changed" if self.changed else "no tensor changed"
        return f"descends from {self.name}, {what}"


def find_ancestry(model: Model, workspace: Path, reporter: Reporter) -> Ancestry | None:
    """The workspace's artifact that shares most tensors with `model`; None if none shares any.

    The model's tensors are only read if the workspace has artifacts.
    """
    candidates = list(_artifacts(workspace))
    if not candidates:
        return None
    tensors = model.weights.tensors
    reporter.begin("recognising", model.weights.size)
    try:
        digests = {name: digest_file(ref.path, ref.start, ref.size, reporter=reporter) for name, ref in tensors.items()}
    finally:
        reporter.end()
    best = max((_compare(name, manifest, digests) for name, manifest in candidates), key=lambda found: -found.changed)
    return best if best.changed < best.total else None


def _artifacts(workspace: Path) -> Iterator[tuple[str, Manifest]]:
    for folder in sorted(workspace.iterdir()) if workspace.is_dir() else ():
        try:
            manifest = read_manifest(folder) if folder.is_dir() else None
        except InvalidInput:  # damaged, or written by another version: skipped
            continue
        if manifest and "transformer" in manifest.tensors:
            yield folder.name, manifest


def _compare(name: str, manifest: Manifest, digests: Mapping[str, str]) -> Ancestry:
    known = manifest.tensors["transformer"]
    changed = sum(known.get(tensor) != digest for tensor, digest in digests.items())
    return Ancestry(name, manifest, changed, len(digests))
