"""Staging of artifacts: files are written to OUT.partial under a lock, journaled, sealed, and renamed to OUT last.

A killed run leaves OUT.partial behind; the same command resumes from it. What is there may have been changed meanwhile,
by whomever: no link in it is followed, and a finished file is trusted once its digest has been computed again.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.manifest import MANIFEST, Manifest, check_sealed, read_manifest
from sanac.core.atomic import PARTIAL, atomic_path, flush, write_flushed
from sanac.core.confined import ConfinedPath, LinkRefused
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.file_copy import FileRecord, digest_bytes, digest_mapped
from sanac.core.progress import NULL_REPORTER, Reporter

ORIGIN = "origin.json"  # the source's path on the machine that ran the stage; not sealed
MEASUREMENTS = "measurements/"  # results of verbs that measure the artifact; not sealed
UNFINISHED = ".unfinished"  # the end of the name of a file that is being written into an artifact
_JOURNAL = "journal.jsonl"  # in _STATE: the files that are finished, with their digests
_NAMES = "names.json"  # in _STATE: the files that an in-place addition is about to write
_STATE = ".sanac"  # inside OUT.partial: lock and journal, removed when the artifact is complete


class StagingArea:
    """An artifact being written: `place` each file, then `seal`."""

    def __init__(self, out: Path, key: str, partial: Path, reporter: Reporter = NULL_REPORTER) -> None:
        self.out = out
        self.key = key
        self.partial = partial
        self._inside = ConfinedPath(partial)
        self._journal = self._inside / _STATE / _JOURNAL
        self.files: dict[str, FileRecord] = _read_journal(self._journal, key, self._inside, reporter)

    def existing(self, name: str) -> Path:
        """The path of a file of the artifact for reading it; LinkRefused if a link is on the way."""
        return Path(self._inside / name)

    def place(self, name: str, write: Callable[[Path], FileRecord]) -> FileRecord:
        """Write the artifact's file `name` by calling `write`, unless an earlier run finished it."""
        if name not in self.files:
            target = self._inside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target, UNFINISHED) as unfinished:
                written = write(unfinished)
            _append(self._journal, {"path": name} | asdict(written))
            self.files[name] = written
        return self.files[name]

    def place_bytes(self, name: str, data: bytes) -> None:
        """Write `data` as the artifact's file `name`."""

        def write(path: Path) -> FileRecord:
            path.write_bytes(data)
            return FileRecord(len(data), digest_bytes(data))

        self.place(name, write)

    def seal(self, manifest: Manifest, unsealed: Mapping[str, bytes]) -> None:
        """Write the manifest and the `unsealed` files, then rename OUT.partial to OUT."""
        for name, data in unsealed.items():
            write_flushed(self._inside / name, data)
        write_flushed(self._inside / MANIFEST, json_files.pretty(manifest.to_json()))
        _drop_strangers(self._inside, {*manifest.files, *unsealed, MANIFEST})
        flush(self.partial)
        replaced = replaced_name(self.out)
        if replaced.exists():  # moved here by an interrupted replacement; open_stage checked that it is an artifact
            shutil.rmtree(replaced)
        if self.out.exists():
            self.out.rename(replaced)
        self.partial.rename(self.out)
        flush(self.out.parent)
        shutil.rmtree(self.out / _STATE)
        shutil.rmtree(replaced, ignore_errors=True)

    def discard(self) -> None:
        """Delete OUT.partial without writing an artifact."""
        shutil.rmtree(self.partial)


def check_replaceable(out: Path) -> Manifest | None:
    """The manifest of the artifact at `out`; None if `out` is free; raises if something else occupies it."""
    if not out.exists() and not out.is_symlink():
        return None
    if out.is_symlink() or not out.is_dir() or os.path.ismount(out):
        what = "a link" if out.is_symlink() else "the root of a disk" if out.is_dir() else "not a folder"
        raise UsageError(
            f"{out} can't be replaced", why=f"it is {what}", hint=f"choose another --out, such as {out / 'model'}"
        )
    try:
        manifest = read_manifest(out)
    except InvalidInput as error:
        hint = f"delete {out} if you don't need its contents"
        raise InvalidInput(f"{out} holds a damaged artifact", why=error.why or error.message, hint=hint) from error
    if manifest is None and any(out.iterdir()):
        raise UsageError(
            f"{out} holds something that sanac did not write",
            why="even --force replaces nothing but artifacts",
            hint="choose another --out, or empty the folder",
        )
    return manifest


def find_finished(out: Path, key: str, *, force: bool) -> Manifest | None:
    """The manifest of `out` if it is the artifact of this key; None if it has to be written; raises if it can't be."""
    manifest = check_replaceable(out)
    if manifest is None:
        return None
    if force:
        _refuse_to_delete(out, manifest)
        return None
    if manifest.key != key:
        raise UsageError(
            f"{out} holds another artifact",
            why=f"it is a {manifest.stage} with key {manifest.key[:8]}, this command makes {key[:8]}",
            hint="choose another --out, or replace it with --force",
        )
    problems = check_sealed(out, manifest)
    if problems:
        raise InvalidInput(f"{out} is damaged", why=problems[0], problems=problems, hint="write it again with --force")
    shutil.rmtree(out / _STATE, ignore_errors=True)
    return manifest


