"""Files outside of what a command was given, that show when they are read, changed, deleted or joined by others."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONG_AGO = 1_000_000_000_000_000_000  # ns: a file system with relatime notes the next reading of a file this old


@dataclass(frozen=True)
class Canaries:
    """A folder of files that nobody has any business with."""

    home: Path

    def copy_of(self, path: Path) -> Path:
        """A copy outside, to link to; of a folder, with all that is in it."""
        place = self.home / f"{len([*self.home.iterdir()])}-{path.name}"
        if path.is_dir():
            shutil.copytree(path, place)
        else:
            shutil.copyfile(path, place)
        return place

    def replace(self, path: Path) -> Path:
        """Put a link to a copy outside in the place of a file or a folder."""
        copy = self.copy_of(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        path.symlink_to(copy)
        return copy

    def state(self) -> dict[str, tuple[bytes, int]]:
        """What is in each file, and when it was changed."""
        files = sorted(path for path in self.home.rglob("*") if path.is_file())
        return {str(path.relative_to(self.home)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    def watch(self) -> None:
        """From now on, reading shows."""
        for path in self._files():
            os.utime(path, ns=(LONG_AGO, path.stat().st_mtime_ns))

    def read(self) -> list[str]:
        """The files that were read since `watch`."""
        return [path.name for path in self._files() if path.stat().st_atime_ns != LONG_AGO]

    def _files(self) -> Iterator[Path]:
        return (path for path in sorted(self.home.rglob("*")) if path.is_file())
