"""How fast and how small: grow on a synthetic 1.6B checkpoint, 20 blocks to 60, beside `cp` of the result.

python benchmarks/grow.py [--work DIR] [--rounds 3]
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved, refuse_if_busy, remove, report, workplace
from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core.units import bytes_text

_GROW = [sys.executable, "-m", "sanac", "grow"]


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 22 GB go.  [default: a temporary folder]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
def main(work: Path | None, rounds: int) -> None:
    """Write the checkpoint, measure, print a table, write docs/results/grow.json, delete everything."""
    with workplace(work) as folder:
        _benchmark(folder, rounds)


def _benchmark(folder: Path, rounds: int) -> None:
    warning = refuse_if_busy()
    source, out, copy = folder / "source", folder / "out", folder / "copy"
    click.echo(f"writing a synthetic 1.6B checkpoint to {source} ...", err=True)
    size = write_transformer(source, dataclasses.replace(SANA_4_8B, blocks=20), shards=1)
    subprocess.run(["sync"], check=True)
    grow = [*_GROW, str(source), "--target-blocks", "60", "--workspace", str(folder / "ws"), "--out"]
    reference = folder / "reference"
    subprocess.run([*grow, str(reference)], check=True, capture_output=True)
    weights = reference / "transformer"
    commands = {
        "cp": ["cp", "-r", str(weights), str(copy)],
        "cp, flushed": ["sh", "-c", f"cp -r {weights} {copy} && sync {copy}/*"],
        "sanac grow": [*grow, str(out)],
        "sanac grow --init cyclic": [*grow, str(out), "--init", "cyclic"],
    }
    runs = interleaved(commands, rounds, lambda: remove(copy, out, Path(f"{out}.partial")))
    report("grow", f"{bytes_text(size)} in, 20 to 60 blocks, 42 of them new", runs, ("cp", "cp, flushed"), warning)


if __name__ == "__main__":
    main()
