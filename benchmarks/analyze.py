"""What `sanac analyze` costs: its memory on a synthetic 4.8B checkpoint, streaming beside resident weights, by depth.

And whether a search and a repair keep to the memory that they are given.

python benchmarks/analyze.py [--part memory --part beside --part depth --part limit] [--work DIR] [--rounds 5]

Each part is kept in docs/results/analyze.json when it is done. `--blocks 4 --width 1152 --prompts 8` is a small one.
"""

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine, measure, refuse_if_busy, remove, workplace
from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core import json_files
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.units import bytes_text
from sanac.nn.calibration.sampling import SamplerSettings, sample
from sanac.nn.calibration.tensor_files import write_captions
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.pipeline_config import sampler, scheduler_of
from sanac.nn.streaming import Blocks

SIDE = 8  # of the latents
TOKENS = 300  # of a caption, as the pipeline pads it
SMALL = 1152  # width of the models that fit into memory: SANA-0.6B's
DEPTHS = (2, 4, 6, 8, 12, 16)
PARTS = ("memory", "beside", "depth", "limit")
LIMITS, BESIDE = {"search": 600_000_000, "repair": 1_000_000_000}, 350_000_000  # Python and torch come on top
MEMORY, SLOWER, BENT = 2.5e9, 1.15, 0.1  # targets: bytes, times, share of a straight line


