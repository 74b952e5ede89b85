"""Whether growing pays: how near to the loss of a model from scratch grown ones come in fewer steps.

python benchmarks/growth.py build/growth --run scratch:3250 --run cyclic:1300 --run cyclic:1300:0.004:4500:0.004

The folder keeps what is trained; runs are continued if stopped. A run is how blocks begin (partial, of which all but
the last two of the source's blocks are kept, or partial6, of which six are; cyclic; replicate; scratch), its steps and
peak rate, and the steps and peak rate of the six blocks that it grows from; sanac:tiny's, where none are given. A run
of N steps has a schedule of N steps, so that each is judged at its end: the loss is of the averaged weights, on scenes
and noise that no training saw, the same for all. Choices are made on some scenes; --test judges on others. Compares
with the best run from scratch among those named. Writes docs/results/growth.json and a chart.
"""

import json
import re
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import matplotlib as mpl
import torch
from measure import machine

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.grow.depth import decide_growth
from sanac.nn.silence_libraries import silent
from sanac.tiny.build import save, transformer
from sanac.tiny.data import SceneLatents, encode_scenes
from sanac.tiny.text import CaptionEncoder
from sanac.tiny.train import SCENES, Lines, Recipe, learn, settings
from sanac.train.loop import generator_for
from sanac.train.task import FlowTask

with silent():  # they warn while they load
    from diffusers import SanaPipeline, SanaTransformer2DModel

mpl.use("Agg")

TARGET = 0.4  # of the steps from scratch
BATCHES, FRESH = 64, 4096
SEEDS = {"tuning": 99, "test": 100}  # of scenes that training never saw
SMOOTH = 8  # logged means of 25 steps
RECIPE = Recipe()
GIVEN = {"scratch 3250 0.002": "benchmarks/control", "partial 2000 0.002 of 2500 0.002": "sanac:tiny"}


@dataclass(frozen=True, slots=True)
class Way:
    """How a model came to be: how its blocks began, and how it was trained."""

    init: str
    steps: int
    rate: float = RECIPE.rate
    source: "Way | None" = None  # the six blocks that it grew from
    depth: int = RECIPE.deep

    @classmethod
    def read(cls, word: str) -> "Way":
        """INIT:STEPS[:RATE[:SOURCE[:RATE]]]."""
        init, *numbers = word.split(":")
        given = [RECIPE.deep_steps, RECIPE.rate, RECIPE.shallow_steps, RECIPE.rate]
        steps, rate, grows, first = [float(number) for number in numbers] + given[len(numbers) :]
        source = Way("scratch", int(grows), first, depth=RECIPE.shallow)
        return cls(init, int(steps), rate, None if init == "scratch" else source)

    @property
    def name(self) -> str:
        """As in the table, and in the folder."""
        blocks = f" {self.depth}" if self.depth < RECIPE.deep else ""
        grown = f" of {self.source.steps} {self.source.rate:g}" if self.source else ""
        return f"{self.init}{blocks} {self.steps} {self.rate:g}{grown}"

    @property
    def compute(self) -> float:
        """In steps of twelve blocks, its source's with it."""
        return self.steps * self.depth / RECIPE.deep + (self.source.compute if self.source else 0)


