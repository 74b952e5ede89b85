"""Ways of choosing blocks, compared: docs/results/methods-*.json and a chart. Finished cells are kept: run it again.

python benchmarks/methods.py --model sanac:tiny --model control=benchmarks/control      (hours; one thread per process)
python benchmarks/methods.py --table                                              (tables, verdicts and chart only)

Blocks are chosen and repairs fitted on training prompts; scores are of test prompts, the same noises for every cell.
Every run chooses anew, and paints what was cut otherwise than before.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import torch
from depth import evenly
from judged import answers_of, scores_of
from measure import machine, workplace

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import ArtifactJob, WriteOptions
from sanac.judge.intervals import PromptScore, paired_difference
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.generation import GenerationSettings
from sanac.prune.keep_list import plan_keep
from sanac.prune.repair_job import RepairJob, repair_states, with_repair
from sanac.prune.scoring import measured
from sanac.prune.search_job import find_blocks, plan_searched
from sanac.prune.selection import BlockSelection, plan_target
from sanac.report.charts.scores import TITLES
from sanac.runtime.pipeline import open_generator
from sanac.shapes.prompts import suite
from sanac.verify.shapes_suite import evaluate

mpl.use("Agg")

DEPTHS = (10, 8, 6, 4)
SCORED = ("bi", "velocity")
METHODS = ("random", "even", *SCORED, "search", "search+compensate")
DRAWS = 10  # of random choices
TARGETS = {8, 6}  # depths that a target names
NAMED = {"bi", "search", "search+compensate"}
RESULTS, PICTURES = Path("docs/results"), Path("docs/pictures")


@dataclass(frozen=True)
class Cell:
    """One model, pruned one way, painted and judged."""

    method: str
    depth: int
    draw: int
    images: int

    @property
    def name(self) -> str:
        """Its key in the journal."""
        return f"{self.method}-{self.depth}" + (f"-{self.draw}" if self.method == "random" else "")


def cells(blocks: int, many: int, few: int) -> list[Cell]:
    """Those that targets name first, with `many` images; the rest with `few`."""
    found = [Cell("whole", blocks, 0, many)]
    for depth in (depth for depth in DEPTHS if depth < blocks):
        for method in METHODS:
            images = many if depth in TARGETS and method in NAMED else few
            found += [Cell(method, depth, draw, images) for draw in range(DRAWS if method == "random" else 1)]
    return sorted(found, key=lambda cell: (-cell.images, cell.method == "random", -cell.depth))


def decide(model: Model, cell: Cell, work: Path) -> tuple[ArtifactJob | None, dict[str, Any]]:
    """The prune job of a cell, and what its repair reported."""
    wanted, writing, blocks = CalibrationSettings(), WriteOptions(force=True), model.architecture.blocks
    if cell.method == "whole":
        return None, {}
    if cell.method == "even":
        return plan_keep(model, ",".join(map(str, evenly(blocks, cell.depth))), writing), {}
    if cell.method == "random":
        kept = sorted(random.Random(f"{cell.depth} {cell.draw}").sample(range(blocks), cell.depth))
        return plan_keep(model, ",".join(map(str, kept)), writing), {}
    if cell.method in SCORED:
        scores = measured(model, CalibrationSettings(velocity=True), work, NULL_REPORTER)
        return plan_target(model, BlockSelection(cell.method, cell.depth), scores, writing), {}
    choice = BlockSelection("search", cell.depth)
    job = plan_searched(model, choice, find_blocks(model, choice, wanted, work, NULL_REPORTER), writing)
    if cell.method == "search":
        return job, {}
    states = repair_states(model, wanted, NULL_REPORTER)
    repair_job = RepairJob(with_repair(job, states), states, work, yes=True)
    repaired = repair_job.run(NULL_REPORTER)
    return repaired, repair_job.load() or {}


def velocity_error(model: Model, kept: tuple[int, ...], job: ArtifactJob | None) -> float:
    """On tuning prompts and noises that nothing else here uses."""
    prompts = tuple(prompt.text for prompt in suite("tune", 24))
    found = calibration(model, CalibrationSettings(num_prompts=len(prompts), seed=77), every=2)
    found = replace(found, inputs=replace(found.inputs, prompts=prompts))
    shapes = {name: ref.shape for name, ref in model.weights.tensors.items()}
    added = job.additions if job else {}
    changes = {name: torch.from_numpy(addition.delta(shapes[name]).copy()) for name, addition in added.items()}
    with torch.no_grad():
        return float(found.sample().changed(changes).errors([kept])[kept].mean())


def compute(model: Model, cell: Cell, known: Mapping[str, Any], work: Path) -> Mapping[str, Any]:
    """Choose, cut, paint, judge; what is `known` of the same blocks and repair is not painted again."""
    job, report = decide(model, cell, work)
    kept = tuple(range(model.architecture.blocks))
    opened = model
    if job is not None:
        kept = tuple(index for index in job.plan.sources if index is not None)
    how = [cell.images, list(kept), report.get("changes", "")]
    if known.get("how") == how:
        return known
    click.echo(f"{cell.name}, {cell.images} images", err=True)
    if job is not None:
        write_partial(job, work / "pruned", NULL_REPORTER)
        opened = open_model(locate(str(work / "pruned")))
    found = evaluate(open_generator(opened, "cpu"), cell.images, GenerationSettings(batch=32), 0, "test", NULL_REPORTER)
    return {
        "how": how,
        "method": cell.method,
        "depth": cell.depth,
        "kept": list(kept),
        "velocity_error": velocity_error(model, kept, job),
        "repair": report,
        "answers": answers_of(found),
        **found.to_json(),
    }


def verdicts(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The targets, met or not, as far as their cells are there."""
    lines, lows = [], []
    for depth in sorted(TARGETS, reverse=True):
        one, other = found.get(f"search-{depth}"), found.get(f"bi-{depth}")
        if one and other:
            difference = paired_difference(scores_of(one), scores_of(other)).interval
            lows.append(difference.low)
            lines.append(f"search minus BI at {depth} blocks: {difference}")
    if len(lows) == len(TARGETS):
        met = min(lows) > -0.02 and max(lows) > 0
        lines.append(f"search beats BI (lower bounds above -0.02, one above 0): {'met' if met else 'NOT MET'}")
    whole, shares = found.get(f"whole-{max(c['depth'] for c in found.values())}"), []
    for depth in sorted(TARGETS, reverse=True):
        repaired, plain = found.get(f"search+compensate-{depth}"), found.get(f"bi-{depth}")
        if whole and repaired and plain:
            lost = whole["overall"]["value"] - plain["overall"]["value"]
            won = paired_difference(scores_of(repaired), scores_of(plain)).interval
            beyond = paired_difference(scores_of(repaired), third_back(scores_of(plain), scores_of(whole))).interval
            shares.append(beyond.low)
            lines.append(f"search + compensate minus BI at {depth} blocks: {won}; BI lost {lost:.3f}")
            lines.append(f"search + compensate minus (BI and a third of what it lost) at {depth} blocks: {beyond}")
    if len(shares) == len(TARGETS):
        lines.append(f"at least a third of BI's loss recovered at both: {'met' if min(shares) >= 0 else 'NOT MET'}")
    return lines


