"""Chart of schedules: score against cost for schedules and plain steps, and what the chosen schedule does per step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core.context import Context, Outcome
from sanac.core.view import chain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GUIDED, _UNGUIDED, _PLAIN = "#4575b4", "#91bfdb", "#d73027"
Point = tuple[float, Mapping[str, float]]  # block-forwards, score with its interval


def draw(front: Mapping[str, Any], chosen: Mapping[str, Any], name: str, folder: Path) -> list[Path]:
    """Write the chart of a front and its chosen schedule, both as JSON, as schedule.png and .svg; returns the paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "sanac"  # the same front gives the same file
    from matplotlib import pyplot as plt

    whole, rows = front["whole"], front["rows"]
    judged = whole["score"] is not None
    figure, found = plt.subplots(1, 1 + judged, figsize=(5 + 5 * judged, 4), layout="constrained", squeeze=False)
    axes = found[0]
    if judged:
        draw_points(axes[0], [(row["forwards"], row["score"]) for row in rows], "schedule", _GUIDED, "o-")
        plain = [(row["plain_forwards"], row["plain_score"]) for row in rows]
        plain.append((whole["forwards"], whole["score"]))
        draw_points(axes[0], plain, "whole model, plain steps", _PLAIN, "s--")
        axes[0].set(xlabel="block-forwards per picture", ylabel="score", title=name)
        axes[0].legend(loc="lower right")
        axes[0].grid(alpha=0.3)
    draw_steps(axes[-1], chosen)
    paths = [folder / "schedule.png", folder / "schedule.svg"]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
    return paths


def draw_steps(axes: "Axes", schedule: Mapping[str, Any]) -> None:
    """A bar per sampler step: its depth, darker where it is guided."""
    steps = schedule["steps"]
    colors = [_GUIDED if step["guided"] else _UNGUIDED for step in steps]
    axes.bar(range(1, len(steps) + 1), [step["blocks"] for step in steps], color=colors)
    axes.set(xlabel="sampler step (dark: guided)", ylabel="blocks", ylim=(0, len(schedule["order"])))
    axes.set(title="the chosen schedule", xticks=range(1, len(steps) + 1, -(-len(steps) // 10)))


def draw_points(axes: "Axes", points: Sequence[Point], label: str, color: str, style: str) -> None:
    """A line of scores against cost, with intervals."""
    kept = sorted(points, key=lambda point: point[0])
    scores = [score for _, score in kept]
    reach = [[one["value"] - one["low"] for one in scores], [one["high"] - one["value"] for one in scores]]
    values = [one["value"] for one in scores]
    axes.errorbar([cost for cost, _ in kept], values, yerr=reach, fmt=style, color=color, label=label, capsize=2)


def draw_outcome(outcome: Outcome, _settings: Any, _context: Context) -> Outcome:
    """Draw the chart of `sanac schedule` beside the front's figures, and name its files."""
    data = outcome.data
    if "front" not in data:
        return outcome
    files = [str(path) for path in draw(data["front"], data["schedule"], data["model"], Path(data["figures"]))]
    return replace(outcome, data={"pictures": files, **data}, show=chain(outcome.show, lambda: files))
