"""Compares a candidate with a reference: the transformer block by block, the other components, and generated images."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanac.core.artifact.model import Component, Model
from sanac.core.check import Check
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.core.resources import Needs, check_room
from sanac.judge.image_metrics import psnr, ssim
from sanac.nn.component_loading import load_part
from sanac.nn.pipeline_config import latent_side, native
from sanac.nn.silence_libraries import quiet
from sanac.runtime.backends import PAINTING, install_runners
from sanac.runtime.pipeline import DiffusionGenerator, GenerationSettings, open_generator
from sanac.verify.engine_candidates import Executed, executed, ready_engines
from sanac.verify.onnx_candidates import ALIKE, LIMITS, TIPPED, WIDENED, Candidate, open_candidates
from sanac.verify.parity import Case, Parity, ParityBackend, cases, compare, relative_error
from sanac.verify.parity_backends import EngineBackend, OnnxBackend, TorchBackend

PSNR, SSIM = 40.0, 0.99
ROUNDED_PSNR, ROUNDED_SSIM = 30.0, 0.95  # or the reference's similarity to itself minus the slack below, if lower
_LESS_PSNR, _LESS_SSIM = 6.0, 0.1
_MOVED = 1e-5  # relative change of guidance when the reference is compared with itself
PROMPTS = ("a red circle", "two blue squares", "a green triangle left of a yellow circle", "three purple stars")
_PARTS = {"text_encoder": "text_encoder", "vae_decoder": "vae", "vae_encoder": "vae"}  # graph folder -> component
_OVERHEAD = 800_000_000  # bytes of imported torch, diffusers and onnxruntime


@dataclass(frozen=True, slots=True)
class Comparison:
    """Settings of a comparison."""

    backend: str = "onnx"
    limit: float | None = None  # on the relative error; None: by precision
    pictures: int = 4
    steps: int = 12
    engines: tuple[str, ...] = ()  # only these engine files; empty: all


@dataclass(frozen=True)
class VerifyReport:
    """Result of a comparison."""

    parity: Parity
    others: tuple[Check, ...]  # of the other components and of images
    notes: tuple[str, ...]  # remarks on how the comparison was done
    executed: Executed  # engines that ran

    @property
    def figures(self) -> tuple[Check, ...]:
        """All checks that decide the result."""
        return (*self.parity.figures, *self.others)

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(figure.passed for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        figures = [figure.to_json() for figure in self.figures]
        found = {"passed": self.passed, "notes": list(self.notes), "figures": figures}
        return found | {"executed": dict(self.executed), "parity": self.parity.to_json()}


def verify(candidate: Model, reference: Model, asked: Comparison, device: str, reporter: Reporter) -> VerifyReport:
    """Compare all components that both models have; candidate components without a graph run in torch."""
    _check_alike(candidate, reference)
    graphs = _ready(candidate, asked)
    notes = [WIDENED] if any(graph.content for graph in graphs.values()) else []
    ran = executed(graphs)
    notes += sorted({one["where"] for one in ran.values()})
    both = candidate.model_index is not None and reference.model_index is not None
    if asked.pictures and not both:
        notes.append("no images compared: candidate and reference must both be complete pipelines")
    check_memory(reference, reporter, pictures=bool(asked.pictures) and both)
    reporter.note("comparing outputs, and the hidden states after each block")
    parity = _transformers(candidate, reference, graphs.get("transformer"), asked.limit, device)
    notes += [ALIKE.format(*parity.own)] if parity.own else [TIPPED] if parity.unseen else []
    others = [_part(name, graphs.get(name), candidate, reference, asked.limit) for name in _PARTS]
    found = [figure for figure in others if figure]
    if asked.pictures and both:
        reporter.note(f"generating {asked.pictures} images with both")
        found += _pictures(candidate, reference, graphs, asked)
    return VerifyReport(parity, tuple(found), tuple(notes), ran)


def _transformers(
    candidate: Model, reference: Model, graph: Candidate | None, limit: float | None, device: str
) -> Parity:
    """Parity of the transformers, block by block if the backend exposes blocks; frees both backends afterwards."""
    theirs = TorchBackend(reference, device)
    same = _same_files(candidate.transformer, reference.transformer)
    ours = _side(graph, device) if graph else theirs if same else TorchBackend(candidate, device)
    least = graph.limit if graph else LIMITS["fp32"]
    asking = [_fitted(case, graph, reference) for case in cases()] if graph else None
    unseen = (limit or graph.unseen) if graph and graph.rounded else None
    return compare(ours, theirs, reference.architecture, limit or least, asking, unseen=unseen)


def _ready(candidate: Model, asked: Comparison) -> dict[str, Candidate]:
    """Graphs or engines of the candidate by component folder; components without one run in torch."""
    backend = asked.backend
    if backend == "torch":
        return {}
    found = open_candidates(candidate) if backend == "onnx" else ready_engines(candidate, asked.engines)
    if not found:
        what, how = ("graph", "") if backend == "onnx" else ("engine", " --trt")
        raise UsageError(f"{candidate.located.name} has no {what}", hint=f"sanac export {candidate.located.path}{how}")
    return found


def _side(graph: Candidate, device: str) -> ParityBackend:
    return EngineBackend(graph.path) if graph.record else OnnxBackend(graph.path, device, graph.content)


def _fitted(case: Case, graph: Candidate, model: Model) -> Case:
    """The case with shapes clamped to the ranges that an engine supports."""
    shape, patch = model.architecture, model.architecture.patch_size
    sides = (case.rows * patch, case.columns * patch)
    batch, _, rows, columns = graph.fitted("hidden_states", (case.batch, shape.in_channels, *sides))
    _, length = graph.fitted("encoder_attention_mask", (batch, case.length))
    return replace(case, batch=batch, rows=rows // patch, columns=columns // patch, length=length)


def check_memory(reference: Model, reporter: Reporter, *, pictures: bool) -> None:
    """Raise MissingResource without enough memory: sessions hold stored and cast weights, pipelines another copy."""
    sizes = {part.name: (part.weights.count, part.weights.size) for part in reference.components if part.weights}
    alone = max((4 if name == "transformer" else 8) * count + size for name, (count, size) in sizes.items())
    whole = sum(4 * count + 2 * size for count, size in sizes.values())
    tokens = sum(case.batch * case.rows * case.columns for case in cases())
    packings = (parts.spec for parts in reference.weights.parts.values())
    rounded = sum(packing.columns for packing in packings if packing.activations)
    alone += (2 * tokens + 5 * max(case.batch * case.length for case in cases())) * rounded  # codes, and one case
    needs = Needs(disk=0, memory=_OVERHEAD + (max(alone, whole) if pictures else alone))
    try:
        check_room(needs, Path.cwd(), reporter)
    except MissingResource as error:
        hint = "--pictures 0 needs less memory" if pictures else "compare on a machine with more memory"
        raise MissingResource(f"{error.message} to compare", why=error.why, hint=hint) from error


def _check_alike(candidate: Model, reference: Model) -> None:
    """Raise UsageError unless both models take the same inputs."""
    ours, theirs = (
        (shape.in_channels, shape.caption_channels, shape.patch_size, shape.guidance)
        for shape in (candidate.architecture, reference.architecture)
    )
    if ours != theirs:
        names = f"{candidate.located.name} can't be compared with {reference.located.name}"
        raise UsageError(names, why="their latents, captions or conditioning have different shapes")


def _part(name: str, graph: Candidate | None, candidate: Model, reference: Model, limit: float | None) -> Check | None:
    """Check of a text encoder, decoder or encoder against the reference's; None if missing or identical."""
    ours, theirs = (_component(model, _PARTS[name]) for model in (candidate, reference))
    if theirs is None and graph:
        raise UsageError(
            f"{reference.located.name} has no {_PARTS[name]}",
            why=f"the candidate's {name} graph has nothing to be compared with",
            hint="--against a complete pipeline",
        )
    if theirs is None or (ours is None and graph is None) or (graph is None and _same_files(ours, theirs)):
        return None
    wanted, given = _asked_of(name, theirs, graph)
    if graph:
        found = graph.opened()(**given)[0].float().cpu()
    else:
        assert ours
        found = _answer(name, _opened(ours), given)
    least = (graph.unseen or graph.limit) if graph else LIMITS["fp32"]
    return Check(f"{name}, relative error", relative_error(found, wanted), limit or least)


