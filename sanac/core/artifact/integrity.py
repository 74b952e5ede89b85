"""Full scan of a model: NaN and Inf in the weights, and file digests against the manifest."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sanac.core.artifact.model import OTHER_WEIGHTS
from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.file_copy import FileRecord, digest_file
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.safetensors_header import TensorRef

_CHUNK = 8 << 20
# As integers, the sign bit removed: a value is NaN or Inf when it is at or above this.
_FIRST_BAD: dict[str, tuple[Any, int, int]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F8_E4M3": (np.uint8, 0x7F, 0x7F),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that the scan found, and where."""

    component: str
    name: str
    what: str


def unread(model: AnyModel) -> tuple[str, ...]:
    """Weight files in formats that the scan can't read."""
    return tuple(
        f"{part.name}/{path.name}"
        for part in model.components
        for path in part.files
        if path.suffix in OTHER_WEIGHTS and (part.weights is None or path not in part.weights.files)
    )


def scan(model: AnyModel, reporter: Reporter) -> tuple[Finding, ...]:
    """All findings in all components, in constant memory."""
    refs = [(part.name, ref) for part in model.components if part.weights for ref in part.weights.stored]
    sealed = model.manifest.files if model.manifest else {}
    reporter.begin("scanning", sum(ref.size for _, ref in refs) + sum(file.size for file in sealed.values()))
    try:
        findings = [
            Finding(part, ref.name, f"{bad:,} of {ref.count:,} values are NaN or Inf")
            for part, ref in refs
            if (bad := _count_bad(ref, reporter))
        ]
        findings += [
            Finding(part.name, parts.zero_point.name, "its zero points are not zero")
            for part in model.components
            for parts in (part.weights.parts.values() if part.weights else ())
            if parts.zero_point and any(any(chunk) for chunk in _chunks(parts.zero_point, NULL_REPORTER))
        ]
        findings += [
            Finding("artifact", name, "its digest differs from the sealed one")
            for name, file in sealed.items()
            if not _as_sealed(ConfinedPath(model.located.path) / name, file, reporter)
        ]
    finally:
        reporter.end()
    return tuple(findings)


def _as_sealed(path: ConfinedPath, file: FileRecord, reporter: Reporter) -> bool:
    """Whether the file exists and has its sealed digest (a file added in place may have been deleted)."""
    return path.is_file() and digest_file(path, reporter=reporter) == file.blake3


def _count_bad(ref: TensorRef, reporter: Reporter) -> int:
    if ref.dtype not in _FIRST_BAD:
        reporter.advance(ref.size)
        return 0
    kind, mask, first_bad = _FIRST_BAD[ref.dtype]
    return sum(
        int(np.count_nonzero((np.frombuffer(chunk, dtype=kind) & kind(mask)) >= kind(first_bad)))
        for chunk in _chunks(ref, reporter)
    )


def _chunks(ref: TensorRef, reporter: Reporter) -> Iterator[bytes]:
    with ref.path.open("rb", buffering=0) as file:
        for done in range(0, ref.size, _CHUNK):
            data = os.pread(file.fileno(), min(_CHUNK, ref.size - done), ref.start + done)
            reporter.advance(len(data))
            yield data
