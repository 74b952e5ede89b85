"""The score of sanac:tiny by depth, blocks taken out evenly, nothing recovered: docs/results/depth.json and a chart.

python benchmarks/depth.py --images 2048      (finished cells are kept: run it again to continue)
"""

import json
from pathlib import Path

import click
import matplotlib as mpl
from judged import answers_of, scores_of
from measure import machine, workplace

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.judge.intervals import paired_difference
from sanac.nn.generation import GenerationSettings
from sanac.prune.keep_list import plan_keep
from sanac.runtime.pipeline import open_generator
from sanac.verify.shapes_suite import evaluate

mpl.use("Agg")

DEPTHS = (12, 10, 8, 6, 4, 2)


def evenly(blocks: int, kept: int) -> tuple[int, ...]:
    """So many of the blocks, as evenly spaced as can be; the first and the last among them."""
    return tuple(round(index * (blocks - 1) / (kept - 1)) for index in range(kept))


def cell(model: str, depth: int, images: int, work: Path) -> dict:
    """One depth: prune, paint, judge."""
    opened = open_model(locate(model))
    kept = evenly(opened.architecture.blocks, depth)
    if depth < opened.architecture.blocks:
        job = plan_keep(opened, ",".join(map(str, kept)), WriteOptions(force=True))
        write_partial(job, work / "pruned", NULL_REPORTER)
        opened = open_model(locate(str(work / "pruned")))
    found = evaluate(open_generator(opened, "cpu"), images, GenerationSettings(batch=32), 0, "test", NULL_REPORTER)
    return {"depth": depth, "kept": list(kept), "answers": answers_of(found)} | found.to_json()


def chart(models: dict[str, list[dict]], path: Path) -> None:
    """Score and distance by depth."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, found_cells in models.items():
        cells = sorted(found_cells, key=lambda found: found["depth"])
        depths = [found["depth"] for found in cells]
        values = [found["overall"]["value"] for found in cells]
        scores = [found["overall"] for found in cells]
        bounds = [[abs(score[end] - score["value"]) for score in scores] for end in ("low", "high")]
        drawn = left.errorbar(depths, values, bounds, marker="o", capsize=3, label=name)
        color = drawn.lines[0].get_color()
        held_out = [found["held_out"]["value"] for found in cells]
        left.plot(depths, held_out, linestyle=":", marker=".", color=color, label=f"{name}, held out")
        right.plot(depths, [found["distribution"]["frechet"] for found in cells], marker="o", color=color)
    left.set(xlabel="blocks", ylabel="shapes score", ylim=(0, 1))
    right.set(xlabel="blocks", ylabel="Fréchet distance to rendered scenes", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=4, fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xticks(DEPTHS)
    figure.savefig(path, dpi=120)


def compare(models: dict[str, list[dict]]) -> None:
    """At full depth, the first model against each of the others, prompt by prompt."""
    whole = {word: max(found, key=lambda cell: cell["depth"]) for word, found in models.items()}
    first, *others = whole
    for other in others:
        difference = paired_difference(scores_of(whole[first]), scores_of(whole[other]))
        click.echo(f"\n{first} minus {other}, {whole[first]['depth']} blocks: {difference.interval}")


@click.command()
@click.option("--model", "words", multiple=True, default=("sanac:tiny",), show_default=True)
@click.option("--images", default=2048, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(words: tuple[str, ...], images: int, out: Path) -> None:
    """Write OUT/results/depth.json and OUT/pictures/depth.png; print the table."""
    results = out / "results" / "depth.json"
    known = json.loads(results.read_text()) if results.exists() else {"models": {}}
    with workplace(None) as work:
        for word in words:
            identity = open_model(locate(word)).identity(full_hash=True)
            models = known["models"]
            if models.get(word, {}).get("identity") != identity:
                models[word] = {"identity": identity, "cells": []}
            cells = models[word]["cells"]
            for depth in DEPTHS:
                if not any(found["depth"] == depth and found["pictures"] == images for found in cells):
                    cells.append(cell(word, depth, images, work))
                    results.write_text(json.dumps({"machine": machine(), "models": models}) + "\n")
    chart({word: found["cells"] for word, found in known["models"].items()}, out / "pictures" / "depth.png")
    click.echo("| model | blocks | kept | score | held out | Fréchet | diversity |\n|---|---|---|---|---|---|---|")
    for word, found in known["models"].items():
        for row in found["cells"]:
            overall, apart = row["overall"], row["held_out"]
            score = f"{overall['value']:.3f} [{overall['low']:.3f}, {overall['high']:.3f}]"
            kept = ", ".join(map(str, row["kept"]))
            distance = row["distribution"]
            click.echo(
                f"| {word} | {row['depth']} | {kept} | {score} | {apart['value']:.3f} "
                f"| {distance['frechet']:.3f} | {distance['diversity']['value']:.2f} |"
            )
    compare({word: found["cells"] for word, found in known["models"].items()})


if __name__ == "__main__":
    main()
