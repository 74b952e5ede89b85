"""Plans the export job: copies the model and adds a graph per component, and engines built from the graphs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.weights import Weights
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.core.write.job import ArtifactJob, PostProcess, WriteOptions, plan_artifact
from sanac.core.write.safetensors_writer import write_safetensors
from sanac.export.component_graph import PRECISIONS, ComponentGraph, _weights
from sanac.export.components import decoder, encoder, text_encoder
from sanac.export.engine_plan import EngineSettings, engines_of
from sanac.export.engine_writer import place_engine
from sanac.export.graph import OPSET, serialized
from sanac.export.settings import ExportSettings
from sanac.export.tracing import Traced
from sanac.export.transformer import transformer
from sanac.nn.loader_gate import check_loadable

FOLDERS = ("transformer", "text_encoder", "vae_decoder", "vae_encoder")
_MEMORY = 600_000_000  # bytes of torch, its exporter and the graphs, without weights
_GRAPH, _BLOCK = 1_000_000, 50_000  # bytes of a graph without weights, and of each block in it
CLASSES = {
    "transformer": ("SanaTransformer2DModel",),
    "text_encoder": ("Gemma2Model",),
    "vae": ("AutoencoderDC",),
}
_STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def plan_export(
    model: Model, settings: ExportSettings, options: WriteOptions, engine_settings: EngineSettings | None = None
) -> ArtifactJob:
    """The artifact job: copies all files, then exports graphs from the copies and builds engines from the graphs."""
    if options.link:
        why = "onnx refuses hard-linked files of external data"
        raise UsageError("--link can't be combined with export", why=why, hint="drop --link, or use --in-place")
    graphs = graphs_of(model, settings, whole=not options.transformer_only)
    engines = engines_of(model, graphs, engine_settings) if engine_settings else []
    precisions = {graph.folder: graph.precision for graph in graphs}
    schema = max(graph.schema for graph in graphs)
    recorded: dict[str, object] = {
        "graphs": {"schema": schema, "opset": OPSET, "precision": precisions, "island": settings.depthwise}
    }
    recorded |= {"engines": [engine.to_json() for engine in engines]} if engines else {}
    blocks = model.architecture.blocks
    job = plan_artifact("export", model, keep_blocks(blocks, range(blocks)), recorded, options)
    if model.schedule:
        recorded["depths"] = [len(graph.kept) for graph in graphs if graph.kept]
    rewritten = {graph.component for graph in graphs if graph.sidecar}
    sidecar_bytes = sum(part.weights.size for part in model.components if part.weights and part.name in rewritten)
    size = sidecar_bytes + len(graphs) * _GRAPH + blocks * _BLOCK

    def make(staging: StagingArea, reporter: Reporter) -> None:
        for graph in graphs:
            _place(graph, staging, reporter)
        for engine in engines:
            place_engine(engine, staging, reporter)

    names = {name: graph.key(job.identity) for graph in graphs for name in graph.files}
    names |= {name: engine.key(names[engine.graph_file]) for engine in engines for name in engine.files}
    size += sum(engine.disk for engine in engines)
    memory = max([_MEMORY, *(engine.memory for engine in engines)])
    how = f"{', '.join(sorted(precisions))} to ONNX"
    how += f" and TensorRT ({engines[0].built_with})" if engines else ""
    return replace(job, post_process=PostProcess(make, size, memory, names), description=how)


def graphs_of(model: Model, settings: ExportSettings, *, whole: bool = True) -> list[ComponentGraph]:
    """The graphs to export of a model; UsageError if a selected component can't be exported."""
    architecture, depthwise_dtype = model.architecture, PRECISIONS[settings.depthwise] if settings.depthwise else None
    pointwise_as_linear = model.weights.quantized is not None
    folders: Mapping[str, tuple[tuple[str, Callable[[Path, torch.dtype], Traced]], ...]] = {
        "transformer": (
            (
                "transformer",
                lambda folder, dtype: transformer(
                    architecture, _config(folder), dtype, depthwise_dtype, pointwise_as_linear=pointwise_as_linear
                ),
            ),
        ),
        "text_encoder": (("text_encoder", text_encoder),),
        "vae": (
            ("vae_decoder", lambda folder, dtype: decoder(_config(folder), dtype)),
            ("vae_encoder", lambda folder, dtype: encoder(_config(folder), dtype)),
        ),
    }
    check_loadable(model)
    present = [part for part in model.components if part.weights and part.name in folders]
    if settings.depthwise and settings.selected() and "transformer" not in settings.selected():
        raise UsageError("--depthwise only applies to the transformer", hint="drop it, or add --component transformer")
    present = [part for part in present if whole or part.name == "transformer"]
    names = [name.replace("-", "_") for name in settings.selected()] or [part.name for part in present]
    missing = [name for name in names if name not in {part.name for part in present}]
    if missing:
        why = f"its components are {', '.join(part.name for part in present)}"
        raise UsageError(f"{model.located.name} has no component {missing[0]!r} to export", why=why)
    found = []
    for part in present:
        if part.name in names:
            assert part.weights
            if part.class_name not in CLASSES[part.name]:
                why = f"only {' and '.join(CLASSES[part.name])} can be exported"
                raise UsageError(f"the {part.name} is a {part.class_name}", why=why, hint="--component transformer")
            precision = settings.precision or _own(part.weights, part.name)
            specs = [parts.spec for parts in part.weights.parts.values()]
            schemes = sorted({spec.scheme for spec in specs})
            depthwise = settings.depthwise if part is model.transformer else None
            attention = None if part.name == "text_encoder" else "fp32"  # linear attention's sums
            forms = frozenset(filter(None, (precision, attention, depthwise, *(spec.dtype for spec in specs))))
            scheme = schemes[0] if len(schemes) == 1 else "mixed" if schemes else ""
            how = (precision, scheme, forms, part.weights.count, depthwise)
            made = [ComponentGraph(part.name, folder, trace, *how) for folder, trace in folders[part.name]]
            if part.name == "transformer":
                about = (repr(replace(architecture, blocks=1)), f"pointwise_as_linear={pointwise_as_linear}")
                complete = replace(made[0], traced_with=about, blocks=architecture.blocks)
                made = [complete, *(replace(complete, kept=kept) for kept in _depths(model, settings.depths))]
            found += made
    return found


