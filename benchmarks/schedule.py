"""Schedules, plain steps, pruning and distilled guidance on one axis: score against block-forwards per picture.

python benchmarks/schedule.py --work build/schedule     (about an hour on one core; finished rows are kept)
python benchmarks/schedule.py --time --work build/schedule    (a quiet machine: torch and onnxruntime side by side)
python benchmarks/schedule.py --table                         (the tables and the chart only)

Schedules are found on tuning prompts, as `sanac schedule` does; every row is scored on test prompts with the same
noises. Differences are paired by prompt. docs/results/schedule.json, docs/pictures/schedule.png.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from measure import machine, refuse_if_busy

import sanac
from sanac.core.artifact.model import open_model
from sanac.core.artifact.schedule import Schedule, plain, schedule_from_json
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.judge.intervals import PromptScore, paired_difference
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.shapes.prompts import Split, suite, unseen_suite
from sanac.verify.shapes_suite import evaluate, generate_and_judge, noise_seeds

mpl.use("Agg")

RESULT, CHART = Path("docs/results/schedule.json"), Path("docs/pictures/schedule.png")
BUDGET, GUIDANCE, DISTILLED_STEPS = 0.2, 4.5, 300
IMAGES, MORE = 256, 512  # of a row; of the chosen schedule, its rivals and the whole model
PLAIN = (20, 10, 8, 6, 4)
HELD_OUT = (  # rows that are also scored on contents that training never saw
    *(f"whole, {steps} steps" for steps in (20, 10, 6, 4)),
    *(f"schedule {place}" for place in (2, 3, 4, 5)),
    *(f"chosen with unseen contents, {place}" for place in (2, 3, 4)),
    *("guidance distilled, 20 steps", "distilled, schedule 3"),
)
SOURCES = {"sanac:tiny": "sanac:tiny", "control": "benchmarks/control"}


@dataclass(frozen=True)
class Row:
    """One way to make pictures with one model."""

    source: str  # sanac:tiny or control
    name: str
    model: Callable[[], str]  # made where it isn't there yet
    schedule: Callable[[], Schedule]
    images: int = IMAGES

    @property
    def key(self) -> str:
        """Its key in the journal."""
        return f"{self.source}: {self.name}"


@dataclass(frozen=True)
class Models:
    """The models of the rows, made by sanac in one workspace and found there again."""

    work: Path
    source: str

    @property
    def opened(self) -> Any:
        """The source model."""
        return sanac.open(SOURCES[self.source], workspace=self.work / self.source.replace(":", "-"))

    def scheduled(self) -> Any:
        """The source with its schedule at the budget."""
        return self.opened.schedule(budget=BUDGET)

    def scheduled_for_unseen(self) -> Any:
        """The same, chosen with contents that training never saw as tasks of their own."""
        return self.opened.schedule(budget=BUDGET, confirm="unseen")

    def recovered(self, blocks: int) -> str:
        """Pruned by the search, repaired and fine-tuned."""
        return str(self.opened.prune(target_blocks=blocks, select="search", compensate=True).finetune(steps=100).path)

    def distilled(self) -> Any:
        """Guidance in the prompt's branch."""
        how = {"steps": DISTILLED_STEPS, "targets": "trajectories", "distill_guidance": GUIDANCE}
        return self.opened.finetune(data_free=True, **how)

    def distilled_and_scheduled(self) -> Any:
        """The same with a schedule of its own; budgets are shares of its cost, half of the source's."""
        return self.distilled().schedule(budget=0.25)


def whole(model: str, steps: int, guided: int | None = None) -> Schedule:
    """Plain steps of a whole model; guided in the first steps only, if `guided` says how many."""
    opened = open_model(locate(model))
    found = plain(opened.architecture.blocks, noise_levels(opened, steps))
    if guided is None:
        return found
    return Schedule(found.order, found.levels, found.blocks, (True,) * guided + (False,) * (steps - guided))


