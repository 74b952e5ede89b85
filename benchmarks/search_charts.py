"""The chart of benchmarks/search.py: score against block-forwards, a panel per model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"best-of": ("#4575b4", "o-", "best of N"), "fewer": ("#999999", "s--", "whole model, fewer steps")}
POINTS = {
    "halving": ("#1a9850", "D", "halving"),
    "gated": ("#d73027", "^", "gates"),
    "until": ("#fdae61", "v", "until sure"),
    "two-stage": ("#762a83", "P", "two stages"),
    "reflection": ("#c51b7d", "X", "reflection"),
    "zero-order": ("#35978f", "<", "zero-order"),
    "paths": ("#8c510a", ">", "paths"),
    "prm": ("#000000", "1", "greedy steps (PRM)"),
}


def draw(found: Mapping[str, Any], path: Path) -> None:
    """A panel per set; simulated settings that were not chosen are left out."""
    sets = found["sets"]
    figure, panels = plt.subplots(1, len(sets), figsize=(5.2 * len(sets), 4.6), layout="constrained")
    for axes, (name, part) in zip(panels, sets.items(), strict=True):
        rows = {row: part["rows"][row] for row in part["reported"] if ", run" not in row}
        if not name.startswith("12 blocks"):
            rows |= {f"whole model, {steps} steps": row for steps, row in found["whole in steps"].items()}
        _lines(axes, rows)
        _points(axes, rows)
        axes.set(title=name, xlabel="block-forwards per prompt", ylabel="score by the detector", xscale="log")
        ticks = [row["block_forwards"] for row in rows.values() if row["strategy"] == "best-of"]
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _lines(axes: "Axes", rows: Mapping[str, Any]) -> None:
    for strategy, (color, style, label) in LINES.items():
        mine = sorted(
            (row for name, row in rows.items() if row["strategy"] == strategy), key=lambda row: row["block_forwards"]
        )
        if mine:
            scores = [row["score"] for row in mine]
            values = [one["value"] for one in scores]
            reach = [[one["value"] - one["low"] for one in scores], [one["high"] - one["value"] for one in scores]]
            costs = [row["block_forwards"] for row in mine]
            axes.errorbar(costs, values, yerr=reach, fmt=style, color=color, label=label, capsize=3)


def _points(axes: "Axes", rows: Mapping[str, Any]) -> None:
    for strategy, (color, marker, label) in POINTS.items():
        mine = [row for row in rows.values() if row["strategy"] == strategy]
        costs, values = [row["block_forwards"] for row in mine], [row["score"]["value"] for row in mine]
        axes.plot(costs, values, marker, color=color, label=label, markersize=8, linestyle="none")