def _refuse_to_delete(out: Path, manifest: Manifest) -> None:
    """UsageError if --force would delete files that are not the artifact's."""
    if strangers := foreign_files(out, manifest):
        raise UsageError(
            f"{out} holds files that are not the artifact's",
            why=f"--force would delete {strangers[0]}",
            problems=strangers,
            hint="move them away, or choose another --out",
        )


def foreign_files(out: Path, manifest: Manifest) -> list[str]:
    """Files in the artifact's folder that sanac didn't put there."""
    known = {MANIFEST, ORIGIN, *manifest.files}
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir())
    return [name for name in names if name not in known and not name.startswith((MEASUREMENTS, _STATE))]


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the lock of an artifact's folder or of OUT.partial."""
    lock = ConfinedPath(folder) / _STATE / "lock"
    if not lock.is_file():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def held_bytes(out: Path) -> int:
    """Bytes of disk that an interrupted run's OUT.partial already takes."""
    files = [path.lstat() for path in partial_name(out).rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in files if stat.st_nlink == 1)


@contextmanager
def open_stage(out: Path, key: str, *, fresh: bool, reporter: Reporter = NULL_REPORTER) -> Iterator[StagingArea]:
    """The staging area for `out`, held under a lock; resumes an unfinished run of the same key unless `fresh`."""
    partial = partial_name(out)
    try:
        _refuse_foreign(out)
        state = ConfinedPath(partial) / _STATE
        state.mkdir(parents=True, exist_ok=True)
        with locked(state / "lock", out):
            if fresh:
                _empty(ConfinedPath(partial))
            staging = StagingArea(out, key, partial, reporter)
            try:
                yield staging
            except LinkRefused:  # left as it is: somebody put a link there
                raise
            except InvalidInput:  # nothing to continue from: the input itself has to change
                shutil.rmtree(partial)
                raise
    except OSError as error:
        raise _lacking(error, out) from error


@contextmanager
def open_addition(artifact: Path, key: str, names: Iterable[str]) -> Iterator[StagingArea]:
    """The staging area that adds the files `names` to an existing artifact in place, held under a lock.

    On exit, files of `names` (and of an earlier, killed addition) that the manifest doesn't list are deleted.
    """
    inside = ConfinedPath(artifact)
    state = inside / _STATE
    try:
        state.mkdir(exist_ok=True)
        with locked(state / "lock", artifact):
            (state / _JOURNAL).unlink(missing_ok=True)
            own = [inside / place for name in names for place in (name, f"{name}{UNFINISHED}")]
            _drop_unlisted(inside, [*own, *_left_files(inside)])
            write_flushed(state / _NAMES, json_files.pretty({"names": [path.relative for path in own]}))
            try:
                yield StagingArea(artifact, key, artifact)
            finally:
                _drop_unlisted(inside, own)
                state.rmtree()
    except OSError as error:
        raise _lacking(error, artifact) from error


def _left_files(artifact: ConfinedPath) -> Iterator[ConfinedPath]:
    """The files that a killed addition left, as its journal names them; they are no older than the journal.

    The journal may be a stranger's: what it names is refused like any hostile path, and nothing in it is an error.
    """
    journal = artifact / _STATE / _NAMES
    with suppress(InvalidInput, KeyError):
        names = json_files.read_object(journal)["names"]
        since = journal.stat().st_mtime_ns
        for name in names if isinstance(names, list) else ():
            with suppress(InvalidInput, TypeError):
                path = artifact / name
                if path.relative == name and path.is_file() and path.stat().st_mtime_ns >= since:
                    yield path


def left_unfinished(artifact: Path) -> bool:
    """Whether a killed in-place addition left its state in `artifact`."""
    return (ConfinedPath(artifact) / _STATE).is_dir()


def _drop_unlisted(artifact: ConfinedPath, paths: Iterable[ConfinedPath]) -> None:
    """Delete those of `paths` that the manifest doesn't list, and folders that this empties.

    Without a manifest, nothing is deleted: what is sealed can't be told from what isn't.
    """
    manifest = read_manifest(artifact.path)
    if manifest is None:
        return
    for path in [*paths]:
        name = path.relative
        if name in manifest.files or name in {MANIFEST, ORIGIN} or name.startswith((MEASUREMENTS, _STATE)):
            continue
        path.unlink(missing_ok=True)
        if len(path.parts) > 1 and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def reseal(artifact: Path, manifest: Manifest) -> None:
    """Replace an artifact's manifest atomically."""
    with atomic_path(ConfinedPath(artifact) / MANIFEST, UNFINISHED) as unfinished:
        unfinished.write_bytes(json_files.pretty(manifest.to_json()))


def partial_name(out: Path) -> Path:
    """The folder that `out` is written to before it is complete."""
    return out.with_name(out.name + PARTIAL)


def replaced_name(out: Path) -> Path:
    """The folder that holds the replaced artifact until the new one is complete."""
    return out.with_name(out.name + ".replaced")


