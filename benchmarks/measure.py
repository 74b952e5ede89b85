"""Runs a command as a process of its own and measures it: wall time, peak anonymous memory, peak RSS."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from sanac.core.units import bytes_text

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Run:
    """One measured run."""

    seconds: float
    anonymous: int  # bytes that can't be evicted: what memory limits are judged by
    resident: int  # with mapped file pages, which can


def measure(command: Sequence[str]) -> Run:
    """Run `command`, which must succeed."""
    return watched(command)[0]


def watched(command: Sequence[str], given: bytes = b"") -> tuple[Run, str]:
    """The same, given something to read, and what it printed."""
    start, pipe = time.perf_counter(), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        peaks = {"RssAnon": 0, "VmRSS": 0}
        watcher = threading.Thread(target=watch, args=(process, peaks))
        watcher.start()
        printed, reporter = process.communicate(given)
        seconds = time.perf_counter() - start
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{reporter.decode()}")
    return Run(seconds, peaks["RssAnon"], peaks["VmRSS"]), printed.decode()


def watch(process: subprocess.Popen[bytes], peaks: dict[str, int]) -> None:
    """Record the highest figures of a process until it ends."""
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


def interleaved(commands: Mapping[str, Sequence[str]], rounds: int, clean: Callable[[], None]) -> dict[str, list[Run]]:
    """Run all commands, round after round, from the same clean state each time."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(rounds):
        click.echo(f"round {number + 1} of {rounds}", err=True)
        for name, command in commands.items():
            runs[name].append(measure(command))
            clean()
            subprocess.run(["sync"], check=True)
    return runs


def report(name: str, title: str, runs: Mapping[str, list[Run]], bases: Sequence[str], warning: str) -> None:
    """A table on stderr, one JSON object on stdout and in docs/results/NAME.json. Ratios are medians within a round."""
    rounds = max(map(len, runs.values()))
    click.echo(f"\n{machine()}; {title}, {rounds} rounds, interleaved. {warning}\n", err=True)
    titles = ["job", "median s", "min-max s", *(f"x {base}" for base in bases), "RssAnon", "RSS"]
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", err=True)
    figures = {}
    for job, found in runs.items():
        times = [run.seconds for run in found]
        middle = median(found)
        ratios = {
            base: statistics.median(run.seconds / other.seconds for run, other in zip(found, runs[base], strict=True))
            for base in bases
            if len(found) == len(runs[base])
        }
        cells = [job, f"{middle.seconds:.2f}", f"{min(times):.2f}-{max(times):.2f}"]
        cells += [f"{ratios[base]:.2f}" if base in ratios else "" for base in bases]
        cells += [bytes_text(middle.anonymous), bytes_text(middle.resident)]
        click.echo(f"| {' | '.join(cells)} |", err=True)
        figures[job] = asdict(middle) | {"ratios": ratios, "all_seconds": times}
    saved = {"machine": machine(), "warning": warning, "title": title, "rounds": rounds, "figures": figures}
    result = RESULTS / f"{name}.json"
    result.write_text(json.dumps(saved, indent=1) + "\n")
    click.echo(json.dumps({"status": "ok", "out": str(result), **saved}))


@contextmanager
def workplace(work: Path | None) -> Iterator[Path]:
    """A folder below `work` for gigabytes that are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="sanac-bench-", dir=work))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def remove(*paths: Path) -> None:
    """Delete files and folders that are there."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


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
