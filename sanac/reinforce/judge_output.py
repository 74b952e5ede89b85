"""The folder of a trained judge: made in OUT.partial under a lock, renamed to OUT last, replaced only with --force.

OUT.partial also holds what a stopped run resumes from: generated previews and checkpoints, named by content keys.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.cache import load_cached
from sanac.core.artifact.staging import locked
from sanac.core.atomic import PARTIAL, flush, write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.file_copy import digest_file

REPORT = "training.json"
_STATE, _RESULT = ".sanac", "judge"
_FIELDS = {"kind": str, "files": dict, "heads": dict, "held_out": dict}


@dataclass(frozen=True)
class JudgeOutput:
    """Where a judge is written, and under which content key."""

    out: Path
    key: str

    @property
    def home(self) -> ConfinedPath:
        """The folder OUT, reached through the folder that it is in."""
        return self._beside("")

    @property
    def partial(self) -> ConfinedPath:
        """The folder of the state to resume from."""
        return self._beside(PARTIAL)

    @property
    def result(self) -> ConfinedPath:
        """The folder that the judge is made in."""
        return self.partial / _RESULT

    @property
    def _replaced(self) -> ConfinedPath:
        """The folder of the judge that is replaced, until the new one is in its place."""
        return self._beside(".replaced")

    def _beside(self, suffix: str) -> ConfinedPath:
        whole = self.out.absolute()
        return ConfinedPath(whole.parent) / f"{whole.name}{suffix}"

    def known(self, *, force: bool) -> dict[str, Any] | None:
        """The report of the same training, if it is complete in OUT; UsageError if something else would be lost."""
        if self.out.is_symlink() or not self.out.absolute().name:
            raise UsageError(f"--out {self.out} is not the name of a new folder", hint="choose another --out")
        found = load_cached(self.home / REPORT, self.key, _FIELDS) if self.home.is_dir() else None
        if found is not None and self._is_whole(found["files"]):
            return found
        self._check_free(force=force)
        return None

    def _check_free(self, *, force: bool) -> None:
        """UsageError if there is something in OUT that would be lost."""
        if not self.home.exists() or (self.home.is_dir() and not any(self.home.iterdir())):
            return
        if not force:
            raise UsageError(
                f"{self.out} already exists",
                why="it is not the result of this command",
                hint="choose another --out, or replace the judge that is there with --force",
            )
        self._check_replaceable()

    def _is_whole(self, files: Mapping[str, str]) -> bool:
        return all((self.home / name).is_file() and digest_file(self.home / name) == one for name, one in files.items())

    def _check_replaceable(self) -> None:
        """UsageError unless everything in OUT was written with a judge."""
        files = {}
        if self.home.is_dir() and (self.home / REPORT).is_file():
            files = json_files.read_object(self.home / REPORT).get("files", {})
        known = {REPORT, *(files if isinstance(files, dict) else {})}
        strangers = [one.name for one in self.home.iterdir() if one.name not in known] if self.home.is_dir() else [""]
        if strangers or not files:
            raise UsageError(
                f"{self.out} is not a judge that sanac trained",
                why=f"--force would delete {self.out / strangers[0] if strangers else self.out}",
                hint="move it away, or choose another --out",
            )

    @contextmanager
    def begun(self, *, fresh: bool) -> Iterator[None]:
        """Hold OUT.partial; `fresh` empties it first. UsageError if something else has that name."""
        for place, mark in ((self.partial, _STATE), (self._replaced, REPORT)):
            if place.exists() and not (place / mark).exists():
                raise UsageError(
                    f"{place} already exists",
                    why=f"sanac needs that name while it writes {self.out}, and didn't create what is there",
                    hint="move it away, or choose another --out",
                )
        try:
            (self.partial / _STATE).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or str(error)
            raise InvalidInput(f"cannot write to {self.partial}", why=why, hint="choose another --out") from error
        with locked(self.partial / _STATE / "lock", self.out):
            for entry in self.partial.iterdir():
                if entry.name == _RESULT or (fresh and entry.name != _STATE):  # a killed run's result is incomplete
                    _delete(entry)
            self.result.mkdir()
            yield

    def finish(self, report: Mapping[str, Any], *, force: bool) -> dict[str, Any]:
        """Write the report, rename the result to OUT, and delete OUT.partial; returns the whole report."""
        self._check_free(force=force)  # hours may have passed
        files = {one.relative.split("/", 2)[2]: digest_file(one) for one in self.result.files()}
        whole = {"key": self.key, "kind": "judge", "files": files, **report}
        write_atomically(self.result / REPORT, json_files.pretty(whole))
        for file in self.result.files():
            flush(file)
        if self._replaced.exists():
            self._replaced.rmtree()  # a killed run's, which had made room for its result
        if self.home.exists():
            self.home.rename(self._replaced)
        self.result.rename(self.home)
        flush(self.home.parent)
        self.partial.rmtree()
        if self._replaced.exists():
            self._replaced.rmtree()
        return whole


def _delete(entry: ConfinedPath) -> None:
    """Delete a file, a folder, or a link itself."""
    if entry.path.is_dir() and not entry.path.is_symlink():
        entry.rmtree()
    else:
        entry.unlink()
