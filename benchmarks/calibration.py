"""What calibrating a synthetic 4.8B checkpoint takes, and whether a run that was killed goes on to the same scales.

python benchmarks/calibration.py [--work DIR]     (writes 21 GB, deletes them; an hour and a half of one thread)

`sanac quantize --scheme int8` at latents of 8 x 8 and eight prompts, once in one go, and once killed with -9 behind a
block drawn at random and started again. `--blocks 6 --width 1152` is a small one.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.analyze import SIDE, captions, synthetic
from benchmarks.measure import machine, measure, workplace
from sanac.core.file_copy import digest_file
from sanac.core.units import bytes_text
from sanac.nn.calibration.tensor_files import write_captions

RESULT = Path("docs/results/calibration.json")
MEMORY = 3e9  # target


def killed(command: list[str], workspace: Path, after: int) -> int:
    """Start a run and kill it as soon as so many blocks are fitted; how many were there in the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        while len(blocks_in(workspace)) < after:
            if run.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {run.returncode} before it was killed")
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    return len(blocks_in(workspace))


def blocks_in(workspace: Path) -> list[Path]:
    """What a fit has left so far."""
    return sorted(workspace.glob("fit-*/block-*.safetensors"))


def digests(out: Path) -> dict[str, str]:
    """Of what was written: quant.json, which holds static scales, and the files of values, scales and smoothing."""
    return {path.name: digest_file(path) for path in sorted(out.rglob("quant*")) if path.is_file()}


def calibrated(folder: Path, blocks: int, width: int, prompts: int, timesteps: int) -> dict[str, Any]:
    """Both runs: what the first took, and whether the second left the same."""
    click.echo(f"writing a synthetic checkpoint: {blocks} blocks of width {width} ...", err=True)
    model, given = synthetic(folder / "model", blocks, width), folder / "captions.safetensors"
    write_captions(captions(prompts), given)
    base = [sys.executable, "-m", "sanac", "quantize", str(folder / "model"), "--scheme", "int8", "--device", "cpu"]
    base += ["--embeddings", str(given), "--timesteps", str(timesteps), "--yes"]

    def command(name: str) -> list[str]:
        return [*base, "--workspace", str(folder / name), "--out", str(folder / name / "out")]

    click.echo("in one go ...", err=True)
    run = measure(command("whole"))
    whole = digests(folder / "whole" / "out")
    after = random.randrange(1, blocks)
    click.echo(f"killed behind {after} blocks ...", err=True)
    left = killed(command("killed"), folder / "killed", after)
    click.echo("started again ...", err=True)
    again = measure(command("killed"))
    return {
        "blocks": blocks,
        "width": width,
        "side": SIDE,
        "prompts": prompts,
        "timesteps": timesteps,
        "checkpoint": model.weights.size,
        "whole": dataclasses.asdict(run),
        "killed behind": left,
        "again": dataclasses.asdict(again),
        "files": len(whole),
        "same": whole == digests(folder / "killed" / "out"),
    }


def table(found: dict[str, Any]) -> None:
    """Each target with its figure and its verdict."""
    size = f"{found['blocks']} blocks of width {found['width']} ({bytes_text(found['checkpoint'])})"
    peak = max(found[run]["resident"] for run in ("whole", "again"))
    click.echo(f"{found['machine']}; {size}, {found['prompts']} prompts, latents of {SIDE} x {SIDE}\n")
    click.echo("| | found | target | |\n|---|---|---|---|")
    met = "met" if peak < MEMORY else "**not met**"
    click.echo(f"| peak, resident | {bytes_text(peak)} | under {bytes_text(MEMORY)} | {met} |")
    same = "met" if found["same"] else "**not met**"
    what = f"killed with -9 behind {found['killed behind']} blocks, started again"
    outcome = f"{found['files']} files, {'each' if found['same'] else 'not each'} the same byte for byte"
    click.echo(f"| {what} | {outcome} | the same scales | {same} |")
    click.echo(f"| time in one go | {found['whole']['seconds'] / 60:.0f} min | | |")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 21 GB go.  [default: a temporary folder]")
@click.option("--blocks", default=60, show_default=True, type=click.IntRange(5))
@click.option("--width", default=2240, show_default=True, type=click.Choice([1152, 2240]))
@click.option("--prompts", default=8, show_default=True, type=click.IntRange(1))
@click.option("--timesteps", default=1, show_default=True, type=click.IntRange(1), help="Of the sampler.")
@click.option("--show", is_flag=True, help="Compute nothing: print what is there.")
def main(work: Path | None, blocks: int, width: int, prompts: int, timesteps: int, *, show: bool) -> None:
    """Write docs/results/calibration.json, print the table, delete the checkpoint."""
    if not show:
        with workplace(work) as folder:
            found = calibrated(folder, blocks, width, prompts, timesteps)
        RESULT.write_text(json.dumps({"machine": machine(), **found}, indent=2) + "\n")
    table(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
