"""What is computed on the way to an artifact and kept in the workspace under its content key, so that a rerun reads it.

What can't be read there is not there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.errors import InvalidInput


def load_cached(file: Path, key: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """What lies in a file of ours, if it is whole and of this key."""
    if not file.is_file():
        return None
    try:
        found = json_files.read_object(file)
    except InvalidInput:
        return None
    sound = all(isinstance(found.get(name), kind) for name, kind in fields.items())
    return dict(found) if sound and found.get("key") == key else None


def store_cached(file: Path, found: Mapping[str, Any]) -> None:
    """Write it; it appears whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json_files.pretty(dict(found)))
