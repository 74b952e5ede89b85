"""The training curves of sanac:tiny as data and picture: docs/results/training.json and docs/pictures/training.png.

python benchmarks/training.py build/tiny      (the folder that `python -m sanac.tiny.train` filled)
"""

import json
from pathlib import Path

import click
import matplotlib as mpl
from measure import machine

mpl.use("Agg")

STAGES = {"shallow": "6 blocks", "deep": "grown to 12", "control": "12 from scratch"}
COST = {"shallow": 0.5, "deep": 1.0, "control": 1.0}  # of a step, in steps of 12 blocks
SMOOTH = 4  # logged means that one point stands for


def read(folder: Path) -> dict[str, list[list[float]]]:
    """(step, loss) per stage, thinned."""
    found = {}
    for stage in STAGES:
        path = folder / stage / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        groups = [lines[start : start + SMOOTH] for start in range(0, len(lines), SMOOTH)]
        found[stage] = [
            [group[-1]["step"], round(sum(line["loss"] for line in group) / len(group), 5)] for group in groups
        ]
    return found


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """Loss by compute; what is grown goes on where the shallow model ended."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    begun = curves["shallow"][-1][0] * COST["shallow"] if curves["shallow"] else 0.0
    for stage, points in curves.items():
        if points:
            start = begun if stage == "deep" else 0.0
            axes.plot([start + step * COST[stage] for step, _ in points], [y for _, y in points], label=STAGES[stage])
    axes.set(xlabel="compute, in steps of 12 blocks", ylabel="loss", ylim=(0.45, 1.2))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs"), show_default=True)
def main(folder: Path, out: Path) -> None:
    """Write OUT/results/training.json and OUT/pictures/training.png."""
    curves = read(folder)
    (out / "results" / "training.json").write_text(json.dumps({"machine": machine(), "curves": curves}) + "\n")
    draw(curves, out / "pictures" / "training.png")
    for stage, points in curves.items():
        if points:
            click.echo(f"{STAGES[stage]}: {points[-1][0]:,} steps, loss {points[-1][1]:.4f}")


if __name__ == "__main__":
    main()
