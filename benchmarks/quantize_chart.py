"""The chart of benchmarks/quantize.py: what a model's schemes cost in quality, by how small they make it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

mpl.use("Agg")

CHART = Path("docs/pictures/quantize.png")


def chart(models: Mapping[str, Mapping[str, Any]], order: Sequence[str]) -> None:
    """Score and velocity SQNR by the transformer's bytes; scores only where they are on as many prompts as most."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    most = max(row["pictures"] for entry in models.values() for row in entry["rows"].values())
    for number, entry in enumerate(models.values()):
        rows = entry["rows"]
        whole = rows["as it was"]["bytes"]["transformer"]
        shown = [row for row in rows if "encoder" not in row]  # those of the transformer
        for place, row in enumerate(shown):
            number_of = order.index(row)  # the same look for the same row of every model
            found, marker, color = rows[row], "os^Dv<>Pp*Xhd"[number_of % 13], f"C{number_of % 10}"
            size = found["bytes"]["transformer"] / whole + 0.003 * (place % 5 - 2)  # beside each other
            low, high = (abs(found["overall"][end] - found["overall"]["value"]) for end in ("low", "high"))
            label = row if number == 0 else None
            if found["pictures"] == most:
                panels[0].errorbar(
                    size, found["overall"]["value"], [[low], [high]], marker=marker, color=color, label=label,
                    markerfacecolor="none" if number else None, linestyle="none", capsize=2,
                )  # fmt: skip
            if found["velocity_error"]:
                level = -10 * np.log10(found["velocity_error"])
                fill = "none" if number else color
                panels[1].plot(size, level, marker=marker, color=color, markerfacecolor=fill, linestyle="none")
    panels[0].set(xlabel="transformer, share of bf16", ylabel="shapes score, test prompts")
    panels[1].set(xlabel="transformer, share of bf16", ylabel="velocity SQNR, dB")
    for axes in panels:
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, title="filled: 12 blocks\nhollow: 6, recovered")
    figure.savefig(CHART, dpi=110)
