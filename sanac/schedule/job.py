"""`sanac schedule`: finds a schedule, and writes the model with it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sanac.core.artifact.cached_step import NotComputedYet, run_step
from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.artifact.schedule import Schedule
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.errors import UsageError
from sanac.core.view import Block, Table, chain
from sanac.core.write.job import ArtifactJob, plan_artifact
from sanac.core.write.run import run_job, unfinished_plan
from sanac.judge.intervals import Difference, Interval
from sanac.schedule.front import Front, FrontRow
from sanac.schedule.front_job import FrontJob, plan_front
from sanac.schedule.settings import ScheduleSettings
from sanac.schedule.velocity_error import plan_errors

MEASUREMENT = "schedule"
SUITES = {
    "shapes": "shapes suite, tuning prompts",
    "unseen": "shapes suite, tuning prompts and unseen contents",
    "prompts": "your prompts",
}


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A front, and the row that was chosen."""

    front: Front
    row: FrontRow
    confirm: str
    judge: str = ""  # what scores images of the user's prompts


def run(word: str | None, settings: ScheduleSettings, context: Context) -> Outcome:
    """Find the front, choose a schedule and write it with the model."""
    word, opened = context.open_newest(word, settings.workspace, "schedule")
    opened = opened.with_loras(settings.lora)
    _check(opened)
    workspace = ConfinedPath(settings.workspace)
    errors = plan_errors(opened, settings, workspace, context.reporter)
    job = plan_front(opened, settings, errors, workspace)
    try:
        front = _front(job, settings, context)
    except NotComputedYet as missing:
        return unfinished_plan(missing.what, _artifact(opened, None, settings))
    row = front.at(settings.budget) if settings.budget is not None else front.cheapest(settings.max_loss or 0.0)
    outcome = run_job(word, _artifact(opened, row.chosen, settings), settings, context)
    view = ScheduleView(front, row, job.confirm, job.judge)
    if not settings.dry_run:
        figures = {"forwards": row.chosen.forwards, "share": row.chosen.forwards / front.whole.forwards}
        if row.against_whole:
            figures["against_whole"] = row.against_whole.interval.value
        about = {"chosen": row.chosen.to_json(), "budget": row.budget, "confirmed": job.confirm, **front.to_json()}
        about |= {"judge": job.judge, "prompts": len(job.prompts)} if job.prompts else {}
        write_measurement(Path(str(outcome.out)), MEASUREMENT, about, figures)
    data = {"model": opened.located.name, "schedule": row.chosen.to_json(), "forwards": row.chosen.forwards}
    data |= {"front": front.to_json(), "figures": str(job.file.parent), **outcome.data}
    return replace(outcome, data=data, view=view, show=chain(partial(_show, view), outcome.show))


def _check(opened: Model) -> None:
    if opened.schedule is not None and opened.schedule.guidance_inside is None:
        raise UsageError(
            f"{opened.located.name} already has a schedule",
            why=str(opened.schedule),
            hint="sanac schedule the model that it was found for",
        )


def _front(job: FrontJob, settings: ScheduleSettings, context: Context) -> Front:
    """The front, found or read."""
    if not settings.fresh and (known := job.load()) is not None:
        return known
    return run_step(job, context.reporter, dry=settings.dry_run, fresh=settings.fresh)


def _artifact(opened: Model, schedule: Schedule | None, settings: ScheduleSettings) -> ArtifactJob:
    """The job that writes the model with a schedule; None: one of the same size, for a plan."""
    blocks = opened.architecture.blocks
    recorded = {"schedule": schedule.to_json()} if schedule else {}
    job = plan_artifact("schedule", opened, keep_blocks(blocks, range(blocks)), recorded, settings.write_options())
    return replace(job, new_schedule=schedule, description=str(schedule or ""))


def _show(view: ScheduleView) -> Iterator[Block]:
    """The front as a table, and what was chosen."""
    front, chosen = view.front, view.row
    rows = [_cells("whole", front.whole, front.score, None, front.unseen)]
    for row in front.rows:
        rows.append(_cells(f"{row.budget:g}", row.schedule, row.score, row.against_plain, row.unseen))
        rows.append(_cells("  in plain steps", row.plain, row.plain_score, None, row.plain_unseen))
    numbers = ("forwards", "steps", "guided", "score", "from", "to", "to plain", "from", "to", "unseen")
    judged = front.score is not None
    shown = 3 if not judged else len(numbers) if front.unseen else len(numbers) - 1
    yield Table(("budget",), numbers[:shown], tuple(row[: shown + 1] for row in rows))
    if judged:
        suite = ", ".join(filter(None, (SUITES[view.confirm], view.judge)))
        yield f"scores: {suite}, 95 % intervals; differences to plain steps are paired by prompt"
    if front.unseen:
        yield "unseen: right images of contents that training never saw"
    yield f"chosen for {chosen.budget:g}: {chosen.chosen}"
    if not chosen.gains:
        yield "plain steps of the whole model are as good there: the interval of the difference includes zero"
    elif front.loses_unseen(chosen):
        yield "it loses more on contents that training never saw: see the last column, or choose with --confirm unseen"


def _cells(
    name: str, schedule: Schedule, score: Interval | None, ahead: Difference | None, unseen: Interval | None
) -> tuple[str, ...]:
    values = [f"{one:.3f}" for one in (score.value, score.low, score.high)] if score else ["", "", ""]
    found = ahead.interval if ahead else None
    values += [f"{one:+.3f}" for one in (found.value, found.low, found.high)] if found else ["", "", ""]
    values.append(f"{unseen.value:.3f}" if unseen else "")
    return (name, f"{schedule.forwards:g}", str(schedule.steps), str(sum(schedule.guided)), *values)
