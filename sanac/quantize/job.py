"""`sanac quantize`: one scheme, or a mix of schemes that fits a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sanac.core.artifact.cached_step import NotComputedYet, load_or_check
from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.settings import flag_name, settings_of
from sanac.core.view import Table, chain
from sanac.core.write.run import check_out, run_job
from sanac.nn.calibration.settings import PromptSettings
from sanac.quantize.bit_allocation import AMONG, Budget, allocating, explained, summary
from sanac.quantize.calibration_job import CalibrationJob, fitting_states, with_fit
from sanac.quantize.plan import plan_quantize
from sanac.quantize.settings import QuantizeSettings


@dataclass(frozen=True, slots=True)
class AllocationView:
    """The allocation of a budget."""

    rows: Sequence[Mapping[str, Any]]  # one per unit, the most sensitive first
    schemes: tuple[str, ...]
    title: str


def run(word: str | None, settings: QuantizeSettings, context: Context) -> Outcome:
    """Quantize the model's components."""
    word, opened = context.open_newest(
        word, settings.workspace, "quantize", lambda model: _is_quantized(model, settings.component)
    )
    opened = opened.with_loras(settings.lora)
    if settings.scheme is None:
        return _run_budget(word, opened, settings, context)
    job = plan_quantize(opened, settings, settings.write_options())
    for name, part in job.rewrites.items():
        counts = f"{len(part.quantized.weights)} weights to {settings.scheme}, {len(part.quantized.skipped)} skipped"
        context.reporter.note(f"{name}: {counts}")
    if settings.needs_calibration:
        states = fitting_states(job, settings.calibration, context.reporter)
        fitting = CalibrationJob(
            with_fit(job, states), settings, states, ConfinedPath(settings.workspace), settings.yes, settings.fresh
        )
        if settings.dry_run:
            load_or_check(fitting, context.reporter, fresh=settings.fresh)
        return run_job(word, fitting.job, settings, context, lambda _: fitting.run(context.reporter))
    if idle := [flag_name(name) for name in settings_of(PromptSettings) if name in settings.typed]:
        context.reporter.warn(f"no activations are needed: {', '.join(idle)} have no effect")
    return run_job(word, job, settings, context)


def _is_quantized(opened: Model, components: tuple[str, ...]) -> bool:
    """Whether any of these components is already quantized."""
    names = {name.replace("-", "_") for name in components}
    return any(part.name in names and part.weights and part.weights.quantized for part in opened.components)


def _run_budget(word: str, opened: Model, settings: QuantizeSettings, context: Context) -> Outcome:
    """Allocate bits within the budget and write the artifact; the allocation is stored in its measurements."""
    options, reporter = settings.write_options(), context.reporter
    schemes = settings.schemes or AMONG
    budget = Budget(
        settings.max_bytes,
        settings.min_sqnr,
        schemes,
        settings.component,
        settings.rounding,
        frozenset(settings.include),
        settings.skip,
    )
    check_out(settings)
    workspace = ConfinedPath(settings.workspace)
    job = allocating(opened, budget, settings.calibration, options, workspace, reporter, fresh=settings.fresh)
    try:
        found = job.run(reporter)
    except NotComputedYet as missing:
        done = f"would compute {missing.what} first, which decides the bits of each weight"
        return Outcome("ok", {"dry_run": True, "computed_first": missing.what}, show=lambda: [done])
    for line in summary(found):
        reporter.note(line)
    outcome = run_job(word, job.job(found, options), settings, context)
    rows, data = explained(job.units, found), found.to_json()
    if not settings.dry_run:
        metrics = {"sqnr": found.best.sqnr} if found.best.error else {}
        about = data | job.report_settings | {"units": rows}
        write_measurement(Path(str(outcome.out)), "allocation", about, metrics)
    shown = data | ({"units": rows} if settings.explain else {})
    view = AllocationView(rows, schemes, summary(found)[0])
    show = chain(outcome.show, lambda: [_table(view)]) if settings.explain else outcome.show
    return replace(outcome, view=view, show=show, data={**outcome.data, "allocation": shown})


def _table(view: AllocationView) -> Table:
    """A row per unit."""
    rows = []
    for row in view.rows:
        errors = (f"{row['errors'][name]:.1e}" if name in row["errors"] else "" for name in view.schemes)
        rows.append((row["unit"], row["scheme"], f"{row['bytes']:,}", *errors))
    return Table(("unit", "gets"), ("bytes", *(f"error at {name}" for name in view.schemes)), tuple(rows))
