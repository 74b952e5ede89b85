"""Cached intermediate results in the workspace, each stored with its content key so that a rerun can reuse it.

An unreadable entry is a cache miss.
"""

from collections.abc import Mapping
from typing import Any

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput


def load_cached(file: ConfinedPath, key: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """The cached JSON in `file`; None on a cache miss: no file, another key, or a field missing or of another type."""
    try:
        if not file.is_file():
            return None
        found = json_files.read_object(file)
    except InvalidInput:
        return None
    sound = all(isinstance(found.get(name), kind) for name, kind in fields.items())
    return dict(found) if sound and found.get("key") == key else None


def store_cached(file: ConfinedPath, found: Mapping[str, Any]) -> None:
    """Write `found` to `file` atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json_files.pretty(dict(found)))
