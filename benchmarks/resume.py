"""What it costs to prove finished files: a run of the synthetic 4.8B that is stopped just before it is sealed.

python benchmarks/resume.py [--work DIR] [--rounds 3]

Stopped at its last moment, a run has the most to prove and the least left to do: the worst case.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved, refuse_if_busy, remove, report, workplace
from benchmarks.synthetic import write_transformer
from sanac.core.units import bytes_text

_STOPPED = """
import os, sys
from sanac.core.artifact.staging import StagingArea
StagingArea.seal = lambda *_: os._exit(0)
from sanac.cli.app import run
run(sys.argv[1:])
"""
_TRUSTING = """
import sys
from sanac.core.artifact import staging
staging._proven = lambda files, partial, reporter: dict(files)
from sanac.cli.app import run
raise SystemExit(run(sys.argv[1:]))
"""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 19 GB go.  [default: a temporary folder]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
def main(work: Path | None, rounds: int) -> None:
    """Write the checkpoint, measure, print a table, write docs/results/resume.json, delete everything."""
    warning = refuse_if_busy()
    with workplace(work) as folder:
        source = folder / "source"
        size = write_transformer(source)
        subprocess.run(["sync"], check=True)
        words = ["convert", str(source), "--to", "nvlabs", "--workspace", str(folder / "ws"), "--out"]
        outs = {name: folder / name for name in ("whole", "proven", "trusted")}
        stop = [sys.executable, "-c", _STOPPED, *words]
        commands = {
            "a whole run": [sys.executable, "-m", "sanac", *words, str(outs["whole"])],
            "stopped at its end": [*stop, str(outs["proven"])],
            "continued": [sys.executable, "-m", "sanac", *words, str(outs["proven"])],
            "stopped at its end, too": [*stop, str(outs["trusted"])],
            "continued by size alone": [sys.executable, "-c", _TRUSTING, *words, str(outs["trusted"])],
        }
        done: list[int] = []

        def clean() -> None:
            done.append(1)
            if len(done) % len(commands) == 1:
                remove(outs["whole"])
            elif len(done) % len(commands) == 0:
                remove(*outs.values(), *(Path(f"{out}.partial") for out in outs.values()))
                shutil.rmtree(folder / "ws", ignore_errors=True)

        runs = interleaved(commands, rounds, clean)
        report("resume", f"{bytes_text(size)} of weights", runs, ("a whole run",), warning)


if __name__ == "__main__":
    main()