def front(model: Any) -> list[Schedule]:
    """The schedules of a front, the largest budget first."""
    found = json.loads((Path(model.path) / "measurements" / "schedule.json").read_text())
    return [schedule_from_json(row["schedule"], "front", model.blocks) for row in found["rows"]]


def chosen(model: Any) -> Schedule:
    """The schedule in a model."""
    return open_model(locate(model.path)).schedule


def rows(work: Path) -> Iterator[Row]:
    """All rows; what they take is made when they are measured."""
    for source, word in SOURCES.items():
        models = Models(work, source)
        given = lambda word=word: word  # noqa: E731
        for steps in PLAIN:
            images = MORE if steps in {20, 10, 4} else IMAGES
            yield Row(source, f"whole, {steps} steps", given, lambda w=word, n=steps: whole(w, n), images)
        yield Row(source, "guided in the first half, 20 steps", given, lambda w=word: whole(w, 20, 10))
        yield Row(source, "guided in the first half, 10 steps", given, lambda w=word: whole(w, 10, 5))
        for place in range(5):
            images = MORE if place == 3 else IMAGES
            yield Row(source, f"schedule {place + 1}", given, lambda m=models, n=place: front(m.scheduled())[n], images)
    models = Models(work, "sanac:tiny")
    for place in range(5):
        found = lambda m=models, n=place: front(m.scheduled_for_unseen())[n]  # noqa: E731
        yield Row("sanac:tiny", f"chosen with unseen contents, {place + 1}", lambda: "sanac:tiny", found)
    for blocks in (8, 6):
        made = lambda m=models, n=blocks: m.recovered(n)  # noqa: E731
        yield Row("sanac:tiny", f"{blocks} blocks, recovered, 20 steps", made, lambda f=made: whole(f(), 20))
        yield Row("sanac:tiny", f"{blocks} blocks, recovered, 10 steps", made, lambda f=made: whole(f(), 10))
    distilled = lambda m=models: m.distilled().path  # noqa: E731
    both = lambda m=models: m.distilled_and_scheduled().path  # noqa: E731
    for steps in (20, 10, 6):
        yield Row(
            "sanac:tiny",
            f"guidance distilled, {steps} steps",
            distilled,
            lambda m=models, n=steps: in_steps(chosen(m.distilled()), n),
            MORE if steps == 20 else IMAGES,
        )
    for place in range(5):
        images = MORE if place == 2 else IMAGES
        name = f"distilled, schedule {place + 1}"
        yield Row("sanac:tiny", name, both, lambda m=models, n=place: front(m.distilled_and_scheduled())[n], images)


def in_steps(schedule: Schedule, steps: int) -> Schedule:
    """Another number of steps, each with depth and guidance of the one with the nearest noise level."""
    levels = noise_levels(open_model(locate("sanac:tiny")), steps)
    nearest = [schedule.step_at(level) for level in levels]
    blocks, guided = (tuple(every[step] for step in nearest) for every in (schedule.blocks, schedule.guided))
    return replace(schedule, levels=levels, blocks=blocks, guided=guided)


def held_out(row: Row) -> dict[str, Any]:
    """Which images of contents that training never saw are right."""
    generator, sampling = opened(row)
    prompts = unseen_suite(MORE)
    _, results = generate_and_judge(generator, prompts, noise_seeds(0, MORE), sampling, NULL_REPORTER)
    return {"images": MORE, "correct": "".join(str(int(result.correct)) for result in results)}


def opened(row: Row) -> tuple[DiffusionGenerator, GenerationSettings]:
    """The generator of a row, following its schedule."""
    generator = open_generator(open_model(locate(row.model())), scheduled=False)
    schedule = row.schedule()
    generator.follow(schedule)
    return generator, GenerationSettings(schedule.steps, GUIDANCE, batch=32)


