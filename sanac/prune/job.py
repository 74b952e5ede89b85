"""`sanac prune`: chooses the blocks to keep, repairs them if asked to, and writes the artifact."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sanac.core.artifact.cached_step import NotComputedYet, load_or_check
from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.progress import NULL_REPORTER
from sanac.core.settings import flag_name, settings_of
from sanac.core.write.job import ArtifactJob, refuse_quantized
from sanac.core.write.run import run_job, unfinished_plan
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.prune.keep_list import plan_keep
from sanac.prune.scores import check_model, read_scores
from sanac.prune.selection import BlockSelection, depth_of, plan_target
from sanac.prune.settings import PruneSettings

if TYPE_CHECKING:  # the others compute with torch: imported where they are needed
    from sanac.nn.calibration.job import Calibration

_ALWAYS_USED = ("yes", "memory_limit", "seed", "device")


def run(word: str | None, settings: PruneSettings, context: Context) -> Outcome:
    """Decide which blocks stay, then write them; with --compensate, repaired."""
    word, opened = context.open_source(word, settings.workspace)
    opened = opened.with_loras(settings.lora)
    refuse_quantized(opened, "prune")
    depth = None if settings.keep else depth_of(opened, settings.target_blocks, settings.target_params)
    if settings.select is None and depth is not None:
        chosen = replace(settings, select="search") if settings.confirm else None
        settings = chosen or _with_default(opened, settings, depth, context)
    if settings.confirm:  # before hours of searching
        from sanac.prune.confirm_job import check_confirmable

        check_confirmable(opened, settings)
    selection = _selection(opened, settings, depth, context)
    _warn_of_unused(selection, settings, context)
    calibration = replace(settings, dry=settings.dry_run, yes=settings.yes or settings.dry_run)
    states = None
    if settings.compensate:
        from sanac.prune.repair_job import repair_states

        states = repair_states(opened, calibration, context.reporter)
        if selection and not settings.scores:  # choosing may take hours: what the repair needs is checked before
            states.check_room(NULL_REPORTER)
    try:
        job = _plan(opened, selection, settings, calibration, states, context)
        if states is None:
            return run_job(word, job, settings, context)
        return _run_repaired(word, job, states, settings, context)
    except NotComputedYet as missing:
        kept = ",".join(map(str, range(selection.target))) if selection else str(settings.keep)
        return unfinished_plan(missing.what, plan_keep(opened, kept, settings.write_options()))


def _with_default(opened: Model, settings: PruneSettings, depth: int, context: Context) -> PruneSettings:
    """The settings with the default method of selection."""
    BlockSelection("bi", depth, settings.protect_first, settings.protect_last).check(opened.architecture.blocks)
    if settings.scores is not None:
        return replace(settings, select="bi")
    from sanac.prune.default_selection import with_selection

    return with_selection(opened, settings, depth, context.reporter)


def _selection(opened: Model, settings: PruneSettings, depth: int | None, context: Context) -> BlockSelection | None:
    """How the blocks are chosen; None where --keep names them."""
    if depth is None:
        return None
    selection = BlockSelection(settings.select or "bi", depth, settings.protect_first, settings.protect_last)
    selection.check(opened.architecture.blocks)
    if settings.target_params is not None:
        context.reporter.note(f"--target-params {settings.target_params}: nearest is {depth} blocks")
    return selection


def _warn_of_unused(selection: BlockSelection | None, settings: PruneSettings, context: Context) -> None:
    """Name the settings that were typed and have no effect."""
    if selection is None and {"scores", "protect_first", "protect_last", "select"} & settings.typed:
        context.reporter.warn("--keep names the blocks: --scores, --select and --protect-* have no effect")
    typed = [name for name in settings_of(CalibrationSettings) if name in settings.typed - {*_ALWAYS_USED}]
    if not settings.compensate and (selection is None or settings.scores):
        reason = "--scores FILE was measured before" if settings.scores else "--keep names the blocks"
        unused = typed
    else:
        searched = selection is None or selection.select == "search"
        reason = "search and repair compare velocities"
        unused = [name for name in typed if name == "reduce" and (searched or settings.scores)]
    if unused:
        context.reporter.warn(f"{reason}: {', '.join(map(flag_name, unused))} have no effect")


def _plan(
    opened: Model,
    selection: BlockSelection | None,
    settings: PruneSettings,
    calibration: CalibrationSettings,
    states: "Calibration | None",
    context: Context,
) -> ArtifactJob:
    """The job of the blocks named by hand, found by a search, or ranked by scores: a file's, or measured here."""
    options, reporter = settings.write_options(), context.reporter
    if selection is None:
        return plan_keep(opened, str(settings.keep), options)
    if selection.select == "search":
        from sanac.prune.search_job import find_blocks, plan_searched

        found = find_blocks(opened, selection, calibration, ConfinedPath(settings.workspace), reporter)
        reporter.note(f"search: velocity error {found.error:.4f} on held-out prompts")
        if settings.confirm:
            from sanac.prune.confirm_job import confirmed

            found = confirmed(opened, selection, found, settings, states, context)
        return plan_searched(opened, selection, found, options)
    if settings.scores is not None:
        scores = read_scores(settings.scores)
        check_model(scores, opened, settings.scores)
    else:
        from sanac.prune.scoring import measured

        calibration = replace(calibration, velocity=selection.select == "velocity")
        scores = measured(opened, calibration, settings.workspace, reporter, ("--scores FILE made elsewhere",))
    return plan_target(opened, selection, scores, options)


def _run_repaired(
    word: str, job: ArtifactJob, states: "Calibration", settings: PruneSettings, context: Context
) -> Outcome:
    """Write and repair; what the repair gained is noted, and kept beside the artifact."""
    from sanac.prune.repair_job import RepairJob, with_repair

    place, searched = ConfinedPath(settings.workspace), settings.select == "search"
    repair = RepairJob(with_repair(job, states), states, place, settings.yes, searched=searched)
    if settings.dry_run:
        load_or_check(repair, context.reporter)
    outcome = run_job(word, repair.job, settings, context, lambda _: repair.run(context.reporter))
    report = None if settings.dry_run else repair.load()
    if report is None:
        return outcome
    error = report["velocity_error"]
    note = f"velocity error on held-out prompts: {error['pruned']:.4f} -> {error['repaired']:.4f} repaired"
    if report["left_out"]:
        note = f"no repair was made: velocity error on held-out prompts stays {error['pruned']:.4f}"
    context.reporter.note(note)
    write_measurement(
        Path(str(outcome.out)), "compensate", report, {f"velocity_error/{name}": v for name, v in error.items()}
    )
    more = {"velocity_error": error, "repaired": not report["left_out"]}
    return replace(outcome, data={**outcome.data, **more})
