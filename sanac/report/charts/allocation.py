"""Chart of a bit allocation: the scheme and the sensitivity of every weight."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sanac.core.artifact.measurements import measurements_in
from sanac.core.atomic import atomic_path
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.quantize.allocation_units import UNQUANTIZED
from sanac.quantize.job import AllocationView
from sanac.quantize.settings import QuantizeSettings

_PLACE = re.compile(r"(?:.*\.)?(transformer_blocks|layers)\.(\d+)(?:\.(.+))?")
_COLORS = ("#d9d9d9", "#4575b4", "#fdae61", "#d73027", "#5e4fa2", "#66bd63")


def draw(units: Sequence[Mapping[str, Any]], schemes: Sequence[str], title: str, path: ConfinedPath) -> None:
    """Write the chart: a row per kind of weight, a column per block; `schemes` from most bits to fewest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    places = {unit["unit"]: _place(unit) for unit in units}
    kinds = sorted({kind for kind, _ in places.values()})
    across = 1 + max(column for _, column in places.values())
    given, errors = ([[math.nan] * across for _ in kinds] for _ in range(2))
    for unit in units:
        kind, column = places[unit["unit"]]
        given[kinds.index(kind)][column] = schemes.index(unit["scheme"])
        errors[kinds.index(kind)][column] = math.log10(max(1e-12, *unit["errors"].values()))
    size = (max(7.0, 0.2 * across + 4), 2 * (0.25 * len(kinds) + 1.2))
    figure, (top, bottom) = plt.subplots(2, 1, figsize=size, layout="constrained", sharex=True)
    colors = ListedColormap(_COLORS[: len(schemes)])
    top.imshow(given, aspect="auto", cmap=colors, vmin=-0.5, vmax=len(schemes) - 0.5, interpolation="none")
    patches = [Patch(color=_COLORS[number], label=scheme) for number, scheme in enumerate(schemes)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    shown = bottom.imshow(errors, aspect="auto", cmap="viridis", interpolation="none")
    figure.colorbar(shown, ax=bottom, label="error with only this weight\nin the fewest bits, log10")
    for axes in (top, bottom):
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    top.set_title(title)
    bottom.set_xlabel("block")
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def _place(unit: Mapping[str, Any]) -> tuple[str, int]:
    """(kind, block) of a unit; units outside the blocks are drawn in the first column."""
    name = str(unit["unit"])
    found = _PLACE.fullmatch(name)
    if not found:
        return name.removesuffix(".weight"), 0
    return (found[3].removesuffix(".weight") if found[3] else "text encoder"), int(found[2])


def draw_outcome(outcome: Outcome, settings: QuantizeSettings, _context: Context) -> Outcome:
    """Draw the allocation of a budget beside its measurement."""
    view = outcome.view
    if isinstance(view, AllocationView) and outcome.out is not None and not settings.dry_run:
        path = measurements_in(outcome.out) / "allocation.png"
        draw(view.rows, (UNQUANTIZED, *view.schemes), view.title, path)
    return outcome
