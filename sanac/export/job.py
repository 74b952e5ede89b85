"""`sanac export`: an artifact with graphs and engines, as a copy or in place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sanac.core.artifact.engine_record import ENGINE, NEVER, Record, check_file
from sanac.core.context import Context, Outcome
from sanac.core.units import bytes_text
from sanac.core.view import Block, chain, path_text
from sanac.core.write.job import ArtifactJob
from sanac.core.write.run import add_in_place, run_job
from sanac.export.engine_plan import EngineSettings
from sanac.export.plan import plan_export
from sanac.export.settings import ExportSettings
from sanac.nn.onnx_files import GRAPH


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export, as the comparison after it needs it."""

    job: ArtifactJob
    engines: Mapping[str, Record]


def run(word: str | None, settings: ExportSettings, context: Context) -> Outcome:
    """Write graphs, and with --trt engines."""
    word, opened = context.open_newest(word, settings.workspace, "export", lambda _: not settings.in_place)
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
    show = chain(outcome.show, partial(_show_engines, records))
    return replace(outcome, data=data, view=ExportView(job, records), show=show)


def show_usage(outcome: Outcome) -> Iterator[Block]:
    """How to run what was exported: in Python, and on the command line."""
    view: ExportView = outcome.view
    if not view.job.companions:
        yield "a transformer without the rest of its pipeline: to generate, export the whole pipeline"
        return
    assert outcome.out
    out = path_text(outcome.out)
    yield f'run the graphs in Python: sanac.load_pipeline("{out}", backend="onnx")("a red circle").images[0]'
    yield f'run them here: sanac generate {out} "a red circle" --backend onnx'
    if view.engines:
        yield 'on the GPU of the engines: backend="trt", and --backend trt'


def _show_engines(engines: Mapping[str, Record]) -> Iterator[Block]:
    """For each engine its size, its profile, and whether it was ever executed."""
    for file, record in engines.items():
        yield f"{file}: {bytes_text(record.size)}, {record.executed}"
        for name, entry in record.inputs.items():
            yield f"  {name}: {'x'.join(map(str, entry['least']))} to {'x'.join(map(str, entry['most']))}"
    if any(record.executed == NEVER for record in engines.values()):
        yield "engine files were checked, not executed; run sanac verify --backend trt on the GPU to compare them"
