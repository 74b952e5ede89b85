"""Verdicts that are kept in a file, by image, prompt and judge: a run that was killed judges no image twice."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.judge.metadata import GenEvalTask
from sanac.judge.results import Result, parse_result

_EVERY = 25  # new verdicts after which the file is written


@dataclass
class KeptVerdicts:
    """The verdicts of one judge; other judges' are in other files."""

    folder: ConfinedPath
    judge_id: str
    _lines: dict[str, Any] = field(default_factory=dict)
    _unsaved: int = 0

    def __post_init__(self) -> None:
        """Read the verdicts of earlier runs; a damaged file is none."""
        found = load_cached(self.file, self.judge_id, {"verdicts": dict})
        self._lines = found["verdicts"] if found else {}

    @property
    def file(self) -> ConfinedPath:
        """Where they are kept."""
        return self.folder / f"verdicts-{json_files.key_of(self.judge_id)[:8]}.json"

    def known(self, image: bytes, task: GenEvalTask) -> Result | None:
        """The verdict on an image file's bytes; None if there is none yet, or it is damaged."""
        line = self._lines.get(_name(image, task))
        with suppress(InvalidInput):
            found = parse_result(line) if isinstance(line, dict) else None
            return found if found and found.task == task else None
        return None

    def keep(self, image: bytes, result: Result) -> None:
        """Add a verdict; the file is written now and then."""
        self._lines[_name(image, result.task)] = result.to_json()
        self._unsaved += 1
        if self._unsaved >= _EVERY:
            self.save()

    def save(self) -> None:
        """Write all verdicts, if any of them is new."""
        if self._unsaved:
            store_cached(self.file, {"key": self.judge_id, "verdicts": self._lines})
            self._unsaved = 0


def _name(image: bytes, task: GenEvalTask) -> str:
    return json_files.key_of([hashlib.sha256(image).hexdigest(), task.to_json()])[:32]
