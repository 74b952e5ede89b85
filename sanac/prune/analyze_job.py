"""`sanac analyze`: what each block is worth."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sanac.core.artifact.workspace import record
from sanac.core.context import Context, Outcome
from sanac.core.view import Block, Table
from sanac.prune.scores import Scores
from sanac.prune.scoring import plan_scoring
from sanac.prune.settings import AnalyzeSettings


@dataclass(frozen=True, slots=True)
class ScoresView:
    """What there is to show of scores."""

    scores: Scores
    metric: str
    file: Path


def run(word: str | None, settings: AnalyzeSettings, context: Context) -> Outcome:
    """Score the blocks of a model, or read the scores that these very settings gave before."""
    word, opened = context.open_source(word, settings.workspace)
    wanted = replace(settings, velocity=settings.metric == "velocity", yes=settings.yes or settings.dry_run)
    job = plan_scoring(opened, wanted, settings.workspace, settings.out)
    scores = None if settings.force else job.load()
    status = "ok" if scores is None else "cached"
    if scores is None:
        if settings.out and not settings.force:
            job.refuse_other_scores()
        job.check_budget(context.reporter)
    if settings.dry_run:
        done = f"{job.folder} {'already holds these' if scores else 'would hold the scores'}"
        return Outcome(status, {"dry_run": True}, job.folder.path, done, lambda: [done])
    if scores is None:
        if settings.fresh:
            job.forget()
        scores = job.compute(context.reporter)
    elif settings.save_embeddings:
        job.captions(context.reporter)
    record(settings.workspace, word)
    view = ScoresView(scores, settings.metric, job.file.path)
    return Outcome(status, scores.to_json(), job.folder.path, view, partial(show_scores, view))


def show_scores(view: ScoresView) -> Iterator[Block]:
    """A row per block, and the file."""
    found = view.scores.metrics[view.metric]
    order = sorted(range(len(found)), key=lambda index: -found[index].value)
    rows = tuple(
        (str(index), f"{score.value:.5f}", f"{score.low:.5f}", f"{score.high:.5f}", str(order.index(index) + 1))
        for index, score in enumerate(found)
    )
    yield Table(("block",), (view.metric, "from", "to", "rank"), rows)
    yield str(view.file)
