"""Charts of benchmarks/judges.py: score against the number of candidates, and what previews tell by step."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#4575b4", "#1a9850", "#fdae61", "#d73027", "#762a83")
_SOURCES = {"judge": ("-", "judge of previews"), "states": ("--", "head on states"), "detector": (":", "detector")}


def draw_best_of(found: Mapping[str, Any], path: Path) -> None:
    """Scores of the judge's choice with intervals, the oracle's faintly, and the winners' diversity."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for color, (name, row) in zip(_COLORS, found["sets"].items(), strict=False):
        counts = [int(count) for count in row["best of"]["judge"]]
        scores = list(row["best of"]["judge"].values())
        values = [one["value"] for one in scores]
        reach = [[one["value"] - one["low"] for one in scores], [one["high"] - one["value"] for one in scores]]
        left.errorbar(counts, values, yerr=reach, fmt="o-", color=color, label=name, capsize=3)
        left.plot(counts, [one["value"] for one in row["best of"]["oracle"].values()], ":", color=color)
        right.plot(counts, [one["value"] for one in row["diversity"].values()], "o-", color=color, label=name)
    left.set(xlabel="candidates N", ylabel="score by the detector", xscale="log", title="best of N by the judge")
    right.set(xlabel="candidates N", ylabel="diversity of the winners", xscale="log", ylim=(0, 1.3))
    right.set_title("1: as varied as single images")
    for axes in (left, right):
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.plot([], [], ":", color="gray", label="chosen by the detector itself")
    left.legend(loc="lower right", fontsize=8)
    _save(figure, path)


def draw_previews(found: Mapping[str, Any], path: Path) -> None:
    """AUC for the final verdict by sampler step, among all images and within each prompt; one column per set."""
    sets = found["sets"]
    how: dict[str, Any] = {"layout": "constrained", "sharey": True, "sharex": True}
    figure, panels = plt.subplots(2, len(sets), figsize=(3.4 * len(sets), 6.4), **how)
    for column, (name, row) in enumerate(sets.items()):
        for axes, mark in zip(panels[:, column], ("", " within"), strict=True):
            _panel(axes, row["previews"], mark)
        panels[0, column].set(title=name)
        panels[1, column].set(xlabel="sampler step of 20", xticks=(2, 6, 10, 16, 20))
    panels[0, 0].set_ylabel("AUC among all images")
    panels[1, 0].set_ylabel("AUC within a prompt")
    panels[0, 0].legend(loc="lower right", fontsize=8)
    _save(figure, path)


def _panel(axes: "Axes", rows: Mapping[str, Any], mark: str) -> None:
    for color, (key, (style, label)) in zip(_COLORS, _SOURCES.items(), strict=False):
        steps = [int(step) for step in rows]
        figures = [row[key + mark] for row in rows.values()]
        axes.plot(steps, [one[0] for one in figures], style, color=color, marker="o", markersize=3, label=label)
        axes.fill_between(steps, [one[1] for one in figures], [one[2] for one in figures], color=color, alpha=0.12)
    axes.axhline(0.5, color="gray", linewidth=0.8)
    axes.grid(alpha=0.3)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
