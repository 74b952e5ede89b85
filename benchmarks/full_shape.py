"""The chain on a pipeline of the full shape, with the defaults: each stage's time and memory, estimated and measured.

python benchmarks/full_shape.py --work /tmp        (an hour on two cores, 60 GB of disk; docs/results/full-shape.json)
python benchmarks/full_shape.py --table

Synthetic weights: a transformer of 60 blocks (4.8B), Gemma-2-2B and DC-AE, random and well-scaled. Only prompts, steps
and pixels (256 instead of 1024) are fewer than usual, so that CPUs can; each stage is a process of its own.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from measure import machine, watch, workplace
from synthetic import write_pipeline

from sanac.core.units import bytes_text, duration_text

RESULT = Path("docs/results/full-shape.json")
SIDE = 8  # of the latents: 256 pixels
BRIEFLY = ("--num-prompts", "3", "--timesteps", "2")
STAGES: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "source"),
    "prune": ("prune", "source", "--target-blocks", "20", *BRIEFLY, "--out", "pruned"),
    "prune to 12": ("prune", "source", "--keep", "0-11", "--link", "--out", "twelve"),
    "schedule 12 blocks": (
        *("schedule", "twelve", "--budget", "0.25", "--confirm", "none", "--try-steps", "10", "--link"),
        *("--num-prompts", "1", "--timesteps", "1", "--out", "scheduled"),
    ),
    "finetune": (
        *("finetune", "pruned", "--data-free", "--steps", "2", "--batch", "4", "--samples", "2"),
        *("--teacher-steps", "3", "--out", "tuned"),
    ),
    "quantize int8": ("quantize", "tuned", "--scheme", "int8", *BRIEFLY, "--out", "int8"),
    "quantize int4-wo": ("quantize", "tuned", "--scheme", "int4-wo", "--out", "int4"),
    "export 20 blocks": ("export", "tuned", "--out", "exported"),
    "export 60 blocks": ("export", "source", "--out", "exported-60"),
    "inspect the result": ("inspect", "exported"),
}
GONE = {  # what is deleted after a stage, for want of disk
    "quantize int8": ("int8",),
    "quantize int4-wo": ("int4", "pruned"),
    "export 60 blocks": ("exported-60",),
}
_DURATION = re.compile(r"(?:(\d+) h )?(\d+) (min|s)\b")
_MEMORY = re.compile(r"([\d.]+) (GB|MB|kB) of memory")
_FACTORS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


def run(command: Sequence[str], work: Path) -> dict[str, Any]:
    """Run one stage; what it printed about itself, and what it took."""
    start, peaks = time.perf_counter(), {"RssAnon": 0, "VmRSS": 0}
    words = [sys.executable, "-m", "sanac", *command, "--workspace", "ws"] if command[0] != "inspect" else None
    words = words or [sys.executable, "-m", "sanac", *command]
    with subprocess.Popen(words, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watcher = threading.Thread(target=watch, args=(process, peaks))
        watcher.start()
        printed, said = process.communicate()
        seconds = time.perf_counter() - start
        watcher.join()
    lines = [line for line in said.splitlines() if "about" in line or "needs" in line or "takes" in line]
    click.echo(f"{' '.join(command)}: exit {process.returncode}, {seconds:.0f} s\n{said[-1500:]}", err=True)
    return {
        "command": "sanac " + " ".join(command),
        "exit": process.returncode,
        "seconds": seconds,
        "anonymous": peaks["RssAnon"],
        "resident": peaks["VmRSS"],
        "estimates": lines,
        "printed": printed.splitlines()[-3:],
    }


def foreseen(lines: Sequence[str]) -> tuple[float, float]:
    """Seconds and bytes that a stage's own lines foresaw: the sum of the times, the largest memory."""
    seconds = sum(
        (int(hours or 0) * 60 + int(count)) * 60 if unit == "min" or hours else int(count)
        for line in lines
        if "about" in line and "would take" not in line
        for hours, count, unit in _DURATION.findall(line)
    )
    memory = max((float(size) * _FACTORS[unit] for line in lines for size, unit in _MEMORY.findall(line)), default=0.0)
    return float(seconds), memory


def show(result: Mapping[str, Any]) -> None:
    """A Markdown table of the stages."""
    click.echo("| stage | exit | time foreseen | time | memory foreseen | anonymous peak | with mapped files |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, stage in result["stages"].items():
        seconds, memory = stage["foreseen_seconds"], stage["foreseen_memory"]
        cells = [
            name,
            str(stage["exit"]),
            duration_text(seconds) if seconds else "",
            duration_text(stage["seconds"]),
            bytes_text(memory) if memory else "",
            bytes_text(stage["anonymous"]),
            bytes_text(stage["resident"]),
        ]
        click.echo(f"| {' | '.join(cells)} |")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 60 GB are free.")
@click.option("--stage", "only", multiple=True, help="Only these stages; those before them must have run in --keep.")
@click.option("--keep", type=click.Path(path_type=Path), help="A folder that is kept, to go on in.")
@click.option("--side", default=SIDE, show_default=True, help="Side of the source's latents, where it is written.")
@click.option("--table", is_flag=True, help="Print the table of what is known.")
def main(*, work: Path | None, only: tuple[str, ...], keep: Path | None, side: int, table: bool) -> None:
    """Run the stages, and print the table."""
    if not table:
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            _stages(keep, only, side)
        else:
            with workplace(work) as folder:
                _stages(folder, only, side)
    result = json.loads(RESULT.read_text())
    for stage in result["stages"].values():
        stage["foreseen_seconds"], stage["foreseen_memory"] = foreseen(stage["estimates"])
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


def _stages(work: Path, only: tuple[str, ...], side: int) -> None:
    """All stages, or only some, in `work`; each result is written at once."""
    result = json.loads(RESULT.read_text()) if RESULT.is_file() and only else {"machine": machine(), "stages": {}}
    if not (work / "source" / "model_index.json").is_file():
        shutil.rmtree(work / "source", ignore_errors=True)
        write_pipeline(work / "source", sample_size=side)
    for name, command in STAGES.items():
        if only and name not in only:
            continue
        result["stages"][name] = run(command, work) | ({"latents": side} if side != SIDE else {})
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        for gone in GONE.get(name, ()):
            shutil.rmtree(work / gone, ignore_errors=True)


if __name__ == "__main__":
    main()
