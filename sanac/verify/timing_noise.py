"""Detects noisy timings: load by other processes, CPU throttling, spread and drift of the rounds."""

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_OTHERS = 0.15  # most cores used by other processes
_SPREAD = 0.1  # largest interquartile range of the rounds, relative to their median
_DRIFT = 1.08  # largest ratio of the later half of the rounds to the earlier half
_FEWEST = 4  # least number of rounds to judge spread and drift
_CPU_STAT = Path("/sys/fs/cgroup/cpu.stat")


@dataclass
class Contention:
    """Load on the machine during the measurement."""

    seconds: float = 0.0
    others: float = 0.0  # CPU seconds used by other processes
    throttled: float = 0.0  # seconds of throttling by the container's CPU limit

    @property
    def cores(self) -> float:
        """Average number of cores used by other processes."""
        return self.others / self.seconds if self.seconds else 0.0


@contextmanager
def watch_contention(contention: Contention, processes: Sequence[int]) -> Iterator[None]:
    """Add the load of other processes during the context to `watched`; excludes `processes` and this process."""
    ours = (os.getpid(), *processes)
    start, busy, mine, throttled = time.monotonic(), _busy(), _used(ours), _throttled()
    try:
        yield
    finally:
        contention.seconds += time.monotonic() - start
        contention.others += max(0.0, (_busy() - busy) - (_used(ours) - mine))
        contention.throttled += _throttled() - throttled


def noise_warnings(contention: Contention, rounds: Mapping[str, Sequence[float]]) -> list[str]:
    """Warnings about noisy timings, one sentence each."""
    found = load_warnings(contention)
    for name, seconds in rounds.items():
        if len(seconds) < _FEWEST:
            continue
        middle = statistics.median(seconds)
        low, _, high = statistics.quantiles(seconds, n=4)
        if high - low > _SPREAD * middle:
            found.append(f"{name}: the middle half of the rounds differs by {(high - low) / middle:.0%}")
        half = len(seconds) // 2
        slower = statistics.median(seconds[-half:]) / statistics.median(seconds[:half])
        if slower > _DRIFT:
            found.append(f"{name}: the later rounds took {slower - 1:.0%} longer: throttling, or other load")
    few = min(map(len, rounds.values()), default=0)
    if few < _FEWEST:
        found.append(f"{few} rounds are too few to judge their spread: use --rounds {_FEWEST} or more")
    return found


def load_warnings(contention: Contention) -> list[str]:
    """Warnings about load by other processes and about throttling, one sentence each."""
    found = []
    if contention.cores > _OTHERS:
        found.append(f"other processes used {contention.cores:.1f} cores during the measurement")
    if contention.throttled > 0.02 * contention.seconds:
        found.append(
            f"a CPU limit throttled this process for {contention.throttled:.1f} s of {contention.seconds:.0f} s"
        )
    return found


def _busy() -> float:
    """CPU seconds used by all processes since the machine started."""
    with suppress(OSError):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, soft, _ = map(int, fields)  # not: idle, iowait, steal
        return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _used(processes: Sequence[int]) -> float:
    """CPU seconds used by these processes."""
    total = 0
    for process in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _throttled() -> float:
    """Seconds for which this container's CPU limit has throttled it."""
    with suppress(OSError):
        entries = dict(line.split() for line in _CPU_STAT.read_text().splitlines())
        return int(entries.get("throttled_usec", 0)) / 1e6
    return 0.0
