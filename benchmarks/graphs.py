"""Graphs of quantized weights in onnxruntime, beside the simulator in torch: errors, pictures, bytes, by scheme.

python benchmarks/graphs.py [--part six] [--show]     (ten minutes; benchmarks/six-blocks, docs/results/graphs.json)

Its second table is of the same in bf16, and of twenty untrained blocks of width 1152 in fp32.

`sanac quantize`, `sanac export --in-place --precision fp32` and what its verification found. What weights are
multiplied by is rounded, and a last bit can tip a number over: errors are of a simulator that was told how the graph
rounded, and of one that rounds by itself. Beside the latter how far that one is from itself when what it is given is
moved by a millionth: what no graph can be expected to stay below.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from measure import machine
from quantize import small
from synthetic import SANA_4_8B, write_transformer

import sanac
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.safetensors_header import read_header
from sanac.core.units import bytes_text
from sanac.judge.image_metrics import psnr
from sanac.verify.end_to_end import PROMPTS
from sanac.verify.parity import cases, relative_error
from sanac.verify.parity_backends import TorchBackend

RESULT = Path("docs/results/graphs.json")
SCHEMES = ("int8-wo", "int4-wo", "fp8-wo", "int8", "fp8", "int8-dynamic", "fp8-dynamic")
DEEP = ("int8-dynamic", "fp8-dynamic")
ERROR, PSNR = 2e-3, 30.0  # targets
MOVED, DRAWS, STEPS, SIDE = 1e-6, 8, 12, 512


def run(*words: str) -> str:
    """sanac, which must succeed but for a verdict of no."""
    done = subprocess.run([sys.executable, "-m", "sanac", *words], capture_output=True, text=True, check=False)
    if done.returncode not in {0, 5}:
        raise SystemExit(f"sanac {' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def apart_from_itself(folder: Path) -> list[float]:
    """Decibels between the simulator's pictures of noises, and of the same moved by a millionth."""
    pipeline = sanac.load_pipeline(str(folder)).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    drawn = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    noises = torch.stack([torch.randn(16, 8, 8, generator=generator) for generator in drawn])
    moved = noises * (1 + MOVED * torch.randn(noises.shape, generator=torch.Generator().manual_seed(9)))
    settings = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS, "use_resolution_binning": False}
    pictures = [pipeline(list(PROMPTS), latents=n, output_type="np", **settings).images for n in (noises, moved)]
    one, other = ((255 * picture).round().astype("uint8") for picture in pictures)
    return sorted(psnr(left, right) for left, right in zip(one, other, strict=True))


def velocities_apart(folder: Path) -> float:
    """The largest relative error between the simulator's velocity of a case, and of the same moved by a millionth."""
    model, asked = open_model(locate(str(folder))), cases()
    side, given = TorchBackend(model), [case.inputs(model.architecture) for case in asked]
    wanted, found = side.run(given), []
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        moved = [
            {
                name: value * (1 + MOVED * torch.randn(value.shape, generator=generator))
                if value.is_floating_point()
                else value
                for name, value in inputs.items()
            }
            for inputs in given
        ]
        found += [relative_error(one.velocity, own.velocity) for one, own in zip(side.run(moved), wanted, strict=True)]
    return max(found)


def errors(found: dict[str, Any]) -> dict[str, float]:
    """Of a verification: told how the graph rounded, and each rounding by itself."""
    given = found["parity"]["cases"]
    alone = [case.get("alone", case["error"]) for case in given]
    return {
        "alike": max(case["error"] for case in given),
        "edge": max(_seen(case, "edge") for case in given),
        "steps": max(_seen(case, "steps") for case in given),
        "median": statistics.median(alone),
        "worst": max(alone),
    }


def _seen(case: dict[str, Any], name: str) -> float:
    """Of a case; JSON has no number for infinity."""
    found = case.get(name, 0.0)
    return math.inf if found is None else found


def deep(scheme: str, folder: Path) -> dict[str, float]:
    """As many blocks as the real 1.6B has, as wide as the real 0.6B's."""
    model, out, ws = folder / "deep", str(folder / f"deep-{scheme}"), ("--workspace", str(folder / "ws"))
    if not model.exists():
        write_transformer(model, replace(SANA_4_8B, blocks=20, width=1152, cross_width=1152, hidden=2880))
    run("quantize", str(model), "--scheme", scheme, "--smoothing", "none", "--out", out, *ws)
    run("export", out, "--in-place", "--precision", "fp32", "--no-verify", *ws)
    return errors(json.loads(run("verify", out, "--against", out, "--json")))