def _component(model: Model, name: str) -> Component | None:
    return next((part for part in model.components if part.name == name and part.weights), None)


def _same_files(ours: Component | None, theirs: Component) -> bool:
    """Whether two components are byte-identical, so that no comparison is needed."""
    if ours is None or {path.name for path in ours.files} != {path.name for path in theirs.files}:
        return False
    pairs = zip(sorted(ours.files), sorted(theirs.files), strict=True)
    return all(one.samefile(other) or digest_file(one) == digest_file(other) for one, other in pairs)


def _asked_of(name: str, part: Component, graph: Candidate | None) -> tuple[Tensor, dict[str, Tensor]]:
    """(reference output, inputs) of a component's own class, in shapes that the graph supports."""
    generator = torch.Generator().manual_seed(0)
    model = _opened(part)
    if name == "text_encoder":
        shape = _taken(graph, "input_ids", (3, 17))
        ids = torch.randint(0, model.config.vocab_size, shape, generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, 9:] = 0
        given = {"input_ids": ids, "attention_mask": mask}
    else:
        shape = (2, model.config.latent_channels, 4, 6)
        shape = shape if name == "vae_encoder" else _taken(graph, "latent_sample", shape)
        given = {"latent_sample": torch.randn(shape, generator=generator)}
    if name == "vae_encoder":
        picture = _answer("vae_decoder", model, given)
        sides = _taken(graph, "sample", tuple(picture.shape))[2:]
        given = {"sample": torch.nn.functional.interpolate(picture, sides)}
    return _answer(name, model, given), given