class Bench:
    """The folder, and what all that is trained in it shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def tiny(self) -> SanaPipeline:
        """Its autoencoder, text encoder and tokenizer are everybody's."""
        pipeline = SanaPipeline.from_pretrained(locate("sanac:tiny").path)
        pipeline.text_encoder.requires_grad_(requires_grad=False)
        pipeline.vae.float()
        return pipeline

    @cached_property
    def words(self) -> CaptionEncoder:
        """What encodes captions."""
        return CaptionEncoder(self.tiny.tokenizer, self.tiny.text_encoder)

    def scenes(self, count: int, seed: int, name: str) -> SceneLatents:
        """Drawn and encoded once."""
        return encode_scenes(self.tiny.vae, count, seed, self.folder / f"{name}.safetensors", Lines())

    def model(self, way: Way) -> Path:
        """In the repository, or trained if it is not there."""
        if way.name in GIVEN:
            return locate(GIVEN[way.name]).path
        out = self.folder / way.name.replace(" ", "-")
        if not out.is_dir():
            net = self.begun(way)
            data, plan = self.scenes(SCENES, RECIPE.seed, "latents"), settings(RECIPE, way.steps, way.rate)
            learn(net, self.words, data, plan, self.run(way), Lines(), compiled=False)
            pipeline = SanaPipeline(**(self.tiny.components | {"transformer": net.bfloat16()}))
            partial = out.with_name(f"{out.name}.partial")
            save(pipeline, partial)
            partial.rename(out)
        return out

    def run(self, way: Way) -> Path:
        """Where its training is logged."""
        return self.folder / "runs" / way.name.replace(" ", "-")

    def begun(self, way: Way) -> SanaTransformer2DModel:
        """As it is before its first step."""
        if not way.source:
            torch.manual_seed(RECIPE.seed)
            return transformer(way.depth)
        source = self.model(way.source)
        kept = re.fullmatch(r"partial(\d*)", way.init)
        preserve = int(kept[1] or RECIPE.preserved) if kept else None
        init = "partial" if kept else way.init
        whole = open_model(locate(str(source)))
        job = decide_growth(whole, RECIPE.deep, WriteOptions(), init=init, preserve=preserve, seed=RECIPE.seed)
        with TemporaryDirectory(dir=self.folder) as place:
            write_partial(job, Path(place) / "grown", NULL_REPORTER)
            return SanaTransformer2DModel.from_pretrained(Path(place) / "grown", subfolder="transformer")

    def losses(self, model: Path, which: str) -> list[float]:
        """Of each fresh batch."""
        data = self.scenes(FRESH, SEEDS[which], f"{which}-latents")
        net = SanaTransformer2DModel.from_pretrained(model, subfolder="transformer").bfloat16().float().eval()
        task = FlowTask(net, self.words, data)
        with torch.no_grad():
            return [float(task.loss(generator_for(SEEDS[which], number))) for number in range(BATCHES)]

    def judged(self, way: Way, kinds: tuple[str, ...], known: dict[str, Any]) -> dict[str, Any]:
        """Its row. Of what was trained elsewhere, the curve is known from there."""
        model = self.model(way)
        row = {"steps": way.steps, "compute": way.compute, "judged on": machine()}
        trained = {} if way.name in GIVEN else {"curve": curve(self.run(way))}
        return known | row | trained | {kind: self.losses(model, kind) for kind in kinds}


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


def chart(runs: dict[str, dict[str, Any]], kind: str, path: Path) -> None:
    """Training's loss by step, and where each run ended on fresh scenes."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, (name, run) in enumerate(runs.items()):
        axes.plot(*zip(*run.get("curve", []), strict=True), color=f"C{number}")
        axes.plot(run["steps"], statistics.mean(run[kind]), "o", color=f"C{number}", label=name)
    title = "dots: averaged weights, on scenes that no training saw"
    axes.set(xlabel="steps of 12 blocks", ylabel="loss", ylim=(0.47, 0.8), title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(runs: dict[str, dict[str, Any]], base: dict[str, Any], kind: str) -> None:
    """Each run beside the one from scratch."""
    click.echo("| run | steps | share | all compute | loss | minus from scratch | |\n|" + "---|" * 7)
    for name, run in runs.items():
        share, (apart, reach) = run["steps"] / base["steps"], difference(run[kind], base[kind])
        cells = [name, f"{run['steps']:,}", f"{share:.0%}", f"{run['compute'] / base['compute']:.0%}"]
        cells += [f"{statistics.mean(run[kind]):.4f}", "" if run is base else f"{apart:+.4f} ± {reach:.4f}"]
        met = "met" if apart <= 0 and share <= TARGET else "**not met**"
        click.echo(f"| {' | '.join(cells)} | {'' if name.startswith('scratch') else met} |")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--run", "wanted", multiple=True, metavar="INIT:STEPS[:RATE[:SOURCE[:RATE]]]", help="How to grow, and train."
)
@click.option("--test", is_flag=True, help="On the scenes that no choice was made by.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(folder: Path, wanted: tuple[str, ...], out: Path, *, test: bool) -> None:
    """Train what is asked for and not there; judge it, and what it grew from; print the table and the verdicts."""
    torch.set_num_threads(1)
    bench, journal = Bench(folder), out / "results" / "growth.json"
    runs: dict[str, dict[str, Any]] = json.loads(journal.read_text()) if journal.is_file() else {}
    ways, kinds = dict.fromkeys(Way.read(word) for word in wanted), ("tuning", "test") if test else ("tuning",)
    if all(way.source for way in ways):
        raise click.UsageError("name a run from scratch, too, to compare with: --run scratch:3250")
    sources = dict.fromkeys(way.source for way in ways if way.source)
    for way in [*sources, *ways]:
        runs[way.name] = bench.judged(way, kinds, runs.get(way.name, {}))
    journal.write_text(json.dumps(runs) + "\n")
    deep, shallow = ({way.name: runs[way.name] for way in some} for some in (ways, sources))
    base = min((deep[way.name] for way in ways if not way.source), key=lambda run: statistics.mean(run["tuning"]))
    chart(deep, kinds[-1], out / "pictures" / f"growth-{base['steps']}.png")
    table(deep | shallow, base, kinds[-1])


if __name__ == "__main__":
    main()
