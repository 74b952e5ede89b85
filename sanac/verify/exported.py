"""Checks what `sanac export` wrote: its graphs against the model, and the engines that this machine's GPU can run."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from sanac.core.artifact.engine_record import ENGINE, check_file
from sanac.core.context import Context, Outcome
from sanac.core.errors import MissingResource
from sanac.core.view import chain
from sanac.core.write.job import ArtifactJob
from sanac.export.engine_plan import EngineSettings, choose_builder
from sanac.export.job import ExportView, show_usage
from sanac.export.settings import ExportSettings
from sanac.nn import device
from sanac.runtime.onnx_session import installed
from sanac.verify.end_to_end import Comparison
from sanac.verify.job import compared
from sanac.verify.memory import check_memory


def check_verifiable(word: str | None, settings: ExportSettings, context: Context) -> None:
    """Raise before anything is written, where the comparison couldn't run afterwards."""
    if settings.no_verify or settings.dry_run:
        return
    _, model = context.open_newest(word, settings.workspace, "export", lambda _: not settings.in_place)
    try:
        installed()
        check_memory(model, context.reporter)
    except MissingResource as error:
        hint = f"{error.hint}; or --no-verify, and sanac verify --pictures 0 on a machine with more memory"
        raise MissingResource(error.message, why=error.why, hint=hint) from error


def check_installed(settings: ExportSettings) -> None:
    """MissingResource or UsageError if graphs couldn't be compared, or engines not be built, on this machine."""
    if not settings.no_verify:
        installed()
    if settings.trt:
        choose_builder(EngineSettings(**settings.engine_values()))


def verify_exported(outcome: Outcome, settings: ExportSettings, context: Context) -> Outcome:
    """Add the comparison of the graphs, and of engines built for this machine's GPU, and how to run what passed."""
    if settings.dry_run:
        return outcome
    found = outcome if settings.no_verify else _verified(outcome, settings, context)
    return replace(found, show=chain(found.show, partial(show_usage, outcome))) if found.passed else found


def _verified(outcome: Outcome, settings: ExportSettings, context: Context) -> Outcome:
    """The outcome with the verdicts of its graphs and engines; the worse one counts."""
    assert isinstance(outcome.view, ExportView)
    job: ArtifactJob = outcome.view.job
    written = context.open(str(outcome.out))
    reference = written if job.model.patches else job.model
    same = outcome.status == "cached"  # and a comparison of the very same files passed then
    graphs = compared(written, reference, Comparison(pictures_optional=True), settings.device, context, reuse=same)
    outcome = _joined(outcome, graphs, "verify")
    assert job.post_process
    names = [name for name in job.post_process.names if name.endswith(ENGINE)]
    here = tuple(n for n in names if device.capability() in check_file(Path(written.located.path, n)).capabilities)
    if not here:
        return outcome
    engines = compared(
        written,
        reference,
        Comparison("trt", engines=here, pictures_optional=True),
        settings.device,
        context,
        reuse=same,
    )
    return _joined(outcome, engines, "verify_trt")


def _joined(outcome: Outcome, found: Outcome, name: str) -> Outcome:
    """Both outcomes in one."""
    status = outcome.status if found.passed else found.status
    show = chain(outcome.show, found.show)
    return replace(outcome, status=status, show=show, data={**outcome.data, name: found.data})
