"""The optimizers side by side: bytes of state, time of a step, loss of a run, and the memory that a run takes.

python benchmarks/optimizers.py [--part state --part time --part loss --part memory] [--rounds 7]

Writes docs/results/optimizers.json and docs/pictures/optimizers.png, part by part.
"""

import dataclasses
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine, refuse_if_busy, remove, watched, workplace
from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core import json_files
from sanac.core.artifact.cached_step import run_step
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.units import bytes_text
from sanac.finetune.batches import BatchSampler
from sanac.finetune.distillation import RecoveryTask
from sanac.finetune.encode_dataset import EncodingJob
from sanac.finetune.encoded_dataset import open_prepared
from sanac.finetune.image_text_data import open_source
from sanac.nn.pipeline_config import latent_side
from sanac.tiny.build import transformer
from sanac.train.came import new_state
from sanac.train.loop import Settings, train
from sanac.train.memory import Load, estimate_memory
from sanac.train.optimizers import OPTIMIZERS, make_optimizer
from sanac.train.schedule import Schedule

BYTES, SLOWER, APART, OFF = 1.02, 1.5, 0.02, 0.15  # targets
DEPTHS = (4, 8, 16)  # of the models whose memory is measured, of SANA-0.6B's width


def state(_: Path, __: int) -> dict[str, Any]:
    """Bytes per parameter on all of SANA-4.8B's shapes, counted from the tensors that an optimizer makes."""
    shapes = list(SANA_4_8B.tensors().values())
    total = sum(math.prod(shape) for shape in shapes)
    found = {}
    for name, bits in (("came8bit", 8), ("came", 32)):
        states = (new_state(nn.Parameter(torch.empty(shape, device="meta")), bits) for shape in shapes)
        found[name] = sum(v.numel() * v.element_size() for held in states for v in held.values()) / total
    found["adamw"] = sum(8 * math.prod(shape) + 4 for shape in shapes) / total
    found["adamw8bit"] = sum(map(_torchao, map(math.prod, shapes))) / total
    return {"parameters": total, "bytes": found}