def _taken(graph: Candidate | None, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return graph.fitted(name, shape) if graph else shape


def _answer(name: str, model: Any, given: Mapping[str, Tensor]) -> Tensor:
    """Output of a component's own class for the inputs of its graph."""
    with torch.no_grad(), quiet():
        if name == "text_encoder":
            found: Tensor = model(**given).last_hidden_state
        elif name == "vae_decoder":
            found = model.decode(given["latent_sample"]).sample
        else:
            found = model.encode(given["sample"]).latent
    return found


def _opened(part: Component) -> Any:
    """Open a component as its own class, in fp32."""
    with quiet():
        if part.weights and part.weights.quantized:
            return load_part(part, torch.float32)
        if part.name == "text_encoder":
            from transformers import AutoModel

            return AutoModel.from_pretrained(part.folder, dtype=torch.float32, local_files_only=True).eval()
        from diffusers import AutoencoderDC

        return AutoencoderDC.from_pretrained(part.folder, torch_dtype=torch.float32, local_files_only=True).eval()


def _pictures(candidate: Model, reference: Model, graphs: Mapping[str, Candidate], asked: Comparison) -> list[Check]:
    """PSNR and SSIM of images from the same prompts and noises; the worst pair counts, or the median with rounding."""
    batch, size = _taken_at_once(graphs, reference)
    count = -(-asked.pictures // batch) * batch if size else asked.pictures  # engines may require full batches
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    settings = GenerationSettings(asked.steps, size=size, batch=batch)

    def painted(painter: DiffusionGenerator, how: GenerationSettings = settings) -> list[Any]:
        return [picture for batch in painter.paint(prompts, range(len(prompts)), how) for picture in batch]

    theirs = open_generator(reference, "cpu")
    wanted = painted(theirs)
    ours = theirs if _shared(candidate, reference, graphs) else open_generator(candidate, "cpu")
    rounded = any(graph.rounded for graph in graphs.values())
    choose: Callable[[list[float]], float] = statistics.median if rounded else min
    middle, limits = "median" if rounded else "the least", [PSNR, SSIM]
    if rounded:
        moved = painted(theirs, replace(settings, guidance=settings.guidance * (1 + _MOVED)))
        limits = [
            min(limit, choose(list(map(measure, moved, wanted))) - less)
            for measure, limit, less in ((psnr, ROUNDED_PSNR, _LESS_PSNR), (ssim, ROUNDED_SSIM, _LESS_SSIM))
        ]
    names = [f"pictures, {name}, {middle}" for name in ("PSNR in dB", "SSIM")]
    try:
        found = painted(_with_graphs(ours, graphs, candidate))
    except InvalidInput:  # NaN in the images
        return [Check(name, -math.inf, limit, most=False) for name, limit in zip(names, limits, strict=True)]
    return [
        Check(name, choose(list(map(measure, found, wanted))), limit, most=False)
        for name, measure, limit in zip(names, (psnr, ssim), limits, strict=True)
    ]


def _taken_at_once(graphs: Mapping[str, Candidate], model: Model) -> tuple[int, tuple[int, int] | None]:
    """(batch size, image size or None): the engine's nearest size to the native one; None without an engine."""
    engine = graphs.get("transformer")
    if engine is None or engine.record is None:
        return 4, None
    side, (step, _) = latent_side(model), native(model)
    branches = 1 if model.architecture.guidance else 2
    asked, _, rows, columns = engine.fitted("hidden_states", (4 * branches, model.architecture.in_channels, side, side))
    return max(1, asked // branches), (columns * step, rows * step)


def _shared(candidate: Model, reference: Model, graphs: Mapping[str, Candidate]) -> bool:
    """Whether all components without a graph are identical in both models, so that one pipeline serves both."""
    replaced = {"vae" if name == "vae_decoder" else name for name in graphs}
    ours = {part.name: part for part in candidate.components}
    return all(part.name in replaced or _same_files(ours.get(part.name), part) for part in reference.components)


def _with_graphs(painter: DiffusionGenerator, graphs: Mapping[str, Candidate], candidate: Model) -> DiffusionGenerator:
    """A copy of the generator whose pipeline runs the graphs."""
    pipeline = copy.copy(painter.pipeline)
    install_runners(
        pipeline, {PAINTING[name]: graph.opened() for name, graph in graphs.items() if name in PAINTING}, candidate
    )
    return replace(painter, pipeline=pipeline)
