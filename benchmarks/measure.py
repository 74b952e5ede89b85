"""Runs a command as a process of its own and measures it: wall time, peak anonymous memory, peak RSS."""

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    anonymous: int  # bytes that can't be evicted: what memory limits are judged by
    resident: int  # with mapped file pages, which can


def measure(command: Sequence[str]) -> Run:
    """Run `command`, which must succeed."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peaks = {"RssAnon": 0, "VmRSS": 0}
        watcher = threading.Thread(target=_watch, args=(process, peaks))
        watcher.start()
        _, talk = process.communicate()
        seconds = time.perf_counter() - start
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{talk.decode()}")
    return Run(seconds, peaks["RssAnon"], peaks["VmRSS"])


def _watch(process: subprocess.Popen[bytes], peaks: dict[str, int]) -> None:
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        for key, _, rest in (line.partition(":") for line in lines):
            if key in peaks:
                peaks[key] = max(peaks[key], int(rest.split()[0]) * 1024)
        time.sleep(0.005)


def median(runs: Sequence[Run]) -> Run:
    """The median time and the highest peaks."""
    return Run(
        statistics.median(run.seconds for run in runs),
        max(run.anonymous for run in runs),
        max(run.resident for run in runs),
    )


def machine() -> str:
    """This machine in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, no GPU used"


def refuse_if_busy() -> str:
    """A warning when something else is running: the figures can't be trusted then."""
    load = os.getloadavg()[0]
    return f"load average was {load:.1f} at the start: don't trust these times" if load > 0.7 else ""
