"""OpenMP settings of this process: threads sleep while they wait, and there are no more than the container's CPUs.

torch's OpenMP threads spin while they wait for each other, which starves whatever else runs on the same cores. The
runtime reads its settings once, when torch is imported, so this has to come first.
"""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # any of them says how threads wait


def configure_threads() -> None:
    """Add `omp_settings` to this process's environment; once torch is imported that would come too late."""
    if "torch" not in sys.modules:
        os.environ.update(omp_settings(os.environ))


def omp_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """OMP_WAIT_POLICY and OMP_NUM_THREADS for a process of this environment, each only where the user left it open."""
    settings = {}
    if not any(name in environment for name in _WAITING):
        settings["OMP_WAIT_POLICY"] = "PASSIVE"
    quota = cpu_quota()
    if "OMP_NUM_THREADS" not in environment and quota is not None and quota < len(os.sched_getaffinity(0)):
        settings["OMP_NUM_THREADS"] = str(max(1, math.ceil(quota)))  # the runtime knows of affinity, not of quotas
    return settings


def cpu_quota() -> float | None:
    """CPUs' worth of time that this container's cgroup (v2, or v1) allows; None where there is no limit."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = (
                (_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        allowed = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return allowed if allowed > 0 else None