def measured(row: Row) -> dict[str, Any]:
    """Scores and diversity of a row's pictures."""
    generator, sampling = opened(row)
    schedule = row.schedule()
    found = evaluate(generator, row.images, sampling, 0, "test", NULL_REPORTER)
    results = found.results[: row.images]
    return {
        "forwards": schedule.forwards,
        "schedule": str(schedule),
        "images": row.images,
        "score": found.summary.overall.to_json(),
        "held_out": found.held_out.to_json() if found.held_out else None,
        "diversity": found.distance.diversity.to_json(),
        "frechet": found.distance.frechet,
        "correct": "".join(str(int(result.correct)) for result in results),
    }


def against(rows: Mapping[str, Any], one: str, other: str, split: Split = "test") -> dict[str, Any]:
    """The paired difference of two rows, over the images that both have."""
    images = min(rows[one]["images"], rows[other]["images"])
    return paired_difference(*(scores_of(rows[name]["correct"], images, split) for name in (one, other))).to_json()


def scores_of(correct: str, images: int, split: Split = "test") -> list[PromptScore]:
    """The scores of the first images of a row, by prompt."""
    scores: dict[Any, PromptScore] = {}
    prompts = unseen_suite(images) if split == "held-out" else suite(split, images)
    for prompt, right in zip(prompts, correct, strict=False):
        score = scores.get(prompt) or PromptScore(prompt.content.tag, prompt.text, 0.0, 0)
        scores[prompt] = replace(score, right=score.right + int(right), images=score.images + 1)
    return list(scores.values())


def timed(work: Path) -> dict[str, Any]:
    """Medians of the whole model and of schedules, in torch and onnxruntime, by turns."""
    models = Models(work, "sanac:tiny")
    named = {
        "whole, 20 steps": "sanac:tiny",
        f"schedule at {BUDGET:g}": models.scheduled().path,
        "guidance distilled, 20 steps": models.distilled().path,
        "distilled, schedule at 0.25": models.distilled_and_scheduled().path,
    }
    out = work / "exported"
    for number, word in enumerate(named.values()):
        sanac.open(word, workspace=work / "timing").export(
            precision="fp32", no_verify=True, depths=16, out=out / str(number)
        )
    folders = [str(out / str(number)) for number in range(len(named))]
    command = ["-m", "sanac", "bench", *folders, "--backend", "torch,onnx", "--rounds", "9", "--threads", "1", "--json"]
    ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env={**os.environ})
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found = json.loads(ran.stdout)
    names = dict(zip([Path(folder).name for folder in folders], named, strict=True))
    figures = {}
    for subject in found["subjects"]:
        batch = subject["batches"]["1"]
        figures[f"{names[Path(subject['model']).name]}, {subject['backend']}"] = {
            "seconds": batch["seconds"]["image"]["median"],
            "rounds": batch["rounds"],
            "memory": subject["memory"]["anonymous"],
        }
    return {"machine": machine(), "warning": refuse_if_busy(), "doubts": found["doubts"], "figures": figures}


def draw(rows: Mapping[str, Any]) -> None:
    """Score against cost, a panel per source."""
    from matplotlib import pyplot as plt

    kinds = {
        "whole": ("whole model, plain steps", "s--", "#d73027"),
        "schedule": ("schedules", "o-", "#4575b4"),
        "chosen": ("schedules chosen with unseen contents", "o:", "#9e6ebd"),
        "guided": ("guided in the first half", "^:", "#fdae61"),
        "distilled": ("guidance distilled + schedule", "o-", "#1a9850"),
        "guidance": ("guidance distilled, plain steps", "d--", "#66bd63"),
        "8": ("8 blocks, recovered", "v:", "#878787"),
        "6": ("6 blocks, recovered", "P:", "#4d4d4d"),
    }
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
    for axes, source in zip(panels, SOURCES, strict=True):
        for kind, (label, style, color) in kinds.items():
            mine = [row for key, row in rows.items() if key.startswith(f"{source}: {kind}")]
            mine.sort(key=lambda row: row["forwards"])
            if not mine:
                continue
            scores = [row["score"] for row in mine]
            reach = [[one["value"] - one["low"] for one in scores], [one["high"] - one["value"] for one in scores]]
            values = [one["value"] for one in scores]
            where = [row["forwards"] for row in mine]
            axes.errorbar(where, values, yerr=reach, fmt=style, color=color, label=label, capsize=2, linewidth=1.2)
        axes.set(title=source, xlabel="block-forwards per picture", xscale="log", xticks=(15, 30, 60, 120, 240))
        axes.get_xaxis().set_major_formatter(mpl.ticker.ScalarFormatter())
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="score on test prompts")
    panels[0].legend(loc="lower right", fontsize=8)
    figure.savefig(CHART, dpi=110, metadata={"Software": None})


