"""Recovery compared: depth x start x loss x steps, judged on tuning prompts, and the best opened to the test prompts.

python benchmarks/recovery.py --depth 8      (hours; a process and a journal per depth, docs/results/recovery-8.json)
python benchmarks/recovery.py --table        (tables, verdicts and chart only)

From scratch is the same depth with the recipe of sanac:tiny, for as much compute as that and the recovery took. Before
growth is that recipe's first stage, six blocks, trained anew: those that sanac:tiny grew from were not kept.

Finished cells are kept: run it again. One thread; batches of 64. Learning rates are chosen, and the other defaults
looked at, at 6 blocks, on tuning prompts, for all depths: run that depth first.
"""

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import torch
from judged import answers_of, scores_of
from measure import machine

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import ArtifactJob, WriteOptions
from sanac.finetune.plan import plan_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.judge.intervals import PromptScore, paired_difference
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings as Measured
from sanac.nn.generation import GenerationSettings
from sanac.nn.silence_libraries import silent
from sanac.nn.streaming import Blocks
from sanac.prune.keep_list import plan_keep
from sanac.prune.repair_job import RepairJob, repair_states, with_repair
from sanac.prune.scoring import measured
from sanac.prune.search_job import find_blocks, plan_searched
from sanac.prune.selection import BlockSelection, plan_target
from sanac.runtime.pipeline import open_generator
from sanac.shapes.prompts import suite
from sanac.tiny.build import save, transformer
from sanac.tiny.data import encode_scenes
from sanac.tiny.text import CaptionEncoder
from sanac.tiny.train import SCENES as SCENES_OF_TINY
from sanac.tiny.train import Lines, Recipe, learn, settings
from sanac.train.loop import Callbacks
from sanac.verify.shapes_suite import evaluate

with silent():  # they warn while they load
    from diffusers import SanaPipeline

mpl.use("Agg")

DEPTHS = (8, 6, 4)
STEPS = (0, 25, 100, 300, 1000)
STARTS = ("bi", "search+compensate")
SCRATCH, BEFORE = "from scratch", "before growth"
LOSSES = {
    "flow": {"flow": 1.0},
    "distill": {"distill": 1.0},
    "distill+features": {"distill": 1.0, "features": 0.1},
    "data-free": {"distill": 1.0},
}
RANDOM = 3  # draws of random blocks
SHARES = {8: 0.97, 6: 0.95, 4: 0.90}  # targets: of the whole model's score, after 100 steps
FREE = 0.03  # how far data-free may be behind real data
SCENES, PAINTED = 8192, 4096
RATES_AT, RATES = 6, (5e-4, 1e-3, 2e-3, 4e-3)
VARIANTS: dict[str, dict[str, Any]] = {  # of what `finetune` does by default, one setting at a time
    "as it is": {},
    "batch 16": {"batch": 16},
    "batch 32": {"batch": 32},
    "batch 128": {"batch": 128},
    "no warm-up": {"warmup": 0},
    "warm-up 30": {"warmup": 30},
    "no average": {"ema": 0.0},
    "average 0.95": {"ema": 0.95},
    "captions never dropped": {"caption_dropout": 0.0},
    **{f"adamw, rate {rate:g}": {"optimizer": "adamw", "learning_rate": rate} for rate in (2.5e-4, 5e-4, 1e-3, 2e-3)},
}
PARTS = ("rates", "defaults", "hundred", "test", "baselines", "grid")  # what targets hang on first
RESULTS, PICTURE = Path("docs/results"), Path("docs/pictures/recovery.png")


@dataclass(frozen=True)
class Cell:
    """One model pruned, trained and judged."""

    start: str
    loss: str
    steps: int
    split: str = "tune"
    images: int = 512
    variant: str = "as it is"

    @property
    def name(self) -> str:
        """Its key in the journal."""
        return " ".join((self.start, *((self.loss,) if self.steps else ()), str(self.steps), self.split))