def synthetic(folder: Path, blocks: int, width: int, side: int = SIDE) -> Model:
    """A checkpoint of SANA's shape, with latents of so many rows."""
    sizes = {"blocks": blocks, "width": width, "hidden": width * 5 // 2, "cross_width": width}
    write_transformer(folder, dataclasses.replace(SANA_4_8B, **sizes))
    config = json_files.read_object(folder / "config.json")
    (folder / "config.json").write_bytes(json_files.pretty(config | {"sample_size": side}))
    return open_model(locate(str(folder)))


def captions(prompts: int) -> EncodedPrompts:
    """Made-up embeddings in the text encoder's dtype."""
    generator, width = torch.Generator().manual_seed(0), SANA_4_8B.caption_channels
    made = torch.randn(prompts, TOKENS, width, generator=generator).to(torch.bfloat16)
    one = torch.ones(1, 1, dtype=torch.int64)
    return EncodedPrompts(made, torch.ones(prompts, TOKENS, dtype=torch.int64), made[:1, :1].clone(), one)


def peak(folder: Path, blocks: int, width: int, prompts: int) -> dict[str, Any]:
    """One step of the sampler as a process of its own: its highest anonymous memory."""
    click.echo(f"writing a synthetic checkpoint: {blocks} blocks of width {width} ...", err=True)
    model, given = synthetic(folder / "model", blocks, width), folder / "captions.safetensors"
    write_captions(captions(prompts), given)
    command = [sys.executable, "-m", "sanac", "analyze", str(folder / "model"), "--embeddings", str(given)]
    run = measure([*command, "--timesteps", "1", "--device", "cpu", "--yes", "--out", str(folder / "out")])
    size = model.weights.size
    remove(folder / "model", given, folder / "out")
    return {"blocks": blocks, "width": width, "prompts": prompts, "checkpoint": size, **dataclasses.asdict(run)}


def limited(folder: Path) -> dict[str, Any]:
    """The highest anonymous memory of a search and of a repair, each with a limit that is too small for all at once."""
    model, given = synthetic(folder / "model", 4, SMALL, side=32), folder / "captions.safetensors"
    write_captions(captions(24), given)
    base = [sys.executable, "-m", "sanac", "prune", str(folder / "model"), "--device", "cpu", "--yes"]
    base += ["--embeddings", str(given), "--workspace", str(folder / "work")]
    jobs = {
        "search": ["--target-blocks", "3", "--select", "search", "--timesteps", "2"],
        "repair": ["--keep", "0-1,3", "--compensate", "--timesteps", "1"],
    }
    found = {}
    for name, more in jobs.items():
        limit = ["--memory-limit", str(LIMITS[name]), "--out", str(folder / name)]
        found[name] = dataclasses.asdict(measure([*base, *more, *limit])) | {"limit": LIMITS[name]}
    return {"blocks": 4, "width": SMALL, "checkpoint": model.weights.size, **found}


def sweep(weights: Blocks, given: EncodedPrompts) -> float:
    """Seconds that one step of the sampler takes."""
    model = weights.model
    steps = sample(
        weights,
        sampler(scheduler_of(model)),
        given,
        SamplerSettings(1, side=SIDE),
        lambda *_: None,
        model.transformer.config,
    )
    since = time.perf_counter()
    with torch.no_grad():
        list(steps)
    return time.perf_counter() - since


def streamed(folder: Path, blocks: int, prompts: int, rounds: int) -> dict[str, Any]:
    """The same forwards with blocks read in passing and with all of them resident, round after round."""
    model, given = synthetic(folder / "model", blocks, SMALL), captions(prompts)
    kept, passing = (Blocks(model, torch.device("cpu"), torch.float32, resident=resident) for resident in (True, False))
    sweep(kept, given), sweep(passing, given)
    times = [(sweep(passing, given), sweep(kept, given)) for _ in range(rounds)]
    remove(folder / "model")
    return {
        "blocks": blocks,
        "width": SMALL,
        "prompts": prompts,
        "streamed": [one for one, _ in times],
        "resident": [other for _, other in times],
        "ratio": statistics.median(one / other for one, other in times),
        "interval": median_interval([one / other for one, other in times]),
    }


def median_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % of the medians of rounds drawn anew."""
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def by_depth(folder: Path, depths: Sequence[int], prompts: int, rounds: int) -> dict[str, Any]:
    """Median time of a streamed sweep by number of blocks, and its largest distance from a straight line."""
    given, models = captions(prompts), {depth: synthetic(folder / str(depth), depth, SMALL) for depth in depths}
    times: dict[int, list[float]] = {depth: [] for depth in depths}
    for number in range(rounds + 1):
        for depth, model in models.items():
            seconds = sweep(Blocks(model, torch.device("cpu"), torch.float32), given)
            times[depth] += [seconds] if number else []  # the first round reads from disk
    medians = [statistics.median(found) for found in times.values()]
    slope, base = np.polyfit(depths, medians, 1)
    bent = max(abs(base + slope * depth - found) / found for depth, found in zip(depths, medians, strict=True))
    remove(*(folder / str(depth) for depth in depths))
    found = {"prompts": prompts, "width": SMALL, "depths": list(depths), "seconds": medians, "all_seconds": times}
    return found | {"per_block": float(slope), "base": float(base), "bent": float(bent)}


def chart(found: dict[str, Any], path: Path) -> None:
    """Time by depth, with the line through it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    ends = [0, max(found["depths"])]
    label = f"{found['per_block']:.2f} s per block"
    axes.plot(ends, [found["base"] + found["per_block"] * end for end in ends], color="#999999", label=label)
    axes.plot(found["depths"], found["seconds"], "o", color="#4575b4", label="median")
    title = f"one sampler step, {found['prompts']} prompts, width {found['width']}"
    axes.set(xlabel="blocks", ylabel="seconds", xlim=(0, None), ylim=(0, None), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def table(found: dict[str, Any]) -> None:
    """Each target with its figure and its verdict."""
    rows = []
    if memory := found.get("memory"):
        size = f"{memory['blocks']} blocks of width {memory['width']} ({bytes_text(memory['checkpoint'])})"
        what = f"peak of {size}, {memory['prompts']} prompts, one step, {memory['seconds']:.0f} s"
        rows.append((what, bytes_text(memory["anonymous"]), bytes_text(MEMORY), memory["anonymous"] < MEMORY))
    if beside := found.get("beside"):
        low, high = beside["interval"]
        rows.append(
            ("streamed / resident", f"{beside['ratio']:.3f} [{low:.3f}, {high:.3f}]", f"{SLOWER}", high <= SLOWER)
        )
    if depth := found.get("depth"):
        rows.append(("distance from linear in blocks", f"{depth['bent']:.1%}", f"{BENT:.0%}", depth["bent"] <= BENT))
    for name in LIMITS if "limit" in found else ():
        limit, peak = found["limit"][name]["limit"], found["limit"][name]["anonymous"]
        what = f"peak of a {name} with --memory-limit {bytes_text(limit)}"
        rows.append((what, bytes_text(peak), bytes_text(limit + BESIDE), peak < limit + BESIDE))
    click.echo("| | found | at most | |\n|---|---|---|---|")
    for what, value, limit, met in rows:
        click.echo(f"| {what} | {value} | {limit} | {'met' if met else '**not met**'} |")


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS)
@click.option("--work", type=click.Path(path_type=Path), help="Where 9.4 GB go.  [default: a temporary folder]")
@click.option("--blocks", default=60, show_default=True, type=click.IntRange(1), help="Of the large checkpoint.")
@click.option("--width", default=2240, show_default=True, type=click.Choice([1152, 2240]), help="Of the large one.")
@click.option("--prompts", default=100, show_default=True, type=click.IntRange(1))
@click.option("--depths", default=",".join(map(str, DEPTHS)), show_default=True, help="Blocks of the small ones.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(
    parts: Sequence[str], work: Path | None, blocks: int, width: int, prompts: int, depths: str, rounds: int, out: Path
) -> None:
    """Write OUT/results/analyze.json and OUT/pictures/analyze-cost.png; print the table; delete the checkpoints."""
    warning, sizes = refuse_if_busy(), [int(word) for word in depths.split(",")]
    if warning:
        click.echo(f"warning: {warning}", err=True)
    few = min(prompts, 16)  # the shape of a line needs no more
    for folder in (out / "results", out / "pictures"):
        folder.mkdir(parents=True, exist_ok=True)
    file = out / "results" / "analyze.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    how = {"machine": machine(), "warning": warning, "threads": torch.get_num_threads()}
    for part in parts:
        with workplace(work) as folder:
            if part == "memory":
                figures = peak(folder, blocks, width, prompts)
            elif part == "beside":
                figures = streamed(folder, sizes[-1] // 2, prompts, rounds)
            elif part == "limit":
                figures = limited(folder)
            else:
                figures = by_depth(folder, sizes, few, rounds)
        found[part] = figures | how
        file.write_text(json.dumps(found, indent=1) + "\n")
    if "depth" in found:
        chart(found["depth"], out / "pictures" / "analyze-cost.png")
    table(found)


if __name__ == "__main__":
    main()
