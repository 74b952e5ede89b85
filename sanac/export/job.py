"""An artifact with graphs: the model as it is, and for each component a graph of weights that lie beside it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sanac.core import jsonfile
from sanac.core.errors import BadInput, Misuse
from sanac.core.execute import Finish, Surgery, Writing, decide
from sanac.core.header import TensorRef, read_header
from sanac.core.model import Model
from sanac.core.plan import keep_blocks
from sanac.core.stage import Stage
from sanac.core.talk import Talk
from sanac.core.weights import open_folder
from sanac.core.writer import kept, write_safetensors
from sanac.export.components import decoder, encoder, text_encoder
from sanac.export.graph import OPSET, graph_of, serialized
from sanac.export.references import refer, wanted_by
from sanac.export.traced import Traced
from sanac.export.transformer import transformer
from sanac.nn.quiet import quiet

SCHEMA = 1  # raised when the same settings would give another graph
FOLDERS = ("transformer", "text_encoder", "vae_decoder", "vae_encoder")
_MEMORY = 600_000_000  # torch, its exporter, and graphs; no weights
_GRAPH, _BLOCK = 1_000_000, 50_000  # bytes of a graph without weights, and of each block in it
GRAPH, WEIGHTS = "model.onnx", "model.safetensors"
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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
    precision: str
    trace: Callable[[Path, torch.dtype], Traced]  # given the component's folder

    @property
    def files(self) -> tuple[str, ...]:
        """What is written for it: weights of another folder are laid beside the graph, with their config."""
        beside = () if self.folder == self.component else ("config.json", WEIGHTS)
        return tuple(f"{self.folder}/{name}" for name in (*beside, GRAPH))


def decide_export(model: Model, wanted: Wanted, writing: Writing) -> Surgery:
    """The job: everything goes along unchanged, graphs are made of what is written."""
    if any(part.weights and part.weights.quantized for part in model.components):
        raise Misuse(
            f"{model.located.name} is quantized",
            why="graphs of quantized weights are not made yet",
            hint="export the model that it was made from",
        )
    graphs = graphs_of(model, wanted, whole=not writing.transformer_only)
    said = {graph.folder: graph.precision for graph in graphs}
    settings = {"graphs": {"schema": SCHEMA, "opset": OPSET, "precision": said, "island": wanted.island}}
    blocks = model.architecture.blocks
    job = decide("export", model, keep_blocks(blocks, range(blocks)), settings, writing)
    halved = any(graph.component == "vae" for graph in graphs)
    copied = sum(part.weights.size for part in model.components if part.weights and part.name == "vae" and halved)
    written = copied + len(graphs) * _GRAPH + blocks * _BLOCK

    def make(stage: Stage, talk: Talk) -> None:
        for graph in graphs:
            _place(graph, stage, talk)

    finish = Finish(make, written, _MEMORY, tuple(name for graph in graphs for name in graph.files))
    return replace(job, finish=finish, how=f"{', '.join(sorted(said))} to ONNX")


def graphs_of(model: Model, wanted: Wanted, *, whole: bool = True) -> list[Exported]:
    """What there is to export of a model."""
    architecture, island = model.architecture, PRECISIONS[wanted.island] if wanted.island else None
    folders: Mapping[str, tuple[tuple[str, Callable[[Path, torch.dtype], Traced]], ...]] = {
        "transformer": (
            ("transformer", lambda folder, dtype: transformer(architecture, _config(folder), dtype, island)),
        ),
        "text_encoder": (("text_encoder", text_encoder),),
        "vae": (
            ("vae_decoder", lambda folder, dtype: decoder(_config(folder), dtype)),
            ("vae_encoder", lambda folder, dtype: encoder(_config(folder), dtype)),
        ),
    }
    there = [part for part in model.components if part.weights and part.name in folders]
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
            precision = wanted.precision or _own(part.weights.tensors.values(), part.name)
            found += [Exported(part.name, folder, precision, trace) for folder, trace in folders[part.name]]
    return found


def _own(refs: Iterable[TensorRef], component: str) -> str:
    """What most of its weights are stored in."""
    counts: dict[str, int] = {}
    for ref in refs:
        counts[ref.dtype] = counts.get(ref.dtype, 0) + ref.count
    most = max(counts, key=lambda dtype: counts[dtype])
    if most not in _STORED:
        raise BadInput(f"the {component} is stored as {most}", why="no graph computes with that", hint="--precision")
    return _STORED[most]


def _config(folder: Path) -> dict[str, object]:
    return jsonfile.read_object(folder / "config.json")


def _place(graph: Exported, stage: Stage, talk: Talk) -> None:
    """Trace a component and write its graph; weights of another folder are laid beside it, those that it takes."""
    name, source = f"{graph.folder}/{GRAPH}", stage.partial / graph.component
    if name in stage.files:
        return
    talk.note(f"{graph.folder}: tracing in {graph.precision}")
    with quiet():
        model = graph_of(graph.trace(source, PRECISIONS[graph.precision]))
    weights = open_folder(source, stage.partial)
    assert weights is not None
    tensors = weights.tensors
    if graph.folder != graph.component:
        stage.place_bytes(f"{graph.folder}/config.json", (source / "config.json").read_bytes())
        beside, pieces = f"{graph.folder}/{WEIGHTS}", [kept(name, tensors[name]) for name in sorted(wanted_by(model))]
        talk.begin("writing", sum(piece.size for piece in pieces))
        try:
            write_safetensors(stage, beside, pieces, talk=talk)
        finally:
            talk.end()
        tensors = read_header(stage.partial / beside).tensors
    refer(model, tensors, stage.partial / graph.folder)
    stage.place_bytes(name, serialized(model))