def _depths(model: Model, most: int) -> list[tuple[int, ...]]:
    """The blocks of each graph that a schedule needs besides the whole one."""
    schedule = model.schedule
    if schedule is None:
        return []
    return [schedule.kept(depth) for depth in schedule.grouped(most) if depth != len(schedule.order)]


def _own(weights: Weights, component: str) -> str:
    """Precision that most of the weights are stored in, before quantization if quantized."""
    if weights.quantized:
        return _STORED[weights.quantized.dtype]
    counts: dict[str, int] = {}
    for ref in weights:
        counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.count
    most = max(counts, key=lambda dtype: counts[dtype])
    if most not in _STORED:
        raise InvalidInput(
            f"the {component} is stored as {most}",
            why="ONNX export doesn't support that dtype",
            hint=f"--precision {' or '.join(PRECISIONS)}",
        )
    return _STORED[most]


def _config(folder: Path) -> dict[str, object]:
    return json_files.read_object(folder / "config.json")


def _place(graph: ComponentGraph, staging: StagingArea, reporter: Reporter) -> None:
    """Trace a component and write its graph, and a sidecar file for weights it can't use from the checkpoint."""
    name = graph.file
    if name in staging.files:
        return
    what = f"{graph.folder}, {len(graph.kept)} blocks" if graph.kept else graph.folder
    reporter.note(f"{what}: tracing in {graph.precision}")
    source = staging.partial / graph.component
    linked = [path for path in _weights(source).files if path.stat().st_nlink > 1]
    if linked and graph.folder == graph.component:
        why = "onnx refuses hard-linked files of external data"
        raise UsageError(f"{linked[0]} is a hard link", why=why, hint="write the artifact again without --link")
    model, tensors = graph.traced(source, graph.precision)
    if graph.folder != graph.component:
        config = staging.existing(f"{graph.component}/config.json").read_bytes()
        staging.place_bytes(f"{graph.folder}/config.json", config)
    if tensors and not graph.kept:
        reporter.begin("writing", sum(tensor.size for tensor in tensors))
        try:
            write_safetensors(staging, f"{graph.folder}/{graph.sidecar}", tensors, reporter=reporter)
        finally:
            reporter.end()
    graph.link_weights(model, staging.partial / graph.folder)
    staging.place_bytes(name, serialized(model))
