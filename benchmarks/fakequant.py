"""What a hundred steps of `--fake-quant` make of int4's error, one setting at a time, and from where gptq left off.

python benchmarks/fakequant.py [--work DIR]    (a quarter of an hour; finished rows are kept)

The model is that of benchmarks/six-blocks; errors are of the guided velocity, on tuning prompts.
"""

import json
import shutil
import sys
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine
from benchmarks.quantize import FAKE, Bench, small
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.nn.quant.weights import unpack
from sanac.nn.streaming import map_quantized

RESULT = Path("docs/results/fakequant.json")
SEARCH, FIRST = "quantize {} --scheme int4-wo", "search"
ROWS: dict[str, tuple[str, ...]] = {
    "nearest": (f"{SEARCH} --rounding nearest",),
    FIRST: (SEARCH,),
    "gptq": (f"{SEARCH} --rounding gptq",),
    "trained": (FAKE, SEARCH),
    "trained, rate 5e-5": (f"{FAKE} --learning-rate 5e-5", SEARCH),
    "trained, rate 2e-4": (f"{FAKE} --learning-rate 2e-4", SEARCH),
    "trained, batch 256": (f"{FAKE} --batch 256", SEARCH),
    "trained, batch 256, rate 2e-4": (f"{FAKE} --batch 256 --learning-rate 2e-4", SEARCH),
    "trained, half without captions": (f"{FAKE} --caption-dropout 0.5", SEARCH),
    "trained, average 0.95": (f"{FAKE} --ema 0.95", SEARCH),
    "trained, no average": (f"{FAKE} --ema 0", SEARCH),
    "trained, no average, batch 256": (f"{FAKE} --ema 0 --batch 256", SEARCH),
    "trained, no average, rate 2e-4": (f"{FAKE} --ema 0 --learning-rate 2e-4", SEARCH),
    "trained, no average, rate 4e-4": (f"{FAKE} --ema 0 --learning-rate 4e-4", SEARCH),
    "trained, AdamW": (f"{FAKE} --optimizer adamw", SEARCH),
    "trained, data-free": (FAKE.replace("--data shapes", "--data-free"), SEARCH),
}
FROM_GPTQ = "trained, from gptq's values"
MARGIN = 0.1  # of a step: how far inside its cell a weight is put


def within_cells(source: Path, quantized: Path, out: Path) -> None:
    """SOURCE with each weight moved just so far that it rounds to the value that it has in QUANTIZED."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("sanac.json", "origin.json", "measurements"))
    file = out / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors: dict[str, Tensor] = load_file(file)
    for name, parts in open_model(locate(str(quantized))).weights.parts.items():
        values, how = map_quantized(parts), parts.spec
        whole = unpack(values.stored, how.columns).float()
        step = values.scale.float().flatten(1).repeat_interleave(how.width, 1)[:, : how.columns]
        low, high = (whole - 0.5 + MARGIN) * step, (whole + 0.5 - MARGIN) * step
        low, high = low.where(whole > -8, -torch.inf), high.where(whole < 7, torch.inf)  # beyond the last it is cut off
        weight = tensors[name]
        tensors[name] = weight.flatten(1).float().clamp(low, high).to(weight.dtype).view(weight.shape)
    save_file(tensors, file)


def from_gptq(bench: Bench) -> float:
    """Trained from weights that round to gptq's values, towards the model as it was."""
    source, fitted, start = Path(bench.source), bench.work / "fitted", bench.work / "within"
    if not fitted.is_dir():
        shutil.copytree(bench.made(ROWS["gptq"]).located.path, fitted)
    within_cells(source, fitted, start)
    model = Bench(start, bench.work, 0).made((f"{FAKE} --teacher {source}", SEARCH))
    return bench.velocity_error(model)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/fakequant"), show_default=True)
def main(work: Path) -> None:
    """Compute what is missing, print all."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(small(work), work, 0)
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {"machine": machine(), "errors": {}}
    for name in (*ROWS, FROM_GPTQ):
        if name not in found["errors"]:
            click.echo(name, err=True)
            made = from_gptq(bench) if name == FROM_GPTQ else bench.velocity_error(bench.made(ROWS[name]))
            found["errors"][name] = made
            RESULT.write_text(json.dumps(found, indent=2) + "\n")
    lost = found["errors"][FIRST]
    click.echo(f"{found['machine']}\n\n| int4-wo | velocity error | of what searched scales lose |\n|---|---|---|")
    for name, error in found["errors"].items():
        regained = "" if name == FIRST else f"{1 - error / lost:+.0%} regained"
        click.echo(f"| {name} | {error:.4f} | {regained} |")


if __name__ == "__main__":
    main()
