"""`sanac prune`: fewer blocks."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.measuring import idle_measuring, measuring, wanted_from
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import SurgeryOptions, open_source, run_surgery, surgery

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.core.write.job import ArtifactJob, WriteOptions
    from sanac.nn.calibration.job import Calibration
    from sanac.nn.calibration.settings import CalibrationSettings
    from sanac.prune.selection import BlockSelection


@click.command(
    "prune",
    short_help="Fewer blocks.",
    epilog="""\b
Examples:
  sanac prune --target-blocks 20
  sanac prune MODEL --target-params 1.6B --scores scores.json
  sanac prune sanac:tiny --target-blocks 8 --select search --compensate
  sanac prune ./SANA1.5_4.8B_1024px_diffusers --keep 0-9,50-59
  sanac prune --keep 0-29 --dry-run
  sanac prune MODEL --keep 0,2,4 --transformer-only --out small""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--target-blocks", type=int, metavar="N", help="How many blocks stay: those that matter most.")
@click.option("--target-params", metavar="COUNT", help="The depth whose parameters come nearest: 1.6B, 900M.")
@click.option("--keep", metavar="LIST", help="Blocks that stay, from zero, ends included: 0-9,50-59.")
@click.option("--scores", type=click.Path(path_type=Path), metavar="FILE", help="Scores by `sanac analyze`.")
@click.option(
    "--select",
    type=click.Choice(["bi", "norm", "velocity", "search"]),
    default="bi",
    show_default=True,
    help="What blocks are judged by: a score each, or a search over subsets.",
)
@click.option("--compensate", is_flag=True, help="Fold what the dropped blocks did into those that stay; no training.")
@click.option("--protect-first", type=click.IntRange(0), default=0, metavar="K", help="The first K stay whatever.")
@click.option("--protect-last", type=click.IntRange(0), default=0, metavar="K", help="The last K stay whatever.")
@measuring
@surgery
@stage
@common()
def command(
    model: str | None,
    target_blocks: int | None,
    target_params: str | None,
    keep: str | None,
    scores: Path | None,
    select: str,
    compensate: bool,
    protect_first: int,
    protect_last: int,
    measured: dict[str, Any],
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

    With --target-blocks, the blocks that matter most stay, by --scores or by scores measured on the spot as `sanac
    analyze` does. Weights are copied tensor by tensor, nothing is loaded; the input is not touched. Without MODEL it
    takes the workspace's source, else $SANAC_MODEL, else the released 4.8B model.
    """
    from sanac.core.write.job import refuse_quantized

    targets = {"--keep": keep, "--target-blocks": target_blocks, "--target-params": target_params}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        why = f"{' and '.join(given)} contradict each other" if given else "nothing says which blocks stay"
        raise click.UsageError(f"{why}: give one of {', '.join(targets)}", click.get_current_context())
    if select == "search" and scores is not None:
        raise click.UsageError("--select search asks the model itself, not --scores", click.get_current_context())
    word, opened = open_source(model, chosen, options, common)
    refuse_quantized(opened, "prune")
    wanted, writing = replace(wanted_from(measured, common), dry=options.dry_run), chosen.writing(options)
    choice = None
    if keep is None:
        from sanac.prune.selection import BlockSelection, depth_of

        depth = depth_of(opened, target_blocks, target_params)
        choice = BlockSelection(select, depth, protect_first, protect_last)
        choice.check(opened.architecture.blocks)
        if target_params is not None:
            common.reporter.note(f"--target-params {target_params}: nearest is {depth} blocks")
    elif scores or protect_first or protect_last or select != "bi":
        common.reporter.warn("--keep says which blocks stay: --scores, --select and --protect-* have no effect")
    _warn_of_idle(choice, scores, compensate=compensate, common=common)
    states = None
    if compensate:
        from sanac.core.progress import NULL_REPORTER
        from sanac.prune.repair_job import repair_states

        states = repair_states(opened, wanted, common.reporter)
        if choice and not scores:  # choosing may take hours: what the repair lacks is said before
            states.check_room(NULL_REPORTER)
    job = _decide(opened, keep, choice, scores, wanted, writing, options, common)
    if states is None:
        return run_surgery(word, job, options, common)
    return _run_repaired(word, job, states, wanted, options, common)


def _warn_of_idle(choice: "BlockSelection | None", scores: Path | None, *, compensate: bool, common: Common) -> None:
    """Options of measuring, where nothing is measured or not in that way."""
    if not compensate and (choice is None or scores):
        reason = "--scores FILE was measured before" if scores else "--keep says which blocks stay"
        idle = idle_measuring()
    else:
        reason, searched = "search and repair look at the velocity", choice is None or choice.select == "search"
        idle = [option for option in idle_measuring() if option == "--reduce" and (searched or scores)]
    if idle:
        common.reporter.warn(f"{reason}: {', '.join(idle)} have no effect")


def _decide(
    opened: "Model",
    keep: str | None,
    choice: "BlockSelection | None",
    file: Path | None,
    wanted: "CalibrationSettings",
    writing: "WriteOptions",
    options: StageOptions,
    common: Common,
) -> "ArtifactJob":
    """The blocks that stay by hand; by a search; by the file's scores; or by scores measured here."""
    if choice is None:
        from sanac.prune.keep_list import plan_keep

        return plan_keep(opened, str(keep), writing)
    if choice.select == "search":
        from sanac.prune.search_job import find_blocks, plan_searched

        found = find_blocks(opened, choice, wanted, options.workspace, common.reporter)
        common.reporter.note(f"search: velocity error {found.error:.4f} on prompts that it didn't see")
        return plan_searched(opened, choice, found, writing)
    from sanac.prune.scores import check_model, read_scores
    from sanac.prune.selection import plan_target

    if file is not None:
        scores = read_scores(file)
        check_model(scores, opened, file)
    else:
        from sanac.prune.scoring import measured

        wanted = replace(wanted, velocity=choice.select == "velocity")
        scores = measured(opened, wanted, options.workspace, common.reporter, ("--scores FILE made elsewhere",))
    return plan_target(opened, choice, scores, writing)


def _run_repaired(
    word: str,
    job: "ArtifactJob",
    states: "Calibration",
    wanted: "CalibrationSettings",
    options: StageOptions,
    common: Common,
) -> Result:
    """Cut and repair; what the repair did is said, and kept beside the artifact."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.prune.repair_job import RepairJob, with_repair

    mending = RepairJob(with_repair(job, states), states, options.workspace, wanted.yes)
    if options.dry_run and mending.report() is None:
        mending.check_budget(common.reporter)
    result = run_surgery(word, mending.job, options, common, lambda _: mending.run(common.reporter))
    report = None if options.dry_run else mending.report()
    if report is not None:
        error = report["velocity_error"]
        said = f"velocity error on unseen prompts: {error['pruned']:.4f} -> {error['repaired']:.4f} repaired"
        if report["left_out"]:
            said = f"no repair was made: velocity error on unseen prompts stays {error['pruned']:.4f}"
        common.reporter.note(said)
        result = replace(result, data={**result.data, "velocity_error": error, "repaired": not report["left_out"]})
        metrics = {f"velocity_error/{name}": value for name, value in error.items()}
        write_measurement(Path(str(result.out)), "compensate", report, metrics)
    return result