class Bench:
    """Everything of one depth that cells share."""

    def __init__(self, depth: int, work: Path) -> None:
        self.depth, self.work = depth, work
        self.tiny = open_model(locate("sanac:tiny"))
        self.path = RESULTS / f"recovery-{depth}.json"
        self.journal = json.loads(self.path.read_text()) if self.path.is_file() else {}
        identity = self.tiny.identity(full_hash=True)
        if self.journal.get("identity") != identity:
            self.journal = {"identity": identity, "depth": depth, "machine": machine(), "cells": {}}

    @property
    def rates(self) -> Mapping[str, float]:
        """The learning rate of each loss."""
        if self.depth == RATES_AT:
            return self.journal["rates"]
        return json.loads((RESULTS / f"recovery-{RATES_AT}.json").read_text())["rates"]

    def put(self, name: str, cell: Mapping[str, Any]) -> None:
        """Write a finished cell at once."""
        self.journal["cells"][name] = cell
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.journal) + "\n")
        partial.replace(self.path)

    def pruned(self, start: str) -> Model:
        """The model as a cell starts from it."""
        if start in {SCRATCH, BEFORE}:
            return self._from_nothing(start)
        out = self.work / f"{start.replace(' ', '-')}-{self.depth}"
        if not (out / "sanac.json").is_file():
            write_partial(self._surgery(start), out, NULL_REPORTER)
        return open_model(locate(str(out)))

    def _from_nothing(self, start: str) -> Model:
        """As sanac:tiny was: its first stage, or for the compute of its training and of a hundred steps of recovery."""
        recipe, place = Recipe(), self.work / ("scratch" if start == SCRATCH else "before")
        if not (place / "model").is_dir():
            whole = recipe.shallow_steps * recipe.shallow + recipe.deep_steps * recipe.deep
            steps = whole // self.depth + 100 if start == SCRATCH else recipe.shallow_steps
            pipeline = SanaPipeline.from_pretrained(self.tiny.located.path)
            words = CaptionEncoder(pipeline.tokenizer, pipeline.text_encoder.requires_grad_(requires_grad=False))
            vae = pipeline.vae.float()
            data = encode_scenes(vae, SCENES_OF_TINY, recipe.seed, self.work / "latents.safetensors", Lines())
            torch.manual_seed(recipe.seed)
            net = transformer(self.depth)
            learn(net, words, data, settings(recipe, steps, recipe.rate), place / "run", Lines(), compiled=False)
            pipeline.transformer = net.bfloat16()
            save(pipeline, place / "model")
        return open_model(locate(str(place / "model")))

    def _surgery(self, start: str) -> ArtifactJob:
        writing, wanted, blocks = WriteOptions(), Measured(yes=True), self.tiny.architecture.blocks
        if start == "bi":
            scores = measured(self.tiny, wanted, self.work, NULL_REPORTER)
            return plan_target(self.tiny, BlockSelection("bi", self.depth), scores, writing)
        if start.startswith("random"):
            chosen = random.Random(f"{self.depth} {start}").sample(range(blocks), self.depth)
            return plan_keep(self.tiny, ",".join(map(str, sorted(chosen))), writing)
        choice = BlockSelection("search", self.depth)
        job = plan_searched(
            self.tiny, choice, find_blocks(self.tiny, choice, wanted, self.work, NULL_REPORTER), writing
        )
        states = repair_states(self.tiny, wanted, NULL_REPORTER)
        return RepairJob(with_repair(job, states), states, self.work, yes=True).run(NULL_REPORTER)

    def wanted(self, cell: Cell) -> FinetuneSettings:
        """How a cell is trained."""
        free = cell.loss == "data-free"
        data = None if free else "shapes"
        samples = PAINTED if free else SCENES
        rate = self.rates[cell.loss]
        losses = tuple(f"{name}={weight}" for name, weight in LOSSES[cell.loss].items())
        settings = FinetuneSettings(
            steps=cell.steps, loss=losses, learning_rate=rate, data=data, data_free=free, samples=samples
        )
        return replace(settings, **VARIANTS[cell.variant])

    def trained(self, cell: Cell) -> Model:
        """The model of a cell."""
        start = self.pruned(cell.start)
        if not cell.steps:
            return start
        job = plan_finetune(start, self.wanted(cell), self.work, NULL_REPORTER, self.tiny)
        out = self.work / "trained"
        shutil.rmtree(out, ignore_errors=True)
        surgery = job.artifact_job(WriteOptions())
        write_partial(job.trained(surgery, NULL_REPORTER, Callbacks()), out, NULL_REPORTER)
        shutil.rmtree(job.folder(surgery))
        return open_model(locate(str(out)))

    def judge(self, model: Model, split: str, images: int) -> dict[str, Any]:
        """Painted, judged, and how far its velocity is from the whole model's."""
        found = evaluate(open_generator(model, "cpu"), images, GenerationSettings(batch=32), 0, split, NULL_REPORTER)
        answers = {"answers": answers_of(found)} if split == "test" else {}
        return {"velocity_error": self.velocity_error(model), **answers, **found.to_json()}

    def velocity_error(self, model: Model) -> float:
        """On tuning prompts, where the whole model's trajectories pass."""
        prompts = tuple(prompt.text for prompt in suite("tune", 24))
        found = calibration(self.tiny, Measured(num_prompts=len(prompts), seed=77), every=2)
        found = replace(found, inputs=replace(found.inputs, prompts=prompts))
        kept = tuple(range(model.architecture.blocks))
        with torch.no_grad():
            states = found.sample()
            blocks = Blocks(model, torch.device("cpu"), torch.float32, resident=True)
            mine = replace(states, blocks=blocks, outside=blocks.outside())
            return float(mine.errors([kept])[kept].mean())


