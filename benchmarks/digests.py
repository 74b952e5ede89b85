"""How fast one core digests: the table of docs/decisions/002.

python benchmarks/digests.py
"""

import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from blake3 import blake3

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine

_BLOCK = os.urandom(32 << 20)


def rate(make: Callable[[], Any]) -> float:
    """Megabytes a second, the median of seven passes."""
    digest, rates = make(), []
    for _ in range(7):
        start = time.perf_counter()
        digest.update(_BLOCK)
        rates.append(len(_BLOCK) / 1e6 / (time.perf_counter() - start))
    return statistics.median(rates)


@click.command()
def main() -> None:
    """Print a table."""
    click.echo(machine())
    for name, make in {"sha256": hashlib.sha256, "blake2b": hashlib.blake2b, "BLAKE3": blake3}.items():
        found = rate(make)
        click.echo(f"{name:8} {found:6.0f} MB/s   3.2 GB twice: {6400 / found:5.1f} s")


if __name__ == "__main__":
    main()
