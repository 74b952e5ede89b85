"""Whether growing pays: steps that a grown model takes to the loss of one from scratch, for each way of growing.

python benchmarks/growth.py build/tiny --init cyclic --init replicate      (the folder that the trainer filled)

`partial` and the control are read from what the trainer logged; the others are trained into the same folder and
continued if stopped. Writes docs/results/growth.json and docs/pictures/growth.png.
"""

import json
from pathlib import Path

import click
import matplotlib as mpl
from diffusers import SanaPipeline, SanaTransformer2DModel
from measure import machine

from sanac.core.execute import Writing, execute
from sanac.core.locate import locate
from sanac.core.model import open_model
from sanac.core.talk import SILENCE
from sanac.grow.depth import decide_growth
from sanac.tiny.data import encode_scenes
from sanac.tiny.text import Captions
from sanac.tiny.train import SCENES, Lines, Recipe, learn, settings

mpl.use("Agg")

RUNS = {"deep": "partial", "deep-cyclic": "cyclic", "deep-replicate": "replicate", "control": "from scratch"}
TARGET = 0.4  # of the steps from scratch
SMOOTH = 8  # logged means of 25 steps


def train(folder: Path, init: str) -> None:
    """The second stage of sanac:tiny from a model grown another way."""
    recipe, shallow, grown = Recipe(), folder / "shallow-model", folder / f"grown-{init}"
    job = decide_growth(open_model(locate(str(shallow))), recipe.deep, Writing(), init=init, seed=recipe.seed)
    execute(job, grown, SILENCE)
    pipeline = SanaPipeline.from_pretrained(shallow)
    words = Captions(pipeline.tokenizer, pipeline.text_encoder.requires_grad_(requires_grad=False))
    data = encode_scenes(pipeline.vae, SCENES, recipe.seed, folder / "latents.safetensors", Lines())
    transformer = SanaTransformer2DModel.from_pretrained(grown, subfolder="transformer")
    plan = settings(recipe, recipe.deep_steps, recipe.rate)
    learn(transformer, words, data, plan, folder / f"deep-{init}", Lines(), compiled=False)


def smoothed(run: Path) -> list[tuple[int, float]]:
    """What was logged, as means of so many points, each at its last step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(line["step"], line["loss"]) for line in lines]
    groups = [points[start : start + SMOOTH] for start in range(0, len(points) - SMOOTH + 1, SMOOTH)]
    return [(group[-1][0], sum(loss for _, loss in group) / SMOOTH) for group in groups]


def chart(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Loss by step."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="steps of 12 blocks", ylabel="loss", ylim=(0.45, 1.0))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--init", "inits", multiple=True, type=click.Choice(["cyclic", "replicate"]))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(folder: Path, inits: tuple[str, ...], out: Path) -> None:
    """Train what is asked for; write the curves, print the steps and the verdict."""
    for init in inits:
        train(folder, init)
    found = {name: smoothed(folder / run) for run, name in RUNS.items() if (folder / run).is_dir()}
    curves = {name: points for name, points in found.items() if points}
    record = {"machine": machine(), "curves": curves}
    (out / "results" / "growth.json").write_text(json.dumps(record) + "\n")
    chart(curves, out / "pictures" / "growth.png")
    last, goal = curves["from scratch"][-1]
    click.echo(f"from scratch: loss {goal:.4f} after {last:,} steps\n")
    click.echo("| grown by | steps to that loss | share | at most 40 % | last loss |\n|---|---|---|---|---|")
    for name, points in curves.items():
        if name != "from scratch":
            step = next((step for step, loss in points if loss <= goal), None)
            reached = f"{step:,} | {step / last:.0%}" if step else f"not in {points[-1][0]:,} | "
            met = "met" if step and step <= TARGET * last else "**not met**"
            click.echo(f"| {name} | {reached} | {met} | {points[-1][1]:.4f} |")


if __name__ == "__main__":
    main()