def measured(scheme: str, model: Path, folder: Path) -> dict[str, Any]:
    """One scheme."""
    out, few = folder / scheme, ("--num-prompts", "16") if not scheme.endswith("-wo") else ()
    ws = ("--workspace", str(folder / "ws"))
    run("quantize", str(model), "--scheme", scheme, "--out", str(out), *few, *ws)
    export, half = ("--component", "transformer", "--json", *ws, "--precision"), str(folder / f"{scheme}-bf16")
    found = json.loads(run("export", str(out), "--in-place", *export, "fp32"))["verify"]
    bf16 = json.loads(run("export", str(out), "--out", half, *export, "bf16"))["verify"]
    pictures = next(figure["value"] for figure in found["figures"] if "PSNR" in figure["name"])
    laid = read_header(out / "transformer" / "graph.safetensors").tensors.values()
    return {
        **errors(found),
        "bf16": errors(bf16),
        "moved": velocities_apart(out),
        "pictures": pictures,
        "itself": apart_from_itself(out),
        "kinds": sorted({ref.dtype for ref in laid if not ref.name.endswith("scale")}),
        "beside": sum(ref.size for ref in laid),
        "graph": (out / "transformer" / "model.onnx").stat().st_size,
    }


def table(found: dict[str, Any]) -> None:
    """A row per scheme, and the targets."""
    click.echo(f"{found['machine']['six']}; six blocks of sanac:tiny, in fp32\n")
    titles = (
        "scheme",
        "error",
        "each rounding by itself: median",
        "worst",
        "torch from itself, worst",
        "pictures",
        "torch from itself",
        "values beside the graph",
        "graph",
        "",
    )
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for scheme, cell in found["schemes"].items():
        met = "met" if cell["alike"] <= ERROR and cell["pictures"] >= PSNR else "**not met**"
        itself = f"{cell['itself'][0]:.0f} to {cell['itself'][-1]:.0f} dB"
        beside = f"{bytes_text(cell['beside'])} ({', '.join(cell['kinds'])})"
        numbers = " | ".join(f"{cell[name]:.1e}" for name in ("alike", "median", "worst", "moved"))
        graph = bytes_text(cell["graph"])
        click.echo(f"| {scheme} | {numbers} | {cell['pictures']:.0f} dB | {itself} | {beside} | {graph} | {met} |")


def others(found: dict[str, Any]) -> None:
    """A row per graph that rounds: in bf16, and of a deep model."""
    rows = {
        f"six blocks, {scheme}, bf16": cell["bf16"] for scheme, cell in found["schemes"].items() if scheme[-3:] != "-wo"
    }
    click.echo(f"\n20 blocks: {found['machine']['deep']}")
    rows |= {f"20 blocks of width 1152, {scheme}, fp32": cell for scheme, cell in found["deep"].items()}
    titles = ("graph", "error", "rounded otherwise, farthest", "in steps", "each rounding by itself: median", "worst")
    click.echo(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for name, cell in rows.items():
        numbers = " | ".join(f"{cell[part]:.1e}" for part in ("alike", "edge", "steps", "median", "worst"))
        click.echo(f"| {name} | {numbers} |")


def six_blocks(folder: Path) -> dict[str, Any]:
    """Every scheme, of the six blocks."""
    found, model = {}, small(folder)
    for scheme in SCHEMES:
        click.echo(f"{scheme} ...", err=True)
        found[scheme] = measured(scheme, model, folder)
    return found


@click.command()
@click.option("--part", type=click.Choice(["six", "deep", "all"]), default="all", help="The other part stays.")
@click.option("--show", is_flag=True, help="Compute nothing: print what is there.")
def main(*, part: str, show: bool) -> None:
    """Write docs/results/graphs.json, print the table."""
    torch.set_num_threads(1)
    found = json.loads(RESULT.read_text()) if show or part != "all" else {"machine": {}}
    if not show:
        with tempfile.TemporaryDirectory(prefix="sanac-bench-") as folder:
            if part != "deep":
                found["schemes"] = six_blocks(Path(folder))
                found["machine"]["six"] = machine()
            if part != "six":
                found["deep"] = {scheme: deep(scheme, Path(folder)) for scheme in DEEP}
                found["machine"]["deep"] = machine()
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
    table(found)
    others(found)


if __name__ == "__main__":
    main()
