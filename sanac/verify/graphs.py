"""A candidate against a reference, whole: transformer by the block, the other parts' graphs, and pictures of both."""

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from sanac.core.copying import digest_file
from sanac.core.errors import BadInput, Misuse
from sanac.core.manifest import changed_after_sealing
from sanac.core.model import Component, Model
from sanac.core.talk import Talk
from sanac.export.graph import serialized
from sanac.export.job import FOLDERS, Exported, Wanted, graphs_of
from sanac.judge.similarity import psnr, ssim
from sanac.nn.quantized import load_part
from sanac.nn.quiet import quiet
from sanac.runtime.onnx import GRAPH, Autoencoder, Graph, TextEncoder, Transformer, check_references
from sanac.runtime.pipeline import Painter, Sampling, open_painter
from sanac.verify.parity import Figure, Parity, apart, compare
from sanac.verify.sides import OnnxSide, TorchSide

LIMITS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-4}  # relative error; bf16 is computed in fp32
ROUNDED = 2e-3  # where what weights are multiplied by is rounded, too: now and then to another number
PSNR, SSIM = 40.0, 0.99
ROUNDED_PSNR, ROUNDED_SSIM = 30.0, 0.95
PROMPTS = ("a red circle", "two blue squares", "a green triangle left of a yellow circle", "three purple stars")
_KINDS = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True, slots=True)
class Asked:
    """How a comparison is done."""

    backend: str = "onnx"
    limit: float | None = None  # of the relative error; None: by precision
    pictures: int = 4
    steps: int = 12


@dataclass(frozen=True)
class Verified:
    """What was found."""

    parity: Parity | None  # None: the transformer has no graph, only other parts have
    others: tuple[Figure, ...]  # of other parts, and of pictures
    notes: tuple[str, ...]  # how it was done, where that is not plain

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All that the verdict hangs on."""
        return (*(self.parity.figures if self.parity else ()), *self.others)

    @property
    def passed(self) -> bool:
        """The verdict."""
        return all(figure.passed for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        figures = [figure.to_json() for figure in self.figures]
        parity = self.parity.to_json() if self.parity else None
        return {"passed": self.passed, "notes": list(self.notes), "figures": figures, "parity": parity}


@dataclass(frozen=True, slots=True)
class Ready:
    """A graph that can be run here: as it is, or one of the same weights in fp32 in its place."""

    path: Path
    precision: str  # of the graph
    rounded: bool  # whether what weights are multiplied by is quantized
    content: bytes | None = None

    @property
    def limit(self) -> float:
        """Of the relative error, unless the user says otherwise."""
        return max(LIMITS[self.precision], ROUNDED if self.rounded else 0)

    def opened(self, device: str = "cpu") -> Graph:
        """In a session."""
        return Graph(self.path, device, self.content)


def verify(candidate: Model, reference: Model, asked: Asked, device: str, talk: Talk) -> Verified:
    """Everything that both have."""
    _check_alike(candidate, reference)
    notes: list[str] = []
    graphs = _ready(candidate, notes) if asked.backend == "onnx" else {}
    if asked.backend == "onnx" and not graphs:
        raise Misuse(f"{candidate.located.name} has no graph", hint=f"sanac export {candidate.located.path}")
    parity, graph = None, graphs.get("transformer")
    if graph or asked.backend == "torch":
        talk.note("comparing outputs, and the stream behind each block")
        side = OnnxSide(graph.path, device, graph.content) if graph else TorchSide(candidate, device)
        limit = asked.limit or (graph.limit if graph else LIMITS["fp32"])
        parity = compare(
            side, TorchSide(reference, device), reference.architecture, limit, rounded=bool(graph and graph.rounded)
        )
    others = [_part(name, graph, reference, asked.limit) for name, graph in graphs.items() if name != "transformer"]
    if asked.pictures and reference.model_index is not None:
        talk.note(f"painting {asked.pictures} pictures with both")
        others += _pictures(candidate, reference, graphs, asked)
    return Verified(parity, tuple(others), tuple(notes))


def _check_alike(candidate: Model, reference: Model) -> None:
    """Whether they can be given the same."""
    ours, theirs = (
        (shape.in_channels, shape.caption_channels, shape.patch_size, shape.guidance)
        for shape in (candidate.architecture, reference.architecture)
    )
    if ours != theirs:
        names = f"{candidate.located.name} can't be compared with {reference.located.name}"
        raise Misuse(names, why="they take other latents, captions or conditions")


def graphs_in(model: Model) -> dict[str, Path]:
    """The graphs of an artifact, by the folder they stand in."""
    root = model.located.path if model.located.path.is_dir() else model.located.path.parent
    if (root / GRAPH).is_file():
        return {"transformer": root / GRAPH}
    return {name: root / name / GRAPH for name in FOLDERS if (root / name / GRAPH).is_file()}


def precision_of(path: Path) -> str:
    """What a graph computes in: the dtype of its first output."""
    check_references(path)
    kind = onnx.load(path, load_external_data=False).graph.output[0].type.tensor_type.elem_type
    if kind not in _KINDS:
        raise BadInput(f"{path} computes in {onnx.TensorProto.DataType.Name(kind)}", why="which nothing here compares")
    return _KINDS[kind]


def _ready(model: Model, notes: list[str]) -> dict[str, Ready]:
    """A model's graphs; those in bf16 have no products here, and are checked and stood in for."""
    _check_seals(model)
    found = {}
    exported = {graph.folder: graph for graph in graphs_of(model, Wanted())}
    for name, path in graphs_in(model).items():
        found[name] = graph = Ready(path, precision_of(path), exported[name].rounds)
        if graph.precision == "bf16":
            found[name] = replace(graph, content=_twin(exported[name], graph.path))
    if any(graph.rounded for graph in found.values()):
        notes.append("it rounds what weights are multiplied by: a last bit can tip a number over; medians are judged")
    if any(graph.content for graph in found.values()):
        notes.append("bf16 graphs were checked by onnx; compared were the same graphs in fp32, of the same weights")
    return found


