"""Chart of block scores: a bar per block with its interval, and a heat map of blocks by timestep."""

from dataclasses import replace
from pathlib import Path

from sanac.core.context import Context, Outcome
from sanac.core.view import chain
from sanac.prune.analyze_job import ScoresView
from sanac.prune.scores import Scores
from sanac.prune.settings import AnalyzeSettings

TITLES = {
    "bi": "block importance, 1 - cos",
    "norm": "relative change of hidden states",
    "velocity": "velocity error without the block",
}


def draw(scores: Scores, metric: str, folder: Path) -> list[Path]:
    """Write the chart of a metric as <metric>.png and <metric>.svg in `folder`; returns both paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "sanac"  # the same scores give the same file
    from matplotlib import pyplot as plt

    found = scores.metrics[metric]
    figure, (bars, heat) = plt.subplots(
        2, 1, figsize=(max(6.0, 0.16 * len(found) + 3), 5.5), layout="constrained", height_ratios=(3, 2)
    )
    values = [score.value for score in found]
    reach = [[score.value - score.low for score in found], [score.high - score.value for score in found]]
    bars.bar(range(len(found)), values, yerr=reach, color="#4575b4", ecolor="#333333", error_kw={"linewidth": 0.8})
    bars.set(ylabel=TITLES.get(metric, metric), title=f"{scores.name}: {scores.settings.get('num_prompts')} prompts")
    bars.margins(x=0.01)
    bars.grid(axis="y", alpha=0.3)
    shown = heat.imshow([*zip(*(score.by_step for score in found), strict=True)], aspect="auto", cmap="viridis")
    heat.set(xlabel="block", ylabel="sampler step")
    figure.colorbar(shown, ax=heat)
    paths = [folder / f"{metric}.png", folder / f"{metric}.svg"]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
    return paths


def draw_outcome(outcome: Outcome, settings: AnalyzeSettings, _context: Context) -> Outcome:
    """Draw the chart of `sanac analyze` beside its scores, and name its files."""
    if not isinstance(outcome.view, ScoresView) or outcome.out is None:
        return outcome
    files = [str(path) for path in draw(outcome.view.scores, settings.metric, outcome.out)]
    return replace(outcome, data={"pictures": files, **outcome.data}, show=chain(outcome.show, lambda: files))
