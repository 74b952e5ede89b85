"""`sanac export`: an artifact with graphs and engines, as a copy or in place."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sanac.core.artifact.engine_record import ENGINE, Record, check_file
from sanac.core.context import Context, Outcome
from sanac.core.write.job import ArtifactJob
from sanac.core.write.run import ArtifactView, add_in_place, run_job
from sanac.export.engine_plan import EngineSettings
from sanac.export.plan import plan_export
from sanac.export.settings import ExportSettings
from sanac.nn.onnx_files import GRAPH


@dataclass(frozen=True, slots=True)
class ExportView:
    """Data to display about an export."""

    job: ArtifactJob
    written: ArtifactView | str
    engines: Mapping[str, Record]
    comparisons: tuple[Any, ...] = ()  # reports of sanac verify


def run(word: str | None, settings: ExportSettings, context: Context) -> Outcome:
    """Write graphs, and with --trt engines."""
    again = None if settings.in_place else lambda _: True
    word, opened = context.open_newest(word, settings.workspace, "export", again)
    opened = opened.with_loras(settings.lora)
    engines = EngineSettings(**settings.engine_values()) if settings.trt else None
    job = plan_export(opened, settings, settings.write_options(), engines)
    assert job.post_process
    if settings.in_place:
        shown = ", ".join(name for name in job.post_process.names if name.endswith((GRAPH, ENGINE)))
        outcome = add_in_place(word, job, shown, settings, context)
    else:
        outcome = run_job(word, job, settings, context)
    records: dict[str, Record] = {}
    if engines and not settings.dry_run:
        names = [name for name in job.post_process.names if name.endswith(ENGINE)]
        records = {name: check_file(Path(str(outcome.out), name)) for name in names}
    data = {**outcome.data, **({"engines": [one.to_json() for one in records.values()]} if engines else {})}
    if settings.dry_run:
        data.pop("engines", None)
    return replace(outcome, data=data, view=ExportView(job, outcome.view, records))