def third_back(plain: list[PromptScore], whole: list[PromptScore]) -> list[PromptScore]:
    """What BI pruning would score, had it a third of its loss back: two thirds of one and a third of the other."""
    other = {(score.task, score.prompt): score.right for score in whole}
    return [replace(one, right=(2 * one.right + other[one.task, one.prompt]) / 3) for one in plain]


def rows(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A Markdown table; random draws as their mean and range."""
    lines = ["| blocks | method | kept | score | held out | velocity error | Fréchet | images |", "|" + "---|" * 8]
    ordered = sorted(found.values(), key=lambda cell: (-cell["depth"], ("whole", *METHODS).index(cell["method"])))
    done = set()
    for cell in ordered:
        depth, method = cell["depth"], cell["method"]
        if (depth, method) in done:
            continue
        done.add((depth, method))
        same = [other for other in ordered if (other["depth"], other["method"]) == (depth, method)]
        mean = {
            "held": sum(other["held_out"]["value"] for other in same) / len(same),
            "error": sum(other["velocity_error"] for other in same) / len(same),
            "frechet": sum(other["distribution"]["frechet"] for other in same) / len(same),
        }
        score, kept = cell["overall"], ", ".join(map(str, cell["kept"]))
        text = f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        if method == "random":
            values = [other["overall"]["value"] for other in same]
            text = f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            kept = f"{len(same)} draws"
        lines.append(
            f"| {depth} | {method} | {kept} | {text} | {mean['held']:.3f} | {mean['error']:.3f} "
            f"| {mean['frechet']:.3f} | {cell['pictures']:,} |"
        )
    return lines


def _panels(models: Mapping[str, Mapping[str, Any]], height: float) -> tuple[Any, list[tuple[str, Any, list[Any]]]]:
    """A figure with a panel for each model, and its cells."""
    from matplotlib import pyplot as plt

    count = len(models)
    figure, axes = plt.subplots(1, count, figsize=(5 * count, height), layout="constrained", sharey=True, squeeze=False)
    cells = (list(model["cells"].values()) for model in models.values())
    return figure, list(zip(models, axes[0], cells, strict=True))


def chart(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Score by depth, one line per method, one panel per model."""
    figure, panels = _panels(models, 3.8)
    for word, axes, found in panels:
        for number, method in enumerate(METHODS):
            points: dict[int, list[float]] = {}
            for cell in found:
                if cell["method"] in {method, "whole"}:
                    points.setdefault(cell["depth"], []).append(cell["overall"]["value"])
            depths = sorted(points)
            if len(depths) > 1:
                means = [sum(points[depth]) / len(points[depth]) for depth in depths]
                axes.plot(depths, means, marker="o", color=f"C{number}", label=method)
        axes.set(title=word, xlabel="blocks", ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0][1].set_ylabel("shapes score")
    handles, labels = panels[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(METHODS), fontsize=8)
    figure.savefig(path, dpi=120)


def draw_profiles(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """What each block is worth by itself, by importance and by the velocity; one column per model."""
    from matplotlib import pyplot as plt

    figure, rows = plt.subplots(
        len(SCORED), len(models), figsize=(5 * len(models), 5.2), layout="constrained", sharex="col", squeeze=False
    )
    for column, (word, model) in enumerate(models.items()):
        for axes, metric in zip(rows[:, column], SCORED, strict=True):
            found = model["profiles"][metric]
            values = [block["value"] for block in found]
            reach = [[b["value"] - b["low"] for b in found], [b["high"] - b["value"] for b in found]]
            axes.bar(range(len(found)), values, yerr=reach, color="#4575b4", error_kw={"linewidth": 0.8})
            axes.set(ylabel=TITLES[metric] if column == 0 else "", xticks=range(len(found)))
            axes.grid(axis="y", alpha=0.3)
        rows[0, column].set_title(word)
        rows[-1, column].set_xlabel("block")
    figure.savefig(path, dpi=120)


def draw_table(models: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The scores as a picture: methods by depths, a panel per model, the darker the better."""
    from matplotlib import pyplot as plt

    figure, panels = _panels(models, 3.2)
    for word, axes, found in panels:
        for row, method in enumerate(METHODS):
            for column, depth in enumerate(DEPTHS):
                same = [cell["overall"] for cell in found if (cell["method"], cell["depth"]) == (method, depth)]
                if not same:
                    continue
                values = [overall["value"] for overall in same]
                value, low, high = sum(values) / len(same), same[0]["low"], same[0]["high"]
                if method == "random":
                    low, high = min(values), max(values)
                axes.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=plt.get_cmap("Blues")(value * 0.85)))
                ink = "white" if value > 0.6 else "black"
                axes.text(column + 0.5, row + 0.42, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=11)
                axes.text(
                    column + 0.5,
                    row + 0.75,
                    f"{low:.3f} to {high:.3f}",
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=7,
                )
        axes.set(xlim=(0, len(DEPTHS)), ylim=(len(METHODS), 0), title=f"{word}: score on test prompts")
        axes.set_xticks([column + 0.5 for column in range(len(DEPTHS))], [f"{depth} blocks" for depth in DEPTHS])
        axes.set_yticks([row + 0.5 for row in range(len(METHODS))], METHODS)
        axes.tick_params(length=0)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def journal(word: str, name: str, many: int, few: int) -> None:
    """Compute what is missing of one model; each finished cell is written at once."""
    model = open_model(locate(word))
    identity = model.identity(full_hash=True)
    path = RESULTS / f"methods-{name.replace(':', '-')}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("identity") != identity:
        known = {"name": name, "identity": identity, "machine": machine(), "cells": {}}
    with workplace(None) as work:
        scores = measured(model, CalibrationSettings(velocity=True), work, NULL_REPORTER).to_json()
        known["profiles"] = {name: scores["metrics"][name] for name in SCORED}
        for cell in cells(model.architecture.blocks, many, few):
            known["cells"][cell.name] = compute(model, cell, known["cells"].get(cell.name, {}), work)
            write(known, path)
        write(known, path)


def write(known: Mapping[str, Any], path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(known) + "\n")
    partial.replace(path)


@click.command()
@click.option("--model", "words", multiple=True, default=("sanac:tiny",), show_default=True, metavar="[NAME=]MODEL")
@click.option("--images", "many", default=2048, show_default=True, help="For the cells that a target names.")
@click.option("--few", default=512, show_default=True, help="For the rest.")
@click.option("--table", is_flag=True, help="Compute nothing: print what is there.")
def main(words: tuple[str, ...], many: int, few: int, *, table: bool) -> None:
    """Fill the journals, print tables and verdicts, draw the chart."""
    torch.set_num_threads(1)
    for word in () if table else words:
        name, _, model = word.rpartition("=")
        journal(model, name or model, many, few)
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("methods-*.json"))]
    models = {model["name"]: model for model in reversed(found)}
    for word, model in models.items():
        click.echo(f"\n{word} ({model['machine']})\n")
        for line in (*rows(model["cells"]), "", *verdicts(model["cells"])):
            click.echo(line)
    chart(models, PICTURES / "methods.png")
    draw_table(models, PICTURES / "methods-table.png")
    draw_profiles(models, PICTURES / "profiles.png")


if __name__ == "__main__":
    main()