def show(found: Mapping[str, Any]) -> None:
    """The tables."""
    rows = found["rows"]
    for source in SOURCES:
        base = f"{source}: whole, 20 steps"
        click.echo(f"\n| {source} | forwards | score | to whole | images |\n|---|---|---|---|---|")
        for key, row in rows.items():
            if not key.startswith(f"{source}: "):
                continue
            score, name = row["score"], key.partition(": ")[2]
            text = f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
            lost = against(rows, key, base) if key != base else None
            diff = f"{lost['value']:+.3f} [{lost['low']:+.3f}, {lost['high']:+.3f}]" if lost else ""
            shown = (
                f"{name}: {row['schedule'].partition(' blocks')[0].partition(' of ')[2]}"
                if "sched" in name or "chosen" in name
                else name
            )
            click.echo(f"| {shown} | {row['forwards']:g} | {text} | {diff} | {row['images']} |")
    click.echo("\n| contents that training never saw | forwards | score | to whole |\n|---|---|---|---|")
    for key, row in found.get("held_out", {}).items():
        lost, name = row["to_whole"], key.partition(": ")[2]
        diff = f"{lost['value']:+.3f} [{lost['low']:+.3f}, {lost['high']:+.3f}]" if "whole, 20" not in name else ""
        click.echo(f"| {name} | {rows[key]['forwards']:g} | {row['share']:.3f} | {diff} |")
    click.echo(f"\n{found['machine']}")
    for name, one in found.get("time", {}).get("figures", {}).items():
        click.echo(f"| {name} | {1e3 * one['seconds']:.0f} ms |")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/schedule"), help="Where models are made.")
@click.option("--time", "timing", is_flag=True, help="Measure times only.")
@click.option("--table", is_flag=True, help="Show what was measured.")
@click.option("--only", default="", help="Rows whose name contains this.")
def main(*, work: Path, timing: bool, table: bool, only: str) -> None:
    """Measure what is missing, and show everything."""
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"machine": machine(), "rows": {}}
    if timing:
        found["time"] = timed(work)
    elif not table:
        for row in rows(work):
            if row.key in found["rows"] or only not in row.key:
                continue
            found["rows"][row.key] = measured(row)
            RESULT.write_text(json.dumps(found, indent=1) + "\n")
            score = found["rows"][row.key]["score"]
            click.echo(f"{row.key}: {score['value']:.3f} @{found['rows'][row.key]['forwards']:g}", err=True)
        for row in rows(work):
            known = found.setdefault("held_out", {})
            if row.source == "sanac:tiny" and row.name in HELD_OUT and row.key not in known and only in row.key:
                known[row.key] = held_out(row)
                RESULT.write_text(json.dumps(found, indent=1) + "\n")
                click.echo(f"{row.key}, held out: {known[row.key]['correct'].count('1') / MORE:.3f}", err=True)
    if not table:
        differences = {
            key: against(found["rows"], key, f"{key.partition(': ')[0]}: whole, 20 steps") for key in found["rows"]
        }
        unseen = found.get("held_out", {})
        for key, row in unseen.items():
            row["share"] = row["correct"].count("1") / row["images"]
            row["to_whole"] = against(unseen, key, "sanac:tiny: whole, 20 steps", "held-out")
        found["to_whole"] = {key: value for key, value in differences.items() if not key.endswith("whole, 20 steps")}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        draw(found["rows"])
    show(found)


if __name__ == "__main__":
    main()