def _check_seals(model: Model) -> None:
    """An artifact's graphs, and the files that they take weights from, are those that were sealed."""
    if model.manifest is None:
        return
    root, sealed = model.located.path, model.manifest.files
    wanted = {file: None for path in graphs_in(model).values() for file in (path, *check_references(path))}
    for path in wanted:
        known = sealed.get(path.relative_to(root).as_posix())
        if known is None:
            raise changed_after_sealing(path, [f"{path.name} is no file of the artifact: it was added"])
        if digest_file(path) != known.blake3:
            raise changed_after_sealing(path, [f"{path.name} has another digest than when it was sealed"])


def _twin(exported: Exported, path: Path) -> bytes:
    """The same graph in fp32, of the same weights."""
    onnx.checker.check_model(path, full_check=True)
    folder = path.parent
    source = folder if exported.folder == exported.component else folder.parent / exported.component
    graph, _ = exported.traced(source, "fp32")
    exported.refer(graph, folder)
    ours = [node.op_type for node in graph.graph if node.op_type != "Cast"]
    theirs = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node if node.op_type != "Cast"]
    if ours != theirs:
        why = f"the {exported.folder} is made of other operations than this version would make it of"
        raise BadInput(f"{path} can't be compared", why=why, hint="sanac export it again")
    return serialized(graph)


def _part(name: str, graph: Ready, reference: Model, limit: float | None) -> Figure:
    """A text encoder's or autoencoder's graph beside its class."""
    component = "vae" if name.startswith("vae") else name
    part = next((part for part in reference.components if part.name == component), None)
    if part is None:
        raise Misuse(f"{reference.located.name} has no {component}", why=f"the {name}'s graph is to be the same as it")
    wanted, given = _asked_of(name, part)
    (found,) = graph.opened()(**given)
    return Figure(f"{name}, relative error", apart(found, wanted), limit or graph.limit)


def _asked_of(name: str, part: Component) -> tuple[Tensor, dict[str, Tensor]]:
    """What a part's own class gives, and for what."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), quiet():
        model = _opened(part)
        if name == "text_encoder":
            ids = torch.randint(0, model.config.vocab_size, (3, 17), generator=generator)
            mask = torch.ones_like(ids)
            mask[1, 9:] = 0
            found = model(input_ids=ids, attention_mask=mask).last_hidden_state
            return found, {"input_ids": ids, "attention_mask": mask}
        latents = torch.randn(2, model.config.latent_channels, 4, 6, generator=generator)
        picture = model.decode(latents).sample
        if name == "vae_decoder":
            return picture, {"latent_sample": latents}
        return model.encode(picture).latent, {"sample": picture}


def _opened(part: Component) -> Any:
    """A part as its own class, in fp32."""
    folder = part.files[0].parent
    if part.weights and part.weights.quantized:
        return load_part(part, torch.float32)
    if part.name == "text_encoder":
        from transformers import AutoModel

        return AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    from diffusers import AutoencoderDC

    return AutoencoderDC.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()


def _pictures(candidate: Model, reference: Model, graphs: Mapping[str, Ready], asked: Asked) -> list[Figure]:
    """The same prompts, the same noises, a whole trajectory each; the least alike pair decides."""
    theirs = open_painter(reference, "cpu")
    ours = _with_graphs(theirs, graphs) if graphs else open_painter(candidate, "cpu")
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(asked.pictures)]
    settings = Sampling(asked.steps, batch=4)
    rounded = any(graph.rounded for graph in graphs.values())
    limits, middle = ((ROUNDED_PSNR, ROUNDED_SSIM), "median") if rounded else ((PSNR, SSIM), "the least")
    choose = statistics.median if rounded else min
    wanted, found = (
        [picture for batch in painter.paint(prompts, range(len(prompts)), settings) for picture in batch]
        for painter in (theirs, ours)
    )
    return [
        Figure(f"pictures, {name}, {middle}", choose(map(measure, found, wanted)), limit, most=False)
        for name, measure, limit in zip(("PSNR in dB", "SSIM"), (psnr, ssim), limits, strict=True)
    ]


def _with_graphs(painter: Painter, graphs: Mapping[str, Ready]) -> Painter:
    """The same pipeline, graphs in the place of its models."""
    pipeline = copy.copy(painter.pipeline)
    for name, part, kind in (
        ("transformer", "transformer", Transformer),
        ("text_encoder", "text_encoder", TextEncoder),
        ("vae_decoder", "vae", Autoencoder),
    ):
        if name in graphs:
            setattr(pipeline, part, kind(graphs[name].opened(), getattr(painter.pipeline, part).config))
    return replace(painter, pipeline=pipeline)