def _torchao(count: int) -> int:
    """AdamW8bit quantizes what has 4,096 elements or more in whole blocks of 256; a scale each, a table each."""
    return 2 * (count + 4 * count // 256 + 1024) + 4 if count >= 4096 and count % 256 == 0 else 8 * count + 4


def timed(_: Path, rounds: int) -> dict[str, Any]:
    """Seconds of a step over one block of SANA-4.8B, round after round."""
    optimizers = {}
    for name in OPTIMIZERS:
        weights = [nn.Parameter(torch.randn(shape) * 0.02) for shape in SANA_4_8B.block_tensors().values()]
        for weight in weights:
            weight.grad = torch.randn_like(weight) * 0.01
        optimizers[name] = make_optimizer(name, weights, (0.9, 0.99), 0.0)
    group = make_optimizer("adamw", [nn.Parameter(w.detach().clone()) for w in weights], (0.9, 0.99), 0.0)
    group.param_groups[0]["foreach"] = True
    for mine, theirs in zip(group.param_groups[0]["params"], weights, strict=True):
        mine.grad = theirs.grad
    optimizers["adamw, foreach"] = group
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for number in range(rounds + 1):
        for name, optimizer in optimizers.items():
            since = time.perf_counter()
            optimizer.step()
            times[name] += [time.perf_counter() - since] if number else []  # the first one makes the state
    base = times["adamw, foreach"]
    ratios = {
        name: statistics.median(one / other for one, other in zip(found, base, strict=True))
        for name, found in times.items()
    }
    return {"seconds": times, "ratio": ratios, "threads": torch.get_num_threads()}


def losses(work: Path, _: int) -> dict[str, Any]:
    """A thousand steps of six new blocks of sanac:tiny's width on its own latents, with each optimizer."""
    tiny = open_model(locate("sanac:tiny"))
    source = open_source("shapes", scene_count=4096, seed=0)
    job = EncodingJob(tiny, source, latent_side(tiny), work, torch.device("cpu"))
    folder = run_step(job, NULL_REPORTER)
    data, curves = open_prepared(folder, tiny.architecture), {}
    for name, rate in (("came", 1e-3), ("came8bit", 1e-3), ("adamw", 2e-3), ("adamw8bit", 2e-3)):
        torch.manual_seed(0)
        task = RecoveryTask(transformer(6).train(), data, BatchSampler(32), {"flow": 1.0})
        settings = Settings(Schedule(rate, 1000, warmup=100), optimizer=name, log_every=20)
        train(task, settings, work / name, NULL_REPORTER)
        lines = [json.loads(line) for line in (work / name / "metrics.jsonl").read_text().splitlines()]
        curves[name] = [[line["step"], line["loss"]] for line in lines]
        click.echo(f"{name}: loss {curves[name][-1][1]:.4f}", err=True)
    apart = max(abs(a / b - 1) for (_, a), (_, b) in zip(curves["came8bit"], curves["came"], strict=True))
    return {"curves": curves, "apart": apart}


def memory(work: Path, _: int) -> dict[str, Any]:
    """`sanac finetune` on synthetic checkpoints of three depths: what it said it would take, and what it took."""
    width, found = 1152, []
    sizes = {"width": width, "hidden": width * 5 // 2, "cross_width": width}
    data = work / "data"
    data.mkdir()
    mask = torch.ones(8, 100, dtype=torch.int64)
    one = {"empty": torch.randn(1, 1, SANA_4_8B.caption_channels), "empty_mask": torch.ones(1, 1, dtype=torch.int64)}
    many = {"latents": torch.randn(8, 32, 16, 16), "embeddings": torch.randn(8, 100, SANA_4_8B.caption_channels)}
    save_file({**many, "mask": mask, **one}, data / "part.safetensors")
    for depth in DEPTHS:
        folder = work / f"model-{depth}"
        write_transformer(folder, dataclasses.replace(SANA_4_8B, blocks=depth, **sizes))
        config = json_files.read_object(folder / "config.json")
        (folder / "config.json").write_bytes(json_files.pretty(config | {"sample_size": 16}))
        command = [sys.executable, "-m", "sanac", "finetune", str(folder), "--data", str(data), "--loss", "flow"]
        how = ["--steps", "2", "--batch", "4", "--device", "cpu", "--out", str(work / "out"), "--json"]
        run, printed = watched([*command, *how, "--workspace", str(work / "ws")])
        said = json.loads(printed)["memory"]
        found.append({"blocks": depth, "said": said, **dataclasses.asdict(run), "off": said / run.anonymous - 1})
        remove(folder, work / "out", work / "ws")
    return {"width": width, "batch": 4, "tokens": 256, "runs": found}


def recipes(_: Path, __: int) -> dict[str, Any]:
    """What training SANA-1.5 at 1024 pixels would take, by depth: counted as `sanac finetune` counts it."""
    plain = Load(4, 32, 32, 300, checkpointing=True)
    ways = {
        "--ema 0 --checkpointing, batches of 4": (plain, False),
        "--checkpointing, batches of 4": (plain, True),
        "--lora 16 --checkpointing, batches of 4": (dataclasses.replace(plain, lora=16), True),
        "--ema 0, batches of 4": (dataclasses.replace(plain, checkpointing=False), False),
    }
    found = {}
    for blocks in (20, 30, 60):
        config = dataclasses.replace(SANA_4_8B, blocks=blocks).config()
        for way, (load, average) in ways.items():
            said = estimate_memory(config, load, "came8bit", average=average)
            found[f"{blocks} blocks, {way}"] = dataclasses.asdict(said) | {"total": said.total}
    return {"bytes": found}


PARTS = {"state": state, "time": timed, "loss": losses, "memory": memory, "recipes": recipes}


def chart(found: dict[str, Any], path: Path) -> None:
    """The losses."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for name, points in found["curves"].items():
        style = "--" if name.endswith("8bit") else "-"
        axes.plot([step for step, _ in points], [loss for _, loss in points], style, label=name)
    axes.set(xlabel="step", ylabel="loss", ylim=(0.4, 1.3))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def table(found: dict[str, Any]) -> None:
    """Each target with its figure and its verdict."""
    click.echo("| | found | at most | |\n|---|---|---|---|")

    def row(what: str, value: str, limit: str, *, met: bool) -> None:
        click.echo(f"| {what} | {value} | {limit} | {'met' if met else '**not met**'} |")

    if "state" in found:
        size = found["state"]["bytes"]["came8bit"]
        row("CAME-8bit's state, bytes per parameter of 4.8B", f"{size:.4f}", f"{BYTES}", met=size <= BYTES)
    if "time" in found:
        ratio = found["time"]["ratio"]["came8bit"]
        row("step of CAME-8bit / AdamW (foreach), CPU", f"{ratio:.2f}", f"{SLOWER}", met=ratio <= SLOWER)
    if "loss" in found:
        apart = found["loss"]["apart"]
        row("loss of CAME-8bit from CAME's, 1,000 steps", f"{apart:.2%}", f"{APART:.0%}", met=apart <= APART)
    for run in found.get("memory", {}).get("runs", []):
        what = f"memory said / taken, {run['blocks']} blocks"
        row(what, f"{run['off']:+.1%}", f"±{OFF:.0%}", met=abs(run["off"]) <= OFF)
    if "recipes" in found:
        click.echo(
            "\n| SANA-1.5, 1024 pixels, CAME-8bit | takes | weights | gradients | activations |\n|---|---|---|---|---|"
        )
        for way, said in found["recipes"]["bytes"].items():
            sizes = " | ".join(bytes_text(said[part]) for part in ("total", "weights", "gradients", "activations"))
            click.echo(f"| {way} | {sizes} |")
    click.echo("")
    for part, values in (("bytes per parameter", "state/bytes"), ("time of a step / AdamW (foreach)", "time/ratio")):
        group, _, key = values.partition("/")
        if group in found:
            click.echo(f"{part}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[group][key].items()))


@click.command()
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), default=tuple(PARTS))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
@click.option("--work", type=click.Path(path_type=Path), help="Where checkpoints go.  [default: a temporary folder]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(parts: tuple[str, ...], rounds: int, work: Path | None, out: Path) -> None:
    """Write OUT/results/optimizers.json and OUT/pictures/optimizers.png; print the table."""
    warning = refuse_if_busy()
    if warning:
        click.echo(f"warning: {warning}", err=True)
    file = out / "results" / "optimizers.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    for part in parts:
        with workplace(work) as folder:
            found[part] = PARTS[part](folder, rounds) | {"machine": machine(), "warning": warning}
        file.write_text(json.dumps(found, indent=1) + "\n")
    if "loss" in found:
        chart(found["loss"], out / "pictures" / "optimizers.png")
    table(found)


if __name__ == "__main__":
    main()