def grid() -> list[Cell]:
    """All that is judged on tuning prompts; what targets hang on first."""
    found = []
    for steps in (0, 100, 25, 300, 1000):
        for start in STARTS:
            found += [Cell(start, loss, steps) for loss in (LOSSES if steps else ["none"])]
        if steps == 100:
            found += [Cell(f"random {draw}", "distill", steps) for draw in range(RANDOM)]
    return found


def baselines(bench: Bench) -> list[Cell]:
    """What recovery has to beat, on tuning and on test prompts."""
    found = [Cell(SCRATCH, "none", 0)]
    if bench.depth == Recipe().shallow:
        found += [Cell(BEFORE, "none", 0), Cell(BEFORE, "distill", 100)]
    return [*found, *(replace(cell, split="test", images=2048) for cell in found)]


def tested(cells: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Opened to the test prompts: at 100 steps the best setting, the best with real data, the best without."""
    settings = [Cell(start, loss, 100) for start in STARTS for loss in LOSSES]
    there = [cell for cell in settings if cell.name in cells]
    found: list[Cell] = []
    for group in (there, [c for c in there if c.loss != "data-free"], [c for c in there if c.loss == "data-free"]):
        if group:
            best = max(group, key=lambda cell: cells[cell.name]["overall"]["value"])
            found.append(replace(best, split="test", images=2048))
    return list(dict.fromkeys(found))


def rates(bench: Bench, images: int) -> None:
    """For each loss the learning rate that suits tuning prompts best after 100 steps."""
    bench.journal.setdefault("rates", {})
    for loss in LOSSES:
        if f"rates {loss}" in bench.journal["cells"]:
            continue
        scores = {}
        for rate in RATES:
            bench.journal["rates"][loss] = rate
            model = bench.trained(Cell("search+compensate", loss, 100))
            scores[rate] = bench.judge(model, "tune", images)["overall"]["value"]
            click.echo(f"{bench.depth} blocks, {loss}, rate {rate:g}: {scores[rate]:.3f}", err=True)
        bench.journal["rates"][loss] = max(scores, key=lambda rate: scores[rate])
        bench.put(f"rates {loss}", {"scores": {f"{rate:g}": score for rate, score in scores.items()}})


def defaults(bench: Bench, images: int) -> None:
    """What other settings would make of a hundred steps, on tuning prompts."""
    known = bench.journal["cells"].get("defaults", {})
    for name in VARIANTS:
        if name not in known:
            model = bench.trained(Cell("search+compensate", "distill", 100, variant=name))
            overall = bench.judge(model, "tune", images)["overall"]
            known = known | {name: {key: overall[key] for key in ("value", "low", "high")}}
            bench.put("defaults", known)
            click.echo(f"{bench.depth} blocks, {name}: {overall['value']:.3f}", err=True)


def whole_scores() -> list[PromptScore]:
    """The whole model's, on the test prompts."""
    cells = json.loads((RESULTS / "depth.json").read_text())["models"]["sanac:tiny"]["cells"]
    return scores_of(max(cells, key=lambda cell: cell["depth"]))


def verdicts(depth: int, cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The targets, met or not, as far as their cells are there."""
    lines = []
    opened = [cell for cell in tested(cells) if cell.name in cells]
    if opened:
        whole = whole_scores()
        best = opened[0]
        goal = [replace(score, right=SHARES[depth] * score.right) for score in whole]
        beyond = paired_difference(scores_of(cells[best.name]), goal).interval
        share = cells[best.name]["overall"]["value"] / (sum(s.right for s in whole) / sum(s.images for s in whole))
        met = "met" if beyond.low >= 0 else "NOT MET"
        lines.append(f"{depth} blocks, {best.name}: about {share:.1%} of the whole model; {SHARES[depth]:.0%}: {met}")
        lines.append(f"    beyond {SHARES[depth]:.0%} of it, paired: {beyond}")
        for other in (Cell(SCRATCH, "none", 0), Cell(BEFORE, "none", 0), Cell(BEFORE, "distill", 100)):
            against = cells.get(replace(other, split="test").name)
            if against:
                apart = paired_difference(scores_of(cells[best.name]), scores_of(against)).interval
                won = "met" if apart.low > 0 else "NOT MET"
                lines.append(
                    f"    minus {other.start}, {other.steps} steps ({against['overall']['value']:.3f}): {apart}: {won}"
                )
    real = [cell for cell in opened if cell.loss != "data-free"]
    free = [cell for cell in opened if cell.loss == "data-free"]
    if real and free:
        apart = paired_difference(scores_of(cells[free[0].name]), scores_of(cells[real[0].name])).interval
        lines.append(f"data-free minus real data: {apart}: {'met' if apart.low >= -FREE else 'NOT MET'}")
    return lines


def rows(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table: one row per start and loss, one column per number of steps."""
    lines = ["| start | loss | " + " | ".join(map(str, STEPS)) + " |", "|" + "---|" * (2 + len(STEPS))]
    for start in (*STARTS, *(f"random {draw}" for draw in range(RANDOM))):
        for loss in LOSSES:
            found = [cells.get(Cell(start, loss, steps).name) for steps in STEPS]
            if any(found[1:]):
                shown = [f"{c['overall']['value']:.3f} ({c['velocity_error']:.3f})" if c else "" for c in found]
                lines.append(f"| {start} | {loss} | {' | '.join(shown)} |")
    return lines


def settled(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table: scores by learning rate, and by what else was tried; empty where it wasn't."""
    lines = []
    for loss in LOSSES:
        if found := cells.get(f"rates {loss}"):
            scores = ", ".join(f"{rate}: {score:.3f}" for rate, score in found["scores"].items())
            lines.append(f"rates, {loss}: {scores}")
    for name, found in cells.get("defaults", {}).items():
        lines.append(f"| {name} | {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] |")
    return lines


def chart(journals: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """Score by steps, a panel per depth."""
    from matplotlib import pyplot as plt

    count = len(journals)
    figure, panels = plt.subplots(
        1, count, figsize=(4.2 * count, 3.8), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (depth, journal) in zip(panels[0], sorted(journals.items(), reverse=True), strict=True):
        for start, style in zip(STARTS, ("--", "-"), strict=True):
            for number, loss in enumerate(LOSSES):
                cells = [(steps, journal["cells"].get(Cell(start, loss, steps).name)) for steps in STEPS]
                points = [(steps, cell["overall"]["value"]) for steps, cell in cells if cell]
                axes.plot(*zip(*points, strict=True), style, color=f"C{number}", marker=".", label=f"{start}, {loss}")
        axes.set(title=f"{depth} blocks", xlabel="steps", xscale="symlog", ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("shapes score, tuning prompts")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def fill(bench: Bench, cells: list[Cell], images: int) -> None:
    """Compute what is missing."""
    for cell in cells:
        if cell.name not in bench.journal["cells"]:
            click.echo(f"{bench.depth} blocks: {cell.name}", err=True)
            count = cell.images if cell.split == "test" else images
            bench.put(cell.name, bench.judge(bench.trained(cell), cell.split, count))


def compute(bench: Bench, parts: Sequence[str], images: int) -> None:
    """One depth, as far as it was asked for."""
    if "rates" in parts and bench.depth == RATES_AT:
        rates(bench, images // 2)
    if "defaults" in parts and bench.depth == RATES_AT:
        defaults(bench, images)
    if "hundred" in parts:
        fill(bench, [cell for cell in grid() if cell.steps in {0, 100}], images)
    if "test" in parts:
        fill(bench, tested(bench.journal["cells"]), images)
    if "baselines" in parts:
        fill(bench, baselines(bench), images)
    if "grid" in parts:
        fill(bench, grid(), images)


@click.command()
@click.option("--depth", "depths", multiple=True, type=click.Choice(["8", "6", "4"]), help="Compute this depth.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--images", default=512, show_default=True, help="Of tuning prompts.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/recovery"), show_default=True)
@click.option("--table", is_flag=True, help="Compute nothing: print what is there.")
def main(depths: tuple[str, ...], parts: tuple[str, ...], images: int, work: Path, *, table: bool) -> None:
    """Fill the journals, print tables and verdicts, draw the chart."""
    torch.set_num_threads(1)
    for depth in () if table else map(int, depths):
        place = work / str(depth)
        place.mkdir(parents=True, exist_ok=True)
        bench = Bench(depth, place)
        compute(bench, parts or PARTS, images)
    paths = {depth: RESULTS / f"recovery-{depth}.json" for depth in DEPTHS}
    journals = {depth: json.loads(path.read_text()) for depth, path in paths.items() if path.is_file()}
    for depth, journal in journals.items():
        click.echo(f"\n{depth} blocks ({journal['machine']}): score on tuning prompts (velocity error) by steps\n")
        for line in (*rows(journal["cells"]), "", *settled(journal["cells"]), "", *verdicts(depth, journal["cells"])):
            click.echo(line)
    if journals:
        chart(journals, PICTURE)


if __name__ == "__main__":
    main()
