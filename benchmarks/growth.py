"""Whether growing pays: how near to the loss of a model from scratch grown ones come in fewer steps.

python benchmarks/growth.py build/tiny --run partial:1300 --run cyclic:1300 --run replicate:1300

The folder is the one that the trainer of sanac:tiny filled, with --control too. Of one with no more than
shallow-model, the rows that are known are kept, and sanac:tiny is judged again beside its own. A run of N steps has a
schedule of N steps, so that each is judged at its end; the loss is of the averaged weights, on scenes and noise that no
training saw, the same for all. Runs are continued if stopped. Writes docs/results/growth.json and its chart.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from measure import machine

from sanac.core.execute import Writing, execute
from sanac.core.locate import locate
from sanac.core.model import open_model
from sanac.core.talk import SILENCE
from sanac.finetune.loop import generator_for
from sanac.finetune.task import FlowTask
from sanac.grow.depth import decide_growth
from sanac.tiny.data import encode_scenes
from sanac.tiny.text import Captions
from sanac.tiny.train import SCENES, Lines, Recipe, learn, settings

mpl.use("Agg")

TARGET = 0.4  # of the steps from scratch
BATCHES, FRESH, SEED = 64, 4096, 99  # of scenes that training never saw
SMOOTH = 8  # logged means of 25 steps


def grown(folder: Path, init: str, steps: int, rate: float) -> tuple[Path, Path]:
    """The model before growth, grown one way and trained on: where it was, and its pipeline."""
    recipe, shallow, start = Recipe(), folder / "shallow-model", folder / "growth" / f"{init}-start"
    run, out = (folder / "growth" / f"{init}-{steps}-{rate:g}{end}" for end in ("", "-model"))
    if out.is_dir():
        return run, out
    preserve = recipe.preserved if init == "partial" else None
    job = decide_growth(
        open_model(locate(str(shallow))),
        recipe.deep,
        Writing(force=True),
        init=init,
        preserve=preserve,
        seed=recipe.seed,
    )
    execute(job, start, SILENCE)
    pipeline = SanaPipeline.from_pretrained(shallow)
    words = Captions(pipeline.tokenizer, pipeline.text_encoder.requires_grad_(requires_grad=False))
    data = encode_scenes(pipeline.vae, SCENES, recipe.seed, folder / "latents.safetensors", Lines())
    transformer = SanaTransformer2DModel.from_pretrained(start, subfolder="transformer")
    learn(transformer, words, data, settings(recipe, steps, rate), run, Lines(), compiled=False)
    pipeline.transformer = transformer.bfloat16()
    pipeline.save_pretrained(out)
    return run, out


def losses(folder: Path, model: Path) -> list[float]:
    """Of each fresh batch."""
    pipeline = SanaPipeline.from_pretrained(folder / "shallow-model")
    words = Captions(pipeline.tokenizer, pipeline.text_encoder)
    data = encode_scenes(pipeline.vae, FRESH, SEED, folder / "fresh-latents.safetensors", Lines())
    transformer = SanaTransformer2DModel.from_pretrained(model, subfolder="transformer").bfloat16().float().eval()
    task = FlowTask(transformer, words, data)
    with torch.no_grad():
        return [float(task.loss(generator_for(SEED, number))) for number in range(BATCHES)]


def difference(one: list[float], other: list[float]) -> tuple[float, float]:
    """The mean difference of paired batches, and how far its 95 % interval reaches."""
    apart = [a - b for a, b in zip(one, other, strict=True)]
    return statistics.mean(apart), 1.96 * statistics.stdev(apart) / len(apart) ** 0.5


def curve(run: Path) -> list[tuple[int, float]]:
    """What was logged in training, as means of so many points, each at its last step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(line["step"], line["loss"]) for line in lines]
    groups = [points[start : start + SMOOTH] for start in range(0, len(points) - SMOOTH + 1, SMOOTH)]
    return [(group[-1][0], sum(loss for _, loss in group) / SMOOTH) for group in groups]


def chart(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Training's loss by step, and where each run ended on fresh scenes."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for number, (name, run) in enumerate(runs.items()):
        axes.plot(*zip(*run["curve"], strict=True), color=f"C{number}", label=name)
        axes.plot(run["steps"], run["loss"], "o", color=f"C{number}")
    title = "dots: averaged weights, on scenes that no training saw"
    axes.set(xlabel="steps of 12 blocks", ylabel="loss", ylim=(0.4, 1.0), title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--run", "wanted", multiple=True, metavar="INIT:STEPS[:RATE]", help="How to grow, and train.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(folder: Path, wanted: tuple[str, ...], out: Path) -> None:
    """Train what is asked for and not there; judge; print the table and the verdicts."""
    torch.set_num_threads(1)
    recipe, journal = Recipe(), out / "results" / "growth.json"
    before = json.loads(journal.read_text()) if journal.is_file() else {"machine": machine(), "runs": {}}
    runs: dict[str, dict[str, Any]] = before["runs"]
    places = {
        f"from scratch, {recipe.control_steps}": (recipe.control_steps, folder / "control", folder / "control-model"),
        f"partial, {recipe.deep_steps}": (recipe.deep_steps, folder / "deep", folder / "model"),
    }
    places = {name: place for name, place in places.items() if place[2].is_dir() or name not in runs}
    for init, steps, *rate in (word.split(":") for word in wanted):
        name = f"{init}, {steps}" + "".join(f", rate {word}" for word in rate)
        places[name] = (int(steps), *grown(folder, init, int(steps), float(rate[0]) if rate else recipe.rate))
    for name, (steps, place, model) in places.items():
        found = losses(folder, model)
        runs[name] = {"steps": steps, "curve": curve(place), "loss": statistics.mean(found), "losses": found}
        runs[name]["machine"] = machine()
    tiny = statistics.mean(losses(folder, locate("sanac:tiny").path))
    known = runs[f"partial, {recipe.deep_steps}"]["loss"]
    click.echo(f"sanac:tiny has a loss of {tiny:.6f} here, of {known:.6f} where its row was measured", err=True)
    journal.write_text(json.dumps(before) + "\n")
    chart(runs, out / "pictures" / "growth.png")
    table(runs)


def table(runs: dict[str, dict[str, Any]]) -> None:
    """Each run beside the one from scratch, which comes first."""
    base = next(iter(runs.values()))
    click.echo("| run | steps | share | loss on fresh scenes | minus from scratch | |\n|" + "---|" * 6)
    for name, run in runs.items():
        share, (apart, reach) = run["steps"] / base["steps"], difference(run["losses"], base["losses"])
        met = "met" if apart <= 0 and share <= TARGET else "**not met**"
        cells = (name, f"{run['steps']:,}", f"{share:.0%}", f"{run['loss']:.4f}", f"{apart:+.4f} ± {reach:.4f}")
        click.echo(f"| {' | '.join(cells)} | {'' if run is base else met} |")


if __name__ == "__main__":
    main()
