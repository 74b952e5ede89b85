"""JSON files: a strict parser, a canonical form for content keys, a pretty form for people."""

import hashlib
import json
import math
from typing import Any

from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput

MAX_JSON_BYTES = 100_000_000


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _no_constants(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def parse(data: bytes, where: str, *, constants: bool = False) -> Any:
    """The JSON value in `data`. Duplicate keys, NaN, bad UTF-8 and unbounded nesting are InvalidInput.

    With `constants`, NaN and Infinity are None: diffusers writes -Infinity for a bound left at its default.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=(lambda _: None) if constants else _no_constants,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON", why=str(error) or "too deeply nested") from error


def parse_object(data: bytes, where: str, *, constants: bool = False) -> dict[str, Any]:
    """The JSON object in `data`; InvalidInput for any other JSON value."""
    value = parse(data, where, constants=constants)
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} does not hold a JSON object", why=f"it holds a {type(value).__name__}")
    return value


def read_object(path: AnyPath, *, constants: bool = False) -> dict[str, Any]:
    """The JSON object in the file `path`; InvalidInput if it is too large, unreadable or not an object."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise InvalidInput(f"{path} is too large for a JSON file", why=f"it has {size:,} bytes")
        return parse_object(path.read_bytes(), str(path), constants=constants)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error


def canonical(value: Any) -> bytes:
    """Canonical JSON: equal values give equal bytes (sorted keys, no spaces)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pretty(value: Any) -> bytes:
    """Readable JSON: sorted keys, an indent of two spaces, a final newline."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def key_of(value: Any) -> str:
    """The SHA-256 of the canonical form of `value`, used as a content key."""
    return hashlib.sha256(canonical(value)).hexdigest()
