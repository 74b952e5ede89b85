"""How fast and how small: converting a synthetic 4.8B checkpoint to NVlabs' .pth and back, beside `cp`.

python benchmarks/convert.py [--work DIR] [--rounds 3]
"""

import subprocess
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved, refuse_if_busy, remove, report, workplace
from benchmarks.synthetic import write_transformer
from sanac.core.units import bytes_text


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 38 GB go.  [default: a temporary folder]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
def main(work: Path | None, rounds: int) -> None:
    """Write the checkpoint, measure, check that there and back is bit-exact, print, delete everything."""
    with workplace(work) as folder:
        _benchmark(folder, rounds)


def _benchmark(folder: Path, rounds: int) -> None:
    warning = refuse_if_busy()
    source, there, out, copy = (folder / name for name in ("source", "there", "out", "copy"))
    click.echo(f"writing a synthetic 4.8B checkpoint to {source} ...", err=True)
    size = write_transformer(source, shards=1)
    convert = [sys.executable, "-m", "sanac", "convert", "--workspace", str(folder / "ws")]
    subprocess.run([*convert, str(source), "--to", "nvlabs", "--out", str(there)], check=True, capture_output=True)
    weights = source / "diffusion_pytorch_model.safetensors"
    _check_torch(there / "model.pth", weights)
    back = [*convert, str(there), "--to", "diffusers", "--out", str(out)]
    subprocess.run([*back, "--shard-size", "20GB"], check=True, capture_output=True)
    _check_tensors(weights, out / "transformer" / weights.name)
    remove(out)
    commands = {
        "cp": ["cp", str(weights), str(copy)],
        "cp, flushed": ["sh", "-c", f"cp {weights} {copy} && sync {copy}"],
        "diffusers to .pth": [*convert, str(source), "--to", "nvlabs", "--out", str(out)],
        ".pth to diffusers": back,
    }
    runs = interleaved(commands, rounds, lambda: remove(copy, out))
    report("convert", f"{bytes_text(size)}, there and back bit-exact", runs, ("cp", "cp, flushed"), warning)


def _check_torch(pth: Path, source: Path) -> None:
    """Torch itself maps the 9.4 GB file, and finds in its last block what the source has there."""
    import safetensors
    import torch

    state = torch.load(pth, weights_only=True, mmap=True)["state_dict"]  # noqa: TID251
    with safetensors.safe_open(source, "pt") as file:
        parts = [file.get_tensor(f"transformer_blocks.59.attn1.to_{letter}.weight") for letter in "qkv"]
    assert torch.equal(state["blocks.59.attn.qkv.weight"], torch.cat(parts))


def _check_tensors(before: Path, after: Path) -> None:
    """Every tensor has the same bytes, whatever their order in the file."""
    from sanac.core.file_copy import digest_file
    from sanac.core.safetensors_header import read_header

    left, right = read_header(before).tensors, read_header(after).tensors
    assert left.keys() == right.keys()
    for name, ref in left.items():
        other = right[name]
        assert (ref.dtype, ref.shape) == (other.dtype, other.shape), name
        assert digest_file(ref.path, ref.start, ref.size) == digest_file(other.path, other.start, other.size), name


if __name__ == "__main__":
    main()
