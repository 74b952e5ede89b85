"""Disk, memory and time that a job needs, checked against this machine before the job starts."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sanac.core.errors import MissingResource
from sanac.core.progress import Reporter
from sanac.core.units import bytes_text, duration_text
from sanac.core.view import path_text

_ASSUMED_RATE = 400e6  # bytes per second read, written and hashed on an ordinary cloud disk
NOTABLE = 0.1  # share of the free memory from which on a job's memory is reported without -v
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Needs:
    """A job's resource estimate: bytes of disk and of memory, and bytes to copy (`traffic`) for the time estimate."""

    disk: int
    memory: int
    traffic: int = 0

    @property
    def seconds(self) -> float:
        """Estimated seconds that the job takes."""
        return self.traffic / _ASSUMED_RATE


def check_room(needs: Needs, place: Path, reporter: Reporter) -> None:
    """Report what the job needs; MissingResource if `place` has too little disk or the machine too little memory.

    Memory that is no problem is a detail: a job that also measures or trains reports the memory of that, which is more.
    """
    folder = existing(place)
    where = path_text(folder)
    disk, memory = shutil.disk_usage(folder).free, available_memory()
    memory_text = f"{bytes_text(needs.memory)} of memory (free: {bytes_text(memory)})"
    notable = needs.memory > NOTABLE * memory
    lines = [memory_text] if notable else []
    lines += [f"{bytes_text(needs.disk)} of disk in {where} (free: {bytes_text(disk)})"] if needs.disk else []
    lines += [f"about {duration_text(needs.seconds)}"] if needs.seconds > 60 else []
    if lines:
        reporter.note(f"needs {', '.join(lines)}")
    if not notable:
        reporter.detail(f"this step needs {memory_text}")
    if needs.disk > disk:
        raise MissingResource(
            f"not enough disk space in {where}",
            why=f"{bytes_text(needs.disk)} needed, {bytes_text(disk)} free",
            hint="point --out at a larger disk; --transformer-only writes the least",
        )
    if needs.memory > memory:
        raise MissingResource(
            "not enough memory", why=f"{bytes_text(needs.memory)} needed, {bytes_text(memory)} available"
        )


def user_cache() -> Path:
    """The user's cache folder for results that can be recomputed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sanac"


def existing(place: Path) -> Path:
    """The nearest existing folder: `place` itself or one of its parents."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())


def available_memory() -> int:
    """Bytes of memory available without swapping: the kernel's figure, capped by the container's limit."""
    free = _meminfo().get("MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(free, _container_room())


def total_memory() -> int:
    """Bytes of physical memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)}


def _container_room() -> int:
    """Bytes that the cgroup (v2) still allows, counting its reclaimable file pages as free; 2^62 without a limit."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 1 << 62
    if limit == "max":
        return 1 << 62
    return max(0, int(limit) - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0)))
