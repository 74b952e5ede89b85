"""Processor seconds of small things: what a user waits for though hardly anything is computed.

python benchmarks/small.py [--rounds 3]     (ten minutes on one core; docs/results/small.json)
python benchmarks/small.py --table          (the table in docs/research/runtime.md, from that file)

One thread, sanac:tiny, user and system time of the process and its children, the median of the rounds. "Before" was
measured in the same way when these were first looked at.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from measure import machine, workplace

RESULT = Path("docs/results/small.json")
BEFORE = {
    "prune --keep": 2.9,
    "quantize --scheme int3 (refused)": 9.5,
    "finetune (cached)": 9.6,
    "generate": 9.6,
    "export, first time": 67.0,
    "export, again": 67.0,
    "prune --target-blocks, by importance": 35.0,
    "prune --select search --compensate": 90.0,
}
_TINY = "sanac:tiny"
_SHORT = ("--steps", "2", "--batch", "4", "--data", "shapes", "--samples", "8")


def commands(number: int) -> dict[str, tuple[str, ...]]:
    """What is typed; every round writes to folders of its own."""
    space = ("--workspace", f"ws{number}")
    return {
        "prune --keep": ("prune", _TINY, "--keep", "0-5", *space, "--out", f"kept{number}"),
        "quantize --scheme int3 (refused)": ("quantize", _TINY, "--scheme", "int3"),
        "finetune (cached)": ("finetune", "first", *_SHORT, "--teacher", _TINY, "--out", "tuned", "--workspace", "ws"),
        "generate": ("generate", _TINY, "a red circle", "--out", f"pictures{number}"),
        "export, first time": ("export", _TINY, "--out", f"exported{number}", *space),
        "export, again": ("export", _TINY, "--out", f"exported-again{number}", *space),
        "prune --target-blocks, by importance": (
            *("prune", _TINY, "--target-blocks", "6", "--select", "bi", *space, "--out", f"ranked{number}"),
        ),
        "prune --select search --compensate": (
            *("prune", _TINY, "--target-blocks", "6", "--select", "search", "--compensate", *space),
            *("--out", f"found{number}"),
        ),
    }


def seconds(command: tuple[str, ...], work: Path, cache: str) -> float:
    """Processor seconds of one command, which may refuse what is asked."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(work / cache)}
    words = [sys.executable, "-m", "sanac", *command]
    ran = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode not in {0, 2}:
        raise SystemExit(f"{' '.join(command)}: exit {ran.returncode}\n{ran.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def show(result: Mapping[str, Any]) -> None:
    """The machine and the table in Markdown."""
    click.echo(f"{result['machine']}; one thread, load average {result['load']} at the start".rstrip() + "\n")
    click.echo("| command | before | now |\n|---|---|---|")
    for name, one in result["figures"].items():
        click.echo(f"| {name} | {one['before']:.1f} s | {one['now']:.1f} s |")


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Rounds.")
@click.option("--table", is_flag=True, help="Print the table of the recorded result, measure nothing.")
def main(*, rounds: int, table: bool) -> None:
    """Measure, and print the table."""
    if not table:
        measured(rounds)
    show(json.loads(RESULT.read_text()))


def measured(rounds: int) -> None:
    """Measure everything and write the result."""
    load = round(os.getloadavg()[0], 1)
    found: dict[str, list[float]] = {name: [] for name in BEFORE}
    with workplace(None) as work:
        seconds(("prune", _TINY, "--keep", "0-5", "--workspace", "ws", "--out", "first"), work, "cache")
        seconds(
            ("finetune", "first", *_SHORT, "--teacher", _TINY, "--out", "tuned", "--workspace", "ws"), work, "cache"
        )
        for number in range(rounds):
            for name, command in commands(number).items():
                cache = "cache" if name == "finetune (cached)" else f"cache{number}"  # what is cached was done before
                found[name].append(seconds(command, work, cache))
    figures = {name: {"before": BEFORE[name], "now": statistics.median(all_of)} for name, all_of in found.items()}
    RESULT.write_text(json.dumps({"machine": machine(), "load": load, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
