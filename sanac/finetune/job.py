"""`sanac finetune`: a short training, recorded as an artifact."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from sanac.core.artifact.cached_step import NotComputedYet
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.devices import parse_device
from sanac.core.write.job import ArtifactJob, WriteOptions
from sanac.core.write.run import run_job
from sanac.finetune.plan import plan_finetune, resolve_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.training_job import FinetuneJob
from sanac.nn.device import planning_for
from sanac.train.loop import Callbacks
from sanac.train.trackers import Logged, trackers


@dataclass(frozen=True, slots=True)
class TrainingView:
    """What a training run leaves behind."""

    folder: ConfinedPath  # metrics, samples and resume state of the run
    about: Mapping[str, Any]


def run(word: str | None, settings: FinetuneSettings, context: Context) -> Outcome:
    """Prepare the data, train, and write the result."""
    word, opened = context.open_newest(word, settings.workspace, "finetune")
    teacher = context.open(settings.teacher) if settings.teacher else None
    if settings.plan_for:
        return _planned_for(settings.plan_for, opened, settings, teacher)
    reporter = context.reporter
    try:
        plan = plan_finetune(opened, settings, ConfinedPath(settings.workspace), reporter, teacher)
    except NotComputedYet as missing:
        done = f"would prepare {missing.what} first, then train"
        return Outcome("ok", {"dry_run": True, "computed_first": missing.what}, show=lambda: [done])
    job = plan.artifact_job(WriteOptions(force=settings.force, fresh=settings.fresh))
    folder = plan.folder(job)
    with ExitStack() as stack:

        def complete(planned: ArtifactJob) -> ArtifactJob:
            logged = stack.enter_context(
                trackers(list(settings.log_with), settings.workspace / "runs", plan.plain_settings)
            )
            return plan.trained(planned, reporter, _callbacks(plan, settings, logged, folder, context))

        outcome = run_job(word, job, settings, context, complete)
    about = {"losses": dict(plan.losses), "batch": plan.batch, "learning_rate": plan.rate}
    view = TrainingView(folder, about)
    return replace(outcome, view=view, data={**outcome.data, "memory": plan.training.memory.total})


def _planned_for(name: str, opened: Model, settings: FinetuneSettings, teacher: Model | None) -> Outcome:
    """What would be chosen on another device, and what it would take there."""
    with planning_for(parse_device(name)):
        plan = resolve_finetune(opened, settings, ConfinedPath(settings.workspace), teacher)
        lines, (teaching, training) = plan.describe(), plan.seconds
        data = {
            "device": name,
            "precision": plan.training.precision,
            "micro_batch": plan.training.micro_batch,
            "changes": plan.training.changes(plan.first),
            "memory": plan.training.memory.total,
            "teacher_forwards": plan.teacher_forwards,
            "seconds": {"teacher": teaching, "training": training},
        }
    return Outcome("ok", data, show=lambda: [f"on {name}:", *(f"  {line}" for line in lines)])


def _callbacks(
    plan: FinetuneJob, settings: FinetuneSettings, logged: Logged, folder: ConfinedPath, context: Context
) -> Callbacks:
    """Callbacks of the run: trackers, and the sample generator."""
    if not settings.sample_every or context.training_samples is None:
        return Callbacks(logged)
    arguments = (settings.sample_prompt, settings.sample_every, folder / "samples", settings.device)
    return Callbacks(logged, context.training_samples(plan.model, *arguments).stepped)
