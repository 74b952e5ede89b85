"""An artifact with graphs: the model as it is, and for each component a graph of weights that lie beside it."""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
import torch

from sanac.core import jsonfile
from sanac.core.errors import BadInput, Misuse
from sanac.core.execute import Finish, Surgery, Writing, decide
from sanac.core.header import TensorRef, read_header
from sanac.core.model import Model
from sanac.core.plan import keep_blocks
from sanac.core.stage import Stage
from sanac.core.talk import Talk
from sanac.core.weights import Weights, open_folder
from sanac.core.writer import Piece, kept, write_safetensors
from sanac.export.components import decoder, encoder, text_encoder
from sanac.export.engines import Asked, engines_of
from sanac.export.graph import OPSET, graph_of, serialized
from sanac.export.placing import place_engine
from sanac.export.quantized import quantize
from sanac.export.references import DTYPES, refer, wanted_by
from sanac.export.traced import Traced
from sanac.export.transformer import transformer
from sanac.nn.graphfile import GRAPH
from sanac.nn.quiet import quiet

SCHEMA = 2  # raised when the same settings would give another graph
FOLDERS = ("transformer", "text_encoder", "vae_decoder", "vae_encoder")
_MEMORY = 600_000_000  # torch, its exporter, and graphs; no weights
_GRAPH, _BLOCK = 1_000_000, 50_000  # bytes of a graph without weights, and of each block in it
WEIGHTS, LAID = "model.safetensors", "graph.safetensors"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CLASSES = {
    "transformer": ("SanaTransformer2DModel",),
    "text_encoder": ("Gemma2Model",),
    "vae": ("AutoencoderDC",),
}
_STORED = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported, and how."""

    components: tuple[str, ...] = ()  # none: all that are there
    precision: str | None = None  # None: each component's own
    island: str | None = None  # of the depthwise convolutions


@dataclass(frozen=True)
class Exported:
    """One graph: whose weights it takes, how it is traced, and the folder that clients look for it in."""

    component: str
    folder: str
    trace: Callable[[Path, torch.dtype], Traced]  # given the component's folder
    precision: str
    scheme: str  # of its quantized weights; '' where there are none
    forms: frozenset[str]  # what it computes with, or takes as weights
    parameters: int
    island: str | None = None

    @property
    def beside(self) -> str:
        """The file of weights that don't lie where, or as, the graph takes them; '' where all do."""
        if self.folder != self.component:
            return WEIGHTS
        return LAID if self.scheme else ""

    @property
    def files(self) -> tuple[str, ...]:
        """What is written for it."""
        config = ("config.json",) if self.folder != self.component else ()
        return tuple(f"{self.folder}/{name}" for name in (*config, self.beside, GRAPH) if name)

    def key(self, model: str) -> str:
        """What its bytes hang on."""
        return jsonfile.key_of(["graph", SCHEMA, OPSET, self.folder, self.precision, self.island, model])

    def traced(self, source: Path, precision: str) -> tuple[ir.Model, list[Piece]]:
        """The graph of a component's folder, weights still without values; what has to be laid beside it for it."""
        weights = _weights(source)
        try:
            with quiet():
                model = graph_of(self.trace(source, PRECISIONS[precision]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
            why = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise BadInput(f"no graph can be made of {source}", why=f"its config: {why}") from error
        pieces, stored = quantize(model, weights.parts), _by_name(weights.stored)
        laid = {piece.name for piece in pieces}
        _check_there(model, stored, laid, source)
        if self.folder != self.component:
            pieces += [kept(name, stored[name]) for name in sorted(set(wanted_by(model)) - laid)]
        return model, pieces

    def refer(self, model: ir.Model, folder: Path) -> None:
        """Say where the weights lie of a graph that will stand in this folder."""
        tensors = dict(read_header(folder / self.beside).tensors) if self.beside else {}
        if self.folder == self.component:
            tensors |= _by_name(_weights(folder).stored)
        refer(model, tensors, folder)


def decide_export(model: Model, wanted: Wanted, writing: Writing, asked: Asked | None = None) -> Surgery:
    """The job: everything goes along unchanged; graphs are made of what is written, and engines of the graphs."""
    if writing.link:
        why = "onnx refuses hard-linked files of weights"
        raise Misuse("graphs can't take weights from linked files", why=why, hint="leave --link out, or use --in-place")
    graphs = graphs_of(model, wanted, whole=not writing.transformer_only)
    engines = engines_of(model, graphs, asked) if asked else []
    said = {graph.folder: graph.precision for graph in graphs}
    settings: dict[str, object] = {
        "graphs": {"schema": SCHEMA, "opset": OPSET, "precision": said, "island": wanted.island}
    }
    settings |= {"engines": [engine.to_json() for engine in engines]} if engines else {}
    blocks = model.architecture.blocks
    job = decide("export", model, keep_blocks(blocks, range(blocks)), settings, writing)
    again = {graph.component for graph in graphs if graph.beside}
    laid = sum(part.weights.size for part in model.components if part.weights and part.name in again)
    written = laid + len(graphs) * _GRAPH + blocks * _BLOCK

    def make(stage: Stage, talk: Talk) -> None:
        for graph in graphs:
            _place(graph, stage, talk)
        for engine in engines:
            place_engine(engine, stage, talk)

    names = {name: graph.key(job.identity) for graph in graphs for name in graph.files}
    names |= {name: engine.key(names[engine.graph]) for engine in engines for name in engine.files}
    written += sum(engine.disk for engine in engines)
    memory = max([_MEMORY, *(engine.memory for engine in engines)])
    how = f"{', '.join(sorted(said))} to ONNX"
    how += f" and TensorRT ({engines[0].built_with})" if engines else ""
    return replace(job, finish=Finish(make, written, memory, names), how=how)


def graphs_of(model: Model, wanted: Wanted, *, whole: bool = True) -> list[Exported]:
    """What there is to export of a model."""
    architecture, island = model.architecture, PRECISIONS[wanted.island] if wanted.island else None
    rows = model.weights.quantized is not None
    folders: Mapping[str, tuple[tuple[str, Callable[[Path, torch.dtype], Traced]], ...]] = {
        "transformer": (
            ("transformer", lambda folder, dtype: transformer(architecture, _config(folder), dtype, island, rows=rows)),
        ),
        "text_encoder": (("text_encoder", text_encoder),),
        "vae": (
            ("vae_decoder", lambda folder, dtype: decoder(_config(folder), dtype)),
            ("vae_encoder", lambda folder, dtype: encoder(_config(folder), dtype)),
        ),
    }
    there = [part for part in model.components if part.weights and part.name in folders]
    if wanted.island and wanted.components and "transformer" not in wanted.components:
        raise Misuse("--depthwise is about the transformer", hint="leave it out, or export the transformer, too")
    there = [part for part in there if whole or part.name == "transformer"]
    names = [name.replace("-", "_") for name in wanted.components] or [part.name for part in there]
    missing = [name for name in names if name not in {part.name for part in there}]
    if missing:
        why = f"there are {', '.join(part.name for part in there)}"
        raise Misuse(f"{model.located.name} has no component {missing[0]!r} to export", why=why)
    found = []
    for part in there:
        if part.name in names:
            assert part.weights
            if part.class_name not in CLASSES[part.name]:
                why = f"graphs are made of {' and '.join(CLASSES[part.name])}"
                raise Misuse(f"the {part.name} is a {part.class_name}", why=why, hint="--component transformer")
            precision = wanted.precision or _own(part.weights, part.name)
            packings = [parts.packing for parts in part.weights.parts.values()]
            schemes = sorted({packing.scheme for packing in packings})
            island_of = wanted.island if part is model.transformer else None
            attention = None if part.name == "text_encoder" else "fp32"  # linear attention's sums
            forms = frozenset(filter(None, (precision, attention, island_of, *(packing.form for packing in packings))))
            scheme = schemes[0] if len(schemes) == 1 else "mixed" if schemes else ""
            how = (precision, scheme, forms, part.weights.count, island_of)
            found += [Exported(part.name, folder, trace, *how) for folder, trace in folders[part.name]]
    return found


def _own(weights: Weights, component: str) -> str:
    """What most of its weights are stored in, or were before they were quantized."""
    if weights.quantized:
        return _STORED[weights.quantized.dtype]
    counts: dict[str, int] = {}
    for ref in weights:
        counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.count
    most = max(counts, key=lambda dtype: counts[dtype])
    if most not in _STORED:
        raise BadInput(f"the {component} is stored as {most}", why="no graph computes with that", hint="--precision")
    return _STORED[most]


def _check_there(model: ir.Model, stored: Mapping[str, TensorRef], laid: Container[str], source: Path) -> None:
    """What the graph takes lies in the files, of that size."""
    problems = []
    for name in wanted_by(model):
        shape = model.graph.initializers[name].shape
        assert isinstance(shape, ir.Shape)
        if name not in laid and name not in stored:
            problems.append(f"{name} is missing")
        elif name not in laid and stored[name].dtype in DTYPES and stored[name].count != math.prod(shape.numpy()):
            problems.append(f"{name} is {list(stored[name].shape)}, its config wants {list(shape.numpy())}")
    if problems:
        raise BadInput(f"{source} contradicts itself", why=problems[0], problems=problems)


def _weights(folder: Path) -> Weights:
    found = open_folder(folder, folder)
    assert found is not None
    return found


def _by_name(refs: Iterable[TensorRef]) -> dict[str, TensorRef]:
    """Also without the prefix that a model inside a larger one has."""
    found = {ref.name: ref for ref in refs}
    return {name.removeprefix("model."): ref for name, ref in found.items()} | found


def _config(folder: Path) -> dict[str, object]:
    return jsonfile.read_object(folder / "config.json")


def _place(graph: Exported, stage: Stage, talk: Talk) -> None:
    """Trace a component and write its graph, and beside it what of its weights doesn't lie there as it takes them."""
    name = f"{graph.folder}/{GRAPH}"
    if name in stage.files:
        return
    talk.note(f"{graph.folder}: tracing in {graph.precision}")
    source = stage.partial / graph.component
    linked = [path for path in _weights(source).files if path.stat().st_nlink > 1]
    if linked and graph.folder == graph.component:
        why = "onnx refuses graphs with hard-linked files of weights"
        raise Misuse(f"{linked[0]} is a hard link", why=why, hint="write the artifact again without --link")
    model, pieces = graph.traced(source, graph.precision)
    if graph.folder != graph.component:
        stage.place_bytes(f"{graph.folder}/config.json", (source / "config.json").read_bytes())
    if pieces:
        talk.begin("writing", sum(piece.size for piece in pieces))
        try:
            write_safetensors(stage, f"{graph.folder}/{graph.beside}", pieces, talk=talk)
        finally:
            talk.end()
    graph.refer(model, stage.partial / graph.folder)
    stage.place_bytes(name, serialized(model))