def _refuse_foreign(out: Path) -> None:
    """UsageError if OUT.partial or OUT.replaced exists and sanac didn't write it."""
    partial, replaced = partial_name(out), replaced_name(out)
    strangers = []
    if os.path.lexists(partial) and (partial.is_symlink() or not (ConfinedPath(partial) / _STATE).is_dir()):
        strangers.append(partial)
    if os.path.lexists(replaced) and (replaced.is_symlink() or not (ConfinedPath(replaced) / MANIFEST).is_file()):
        strangers.append(replaced)
    if strangers:
        raise UsageError(
            f"{strangers[0]} already exists",
            why=f"sanac needs that name while it writes {out}, and didn't create what is there",
            hint="move it away, or choose another --out",
        )


@contextmanager
def locked(path: ConfinedPath, out: Path) -> Iterator[None]:
    """Hold the lock in the file `path` while `out` is written; MissingResource if another run holds it."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "a process that just started"
            raise MissingResource(
                f"{out} is being written by another run",
                why=f"the lock in {path.root} is held by {holder}",
                hint="wait for it to finish, or choose another --out",
            ) from error
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise MissingResource(f"{out} was just finished by another run", hint="run the same command again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _lacking(error: OSError, out: Path) -> MissingResource:
    hint = "free some space and run the same command again: it resumes" if error.errno == errno.ENOSPC else ""
    where = f"{error.filename}: " if error.filename else ""
    return MissingResource(f"cannot write {out}", why=where + (error.strerror or str(error)), hint=hint)


def _empty(partial: ConfinedPath) -> None:
    """Delete what an earlier run left in `partial`, except the lock that this run holds."""
    for entry in partial.iterdir():
        if entry.name == _STATE:
            (entry / _JOURNAL).unlink(missing_ok=True)
        elif entry.path.is_dir() and not entry.path.is_symlink():
            entry.rmtree()
        else:
            entry.unlink()


def _read_journal(journal: ConfinedPath, key: str, partial: ConfinedPath, reporter: Reporter) -> dict[str, FileRecord]:
    """The files that an earlier run of this key finished, and that are as it left them.

    A truncated last line, cut off by a kill, is ignored.
    """
    whole, _, torn = journal.read_bytes().rpartition(b"\n") if journal.exists() else (b"", b"", b"")
    try:
        first, *rest = [json.loads(line) for line in whole.splitlines()] or [{"key": ""}]
        finished = dict(_finished(entry, partial) for entry in rest)
        left_by = str(first["key"])
    except (ValueError, KeyError, TypeError, RecursionError, InvalidInput) as error:
        raise InvalidInput(
            f"{journal} is broken", why=str(error), hint="discard the unfinished run with --fresh"
        ) from error
    if torn or not left_by:
        journal.write_bytes(whole + b"\n" if whole else b"")
    if not left_by:
        _append(journal, {"key": key})
    elif left_by != key:
        raise UsageError(
            f"{partial} was left by a run with other settings",
            why=f"its key is {left_by[:8]}, this command's is {key[:8]}",
            hint="repeat that command to finish it, or discard it with --fresh",
        )
    return _proven(finished, partial, reporter)


def _finished(entry: Any, partial: ConfinedPath) -> tuple[str, FileRecord]:
    """The name and the record of a journal's entry; ValueError unless it can be one."""
    name, size, digest, labels = entry["path"], entry["size"], entry["blake3"], entry["labels"]
    if not isinstance(name, str) or not name or (partial / name).relative != name:
        raise ValueError(f"{name!r} is not a file's name")
    texts = [digest, *labels.values()] if isinstance(labels, dict) else [None]
    if type(size) is not int or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the entry of {name} is malformed")
    return name, FileRecord(size, digest, labels)


def _proven(files: Mapping[str, FileRecord], partial: ConfinedPath, reporter: Reporter) -> dict[str, FileRecord]:
    """Those finished files that are what they were: each is read once, as it is sealed under the journal's digest."""
    sized = {name: file for name, file in files.items() if (partial / name).is_file()}
    sized = {name: file for name, file in sized.items() if (partial / name).stat().st_size == file.size}
    if not sized:
        return {}
    reporter.begin("checking finished files", sum(file.size for file in sized.values()))
    proven = {}
    try:
        for name, file in sized.items():
            if digest_mapped(partial / name) == file.blake3:
                proven[name] = file
            reporter.advance(file.size)
    finally:
        reporter.end()
    return proven


def _append(journal: ConfinedPath, entry: dict[str, Any]) -> None:
    with journal.open("ab") as file:
        file.write(json_files.canonical(entry) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_strangers(partial: ConfinedPath, wanted: set[str]) -> None:
    """Delete leftovers of an interrupted write: every file, and every link, that is not in `wanted`."""
    for path in [*partial.files()]:
        if path.parts[0] != _STATE and path.relative not in wanted:
            path.unlink()


def origin_of(artifact: Path) -> str:
    """The path of the model that an artifact was made from, on the machine that made it; '' if unknown."""
    try:
        return str(json_files.read_object(ConfinedPath(artifact) / ORIGIN).get("source", ""))
    except InvalidInput:
        return ""
