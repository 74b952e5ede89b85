"""What is computed on the way to an artifact and kept in the workspace under its content key, so that a rerun reads it.

What can't be read there is not there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sanac.core import jsonfile
from sanac.core.errors import BadInput
from sanac.core.stage import write_flushed


def lying(file: Path, key: str, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """What lies in a file of ours, if it is whole and of this key."""
    if not file.is_file():
        return None
    try:
        found = jsonfile.read_object(file)
    except BadInput:
        return None
    sound = all(isinstance(found.get(name), kind) for name, kind in fields.items())
    return dict(found) if sound and found.get("key") == key else None


def keep(file: Path, found: Mapping[str, Any]) -> None:
    """Write it; it appears whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    write_flushed(partial, jsonfile.pretty(dict(found)))
    partial.replace(file)
