"""What OMP_WAIT_POLICY=PASSIVE costs and saves: the same command with it and without, alone and beside a busy core.

    python benchmarks/threads.py [--rounds 5]

Prints medians of wall-clock and processor seconds, and the machine's load before each part.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = ("analyze", "sanac:tiny", "--num-prompts", "8", "--timesteps", "4")
START = "import sys, torch; from sanac.cli import main; main()"  # torch first: sanac leaves the environment alone
POLICIES = ("PASSIVE", None)  # None: the runtime's own, which spins for a while


def timed(policy: str | None, threads: int) -> tuple[float, float]:
    """Wall-clock and processor seconds of one run, in a workspace of its own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    env |= {"OMP_NUM_THREADS": str(threads)} | ({"OMP_WAIT_POLICY": policy} if policy else {})
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", START, *COMMAND, "--workspace", folder]
        subprocess.run(command, check=True, env=env, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def beside(count: int) -> Iterator[None]:
    """Other processes that compute all the time."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2], help="Busy processes beside it.")
    asked = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    for busy in asked.busy:
        print(json.dumps({"cores": cores, "busy": busy, "load before": os.getloadavg()[0]}), flush=True)
        found: dict[str | None, list[tuple[float, float]]] = {policy: [] for policy in POLICIES}
        with beside(busy):
            for _ in range(asked.rounds):
                for policy in POLICIES:  # by turns: a slow phase of the machine is shared
                    found[policy].append(timed(policy, cores))
        for policy, runs in found.items():
            wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"  {policy or 'not set':8}  {wall:6.1f} s, {cpu:6.1f} processor seconds", flush=True)


if __name__ == "__main__":
    main()
