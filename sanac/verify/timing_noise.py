"""Whether what was measured can be trusted: who else was at work, how far rounds lie apart, whether they slow down."""

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_OTHERS = 0.15  # cores that others may use
_SPREAD = 0.1  # of the middle half of the rounds, by their median
_DRIFT = 1.08  # times slower that the later half of the rounds may be
_FEWEST = 4  # rounds of which anything can be said
_CPU_STAT = Path("/sys/fs/cgroup/cpu.stat")


@dataclass
class Contention:
    """What the machine did meanwhile."""

    seconds: float = 0.0
    others: float = 0.0  # seconds of processors that other processes used
    throttled: float = 0.0  # seconds that a limit of the container took

    @property
    def cores(self) -> float:
        """That others used, on average."""
        return self.others / self.seconds if self.seconds else 0.0


@contextmanager
def watch_contention(watched: Contention, processes: Sequence[int]) -> Iterator[None]:
    """Count what others use during the block; `processes` and this one are no others."""
    ours = (os.getpid(), *processes)
    start, busy, mine, throttled = time.monotonic(), _busy(), _used(ours), _throttled()
    try:
        yield
    finally:
        watched.seconds += time.monotonic() - start
        watched.others += max(0.0, (_busy() - busy) - (_used(ours) - mine))
        watched.throttled += _throttled() - throttled


def noise_warnings(watched: Contention, rounds: Mapping[str, Sequence[float]]) -> list[str]:
    """Each doubt in words."""
    found = []
    if watched.cores > _OTHERS:
        found.append(f"other processes used {watched.cores:.1f} cores meanwhile")
    if watched.throttled > 0.02 * watched.seconds:
        found.append(f"a limit on processors took {watched.throttled:.1f} s of {watched.seconds:.0f}")
    for name, seconds in rounds.items():
        if len(seconds) < _FEWEST:
            continue
        middle = statistics.median(seconds)
        low, _, high = statistics.quantiles(seconds, n=4)
        if high - low > _SPREAD * middle:
            found.append(f"{name}: half of the rounds lie {(high - low) / middle:.0%} apart")
        half = len(seconds) // 2
        slower = statistics.median(seconds[-half:]) / statistics.median(seconds[:half])
        if slower > _DRIFT:
            found.append(f"{name}: the later rounds took {slower - 1:.0%} longer: throttled, or not alone")
    few = min(map(len, rounds.values()), default=0)
    if few < _FEWEST:
        found.append(f"{few} rounds say nothing of how far they lie apart: {_FEWEST} or more do")
    return found


def _busy() -> float:
    """Seconds of processors that anybody used since the machine was started."""
    with suppress(OSError):
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, soft, _ = map(int, fields)  # not: idle, iowait, steal
        return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _used(processes: Sequence[int]) -> float:
    """The same, of these processes."""
    total = 0
    for process in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _throttled() -> float:
    """Seconds that a limit of this container kept it from working."""
    with suppress(OSError):
        entries = dict(line.split() for line in _CPU_STAT.read_text().splitlines())
        return int(entries.get("throttled_usec", 0)) / 1e6
    return 0.0
