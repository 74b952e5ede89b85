"""How fast and how small: inspect and prune on a synthetic 4.8B checkpoint, beside `cp` and plain diffusers.

python benchmarks/checkpoint.py [--work DIR] [--rounds 5]
"""

import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved, refuse_if_busy, remove, report, workplace
from benchmarks.synthetic import write_transformer
from sanac.core.units import bytes_text

KEEP = "0-9,50-59"
_SANAC = [sys.executable, "-m", "sanac"]
_COPY_ONLY = """
import sys
from pathlib import Path
from sanac.core.write.job import WriteOptions
from sanac.core.checkpoint.locate import locate
from sanac.core.artifact.model import open_model
from sanac.core.artifact.staging import open_stage
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.safetensors_writer import write_weights
from sanac.prune.keep_list import plan_keep
source, out, keep = sys.argv[1:]
job = plan_keep(open_model(locate(source)), keep, WriteOptions())
with open_stage(Path(out), job.key, fresh=True) as staging:
    size = job.options.shard_bytes
    write_weights(staging, "transformer", job.tensors, shard_bytes=size, reporter=NULL_REPORTER, digests=False)
"""
_PLAIN = """
import sys, torch
from sanac.nn.silence_libraries import silent

with silent():  # they warn while they load
    from diffusers import SanaTransformer2DModel
source, out = sys.argv[1:]
model = SanaTransformer2DModel.from_pretrained(source, torch_dtype=torch.bfloat16)
kept = [*range(10), *range(50, 60)]
model.transformer_blocks = torch.nn.ModuleList(model.transformer_blocks[i] for i in kept)
model.register_to_config(num_layers=len(kept))
model.save_pretrained(out)
"""


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where the 9.4 GB go.  [default: a temporary folder]")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
def main(work: Path | None, rounds: int) -> None:
    """Write the checkpoint, measure, print a table, write docs/results/checkpoint.json, delete everything."""
    with workplace(work) as folder:
        _benchmark(folder, rounds)


def _benchmark(folder: Path, rounds: int) -> None:
    warning = refuse_if_busy()
    source, out, copy = folder / "source", folder / "out", folder / "copy"
    click.echo(f"writing a synthetic 4.8B checkpoint to {source} ...", err=True)
    size = write_transformer(source)
    subprocess.run(["sync"], check=True)
    prune = [*_SANAC, "prune", str(source), "--keep", KEEP, "--workspace", str(folder / "ws"), "--out"]
    reference = folder / "reference"
    subprocess.run([*prune, str(reference)], check=True, capture_output=True)
    weights = str(reference / "transformer" / "diffusion_pytorch_model.safetensors")
    commands = {
        "sanac inspect": [*_SANAC, "inspect", str(source)],
        "cp": ["cp", weights, str(copy)],
        "cp, flushed": ["sh", "-c", f"cp {weights} {copy} && sync {copy}"],
        "sanac prune": [*prune, str(out)],
        "sanac, without digests": [sys.executable, "-c", _COPY_ONLY, str(source), str(out), KEEP],
        "diffusers: load, delete, save": [sys.executable, "-c", _PLAIN, str(source), str(out)],
    }
    runs = interleaved(commands, rounds, lambda: remove(copy, out, Path(f"{out}.partial")))
    report("checkpoint", f"{bytes_text(size)} in, 20 of 60 blocks out", runs, ("cp", "cp, flushed"), warning)


if __name__ == "__main__":
    main()
