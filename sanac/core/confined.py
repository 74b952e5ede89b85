"""Paths below a folder whose contents may come from a stranger: no link below the folder is followed.

Links in an artifact, a workspace or an unfinished artifact could lead anywhere: to files that a verb would then read,
overwrite or delete. All access to such files goes through `ConfinedPath`, which opens every folder on the way relative
to the handle of the one above it, and refuses links. The folder itself was named by the user and may be a link.

Source models are the exception: a snapshot in the hub's cache is made of links. `checkpoint.locate.inside` says where
those may lead.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

from sanac.core.errors import InvalidInput

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LinkRefused(InvalidInput):
    """A link in a folder where none is followed."""


@dataclass(frozen=True, slots=True)
class ConfinedPath:
    """A path below `root`, with pathlib's methods; each of them raises LinkRefused where a link is on the way.

    A name that can't exist (too long, not text of the file system) is the name of nothing.
    """

    root: Path
    parts: tuple[str, ...] = ()

    def __truediv__(self, name: str | PurePath) -> "ConfinedPath":
        """The path of `name` below this one; InvalidInput if it points elsewhere."""
        added = PurePath(name)
        if added.is_absolute() or ".." in added.parts or "\0" in str(name):
            raise InvalidInput(f"{str(name)!r} points outside {self.root}")
        return ConfinedPath(self.root, (*self.parts, *added.parts))

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        """The path for libraries that open files themselves; no part of it is a link now."""
        self.check()
        return str(self.path)

    @property
    def path(self) -> Path:
        """The path for messages; it may lead through links."""
        return self.root.joinpath(*self.parts)

    @property
    def relative(self) -> str:
        """The path relative to the root, with slashes."""
        return "/".join(self.parts)

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.name

    @property
    def parent(self) -> "ConfinedPath":
        """The folder that this path is in; the root is its own."""
        return ConfinedPath(self.root, self.parts[:-1])

    def with_name(self, name: str) -> "ConfinedPath":
        """The same path with another last part."""
        return self.parent / name

    def check(self) -> None:
        """Raise LinkRefused if this path is a link or leads through one; it need not exist."""
        self._status()

    def stat(self) -> os.stat_result:
        """What the file system knows of it; FileNotFoundError if it doesn't exist."""
        found = self._status()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return found

    def exists(self) -> bool:
        """Whether it exists."""
        return self._status() is not None

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        found = self._status()
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        found = self._status()
        return found is not None and stat.S_ISDIR(found.st_mode)

    def open(self, mode: str = "rb", buffering: int = -1, encoding: str | None = None) -> IO[Any]:
        """Open it; InvalidInput if it is anything but a regular file."""

        def opener(_: str, flags: int) -> int:
            with self._parent_handle() as handle:
                try:
                    return os.open(self.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=handle)
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        raise self._refusal(len(self.parts)) from error
                    raise OSError(error.errno, error.strerror, str(self)) from error

        file = open(str(self.path), mode, buffering, encoding, opener=opener)  # noqa: SIM115 (the caller's)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise InvalidInput(f"{self} is not a regular file")
        return file

    def read_bytes(self) -> bytes:
        """All of its bytes."""
        with self.open("rb") as file:
            return bytes(file.read())

    def read_text(self) -> str:
        """All of its text, which is UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write it in place."""
        with self.open("wb") as file:
            file.write(data)

    def write_text(self, text: str) -> None:
        """Write UTF-8 text in place."""
        self.write_bytes(text.encode())

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make it a folder; the root is made with all that is missing above it."""
        if not self.parts:
            self.root.mkdir(parents=parents, exist_ok=exist_ok)
            return
        if parents:
            self.parent.mkdir(parents=True, exist_ok=True)
        if not (exist_ok and self.is_dir()):
            with self._parent_handle() as handle:
                os.mkdir(self.name, dir_fd=handle)

    def iterdir(self) -> Iterator["ConfinedPath"]:
        """Its entries, sorted; links among them are refused when they are used."""
        with self._handle() as handle:
            names = sorted(os.listdir(handle))  # noqa: PTH208 (of the handle)
        return (ConfinedPath(self.root, (*self.parts, name)) for name in names)

    def files(self) -> Iterator["ConfinedPath"]:
        """All entries below this folder that are no folders: files, and links as such."""
        for entry in self.iterdir():
            if stat.S_ISDIR(entry.path.lstat().st_mode):
                yield from entry.files()
            else:
                yield entry

    def touch(self) -> None:
        """Make it an empty file, unless it is there."""
        self.open("ab").close()

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file, or the link itself."""
        try:
            with self._parent_handle() as handle:
                os.unlink(self.name, dir_fd=handle)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: "ConfinedPath") -> None:
        """Move it to `target`, replacing what is there."""
        with self._parent_handle() as source, target._parent_handle() as aim:  # noqa: SLF001 (its own kind)
            os.rename(self.name, target.name, src_dir_fd=source, dst_dir_fd=aim)

    def rmdir(self) -> None:
        """Delete the empty folder."""
        with self._parent_handle() as handle:
            os.rmdir(self.name, dir_fd=handle)

    def rmtree(self, *, ignore_errors: bool = False) -> None:
        """Delete the folder and everything in it; links in it are deleted, not followed."""
        try:
            if not self.parts:
                shutil.rmtree(self.root)
                return
            with self._parent_handle() as handle:
                shutil.rmtree(self.name, dir_fd=handle)
        except OSError:
            if not ignore_errors:
                raise

    @contextmanager
    def _parent_handle(self) -> Iterator[int]:
        """A handle of the folder that it is in."""
        with self.parent._handle() as handle:  # noqa: SLF001 (its own kind)
            yield handle

    @contextmanager
    def _handle(self) -> Iterator[int]:
        """A handle of this folder, opened part by part."""
        handle = os.open(self.root, _FOLDER)
        try:
            for depth, part in enumerate(self.parts, start=1):
                below = self._enter(handle, part, depth)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def _enter(self, handle: int, part: str, depth: int) -> int:
        """A handle of the folder `part` in the folder of `handle`."""
        try:
            return os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR} and stat.S_ISLNK(_lstat(part, handle).st_mode):
                raise self._refusal(depth) from error
            raise OSError(error.errno, error.strerror, str(self.root.joinpath(*self.parts[:depth]))) from error

    def _status(self) -> os.stat_result | None:
        """What the file system knows of it; None if it doesn't exist."""
        try:
            with self._parent_handle() as handle:
                found = _lstat(self.name if self.parts else ".", handle)
        except (FileNotFoundError, NotADirectoryError, UnicodeEncodeError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return None
            raise
        if stat.S_ISLNK(found.st_mode):
            raise self._refusal(len(self.parts))
        return found

    def _refusal(self, depth: int) -> LinkRefused:
        """The error for a link at the first `depth` parts."""
        return LinkRefused(
            f"{self.root.joinpath(*self.parts[:depth])} is a link",
            why=f"sanac follows no link inside {self.root}: it could lead out of it",
            hint="put the file itself in its place",
        )


def _lstat(name: str, handle: int) -> os.stat_result:
    return os.stat(name, dir_fd=handle, follow_symlinks=False)


AnyPath = Path | ConfinedPath
