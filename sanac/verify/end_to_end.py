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
from sanac.nn.pipeline_config import latent_side, native
from sanac.nn.silence_libraries import quiet
from sanac.nn.stock_loading import load_component
from sanac.runtime.backends import PAINTING, install_runners
from sanac.runtime.pipeline import DiffusionGenerator, GenerationSettings, ImageGenerator, open_generator
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
    other_checks: tuple[Check, ...]  # of the other components and of images
    notes: tuple[str, ...]  # remarks on how the comparison was done
    executed: Executed  # engines that ran

    @property
    def figures(self) -> tuple[Check, ...]:
        """All checks that decide the result."""
        return (*self.parity.figures, *self.other_checks)

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(figure.passed for figure in self.figures)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON."""
        figures = [figure.to_json() for figure in self.figures]
        found = {"passed": self.passed, "notes": list(self.notes), "figures": figures}
        return found | {"executed": dict(self.executed), "parity": self.parity.to_json()}


def verify(candidate: Model, reference: Model, settings: Comparison, device: str, reporter: Reporter) -> VerifyReport:
    """Compare all components that both models have; candidate components without a graph run in torch."""
    _check_alike(candidate, reference)
    graphs = _candidates(candidate, settings)
    notes = [WIDENED] if any(graph.content for graph in graphs.values()) else []
    engines_run = executed(graphs)
    notes += sorted({one["where"] for one in engines_run.values()})
    both = candidate.model_index is not None and reference.model_index is not None
    if settings.pictures and not both:
        notes.append("no images compared: candidate and reference must both be complete pipelines")
    check_memory(reference, reporter, pictures=bool(settings.pictures) and both)
    reporter.note("comparing outputs, and the hidden states after each block")
    parity = _transformers(candidate, reference, graphs.get("transformer"), settings.limit, device)
    notes += (
        [ALIKE.format(*parity.unreplayed_errors)]
        if parity.unreplayed_errors
        else [TIPPED]
        if parity.median_limit
        else []
    )
    others = [_part(name, graphs.get(name), candidate, reference, settings.limit) for name in _PARTS]
    found = [figure for figure in others if figure]
    if settings.pictures and both:
        reporter.note(f"generating {settings.pictures} images with both")
        found += _pictures(candidate, reference, graphs, settings)
    return VerifyReport(parity, tuple(found), tuple(notes), engines_run)


def _transformers(
    candidate: Model, reference: Model, graph: Candidate | None, limit: float | None, device: str
) -> Parity:
    """Parity of the transformers, block by block if the backend exposes blocks; frees both backends afterwards."""
    theirs = TorchBackend(reference, device)
    same = _same_files(candidate.transformer, reference.transformer)
    ours = _backend(graph, device) if graph else theirs if same else TorchBackend(candidate, device)
    least = graph.limit if graph else LIMITS["fp32"]
    selected = [_fitted(case, graph, reference) for case in cases()] if graph else None
    median_limit = (limit or graph.median_limit) if graph and graph.rounds_activations else None
    return compare(ours, theirs, reference.architecture, limit or least, selected, median_limit=median_limit)


def _candidates(candidate: Model, settings: Comparison) -> dict[str, Candidate]:
    """Graphs or engines of the candidate by component folder; components without one run in torch."""
    backend = settings.backend
    if backend == "torch":
        return {}
    found = open_candidates(candidate) if backend == "onnx" else ready_engines(candidate, settings.engines)
    if not found:
        what, how = ("graph", "") if backend == "onnx" else ("engine", " --trt")
        raise UsageError(f"{candidate.located.name} has no {what}", hint=f"sanac export {candidate.located.path}{how}")
    return found


def _backend(graph: Candidate, device: str) -> ParityBackend:
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
    specs = (parts.spec for parts in reference.weights.parts.values())
    columns = sum(spec.columns for spec in specs if spec.activations)
    alone += (2 * tokens + 5 * max(case.batch * case.length for case in cases())) * columns  # codes, and one case
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
    expected, inputs = _reference_outputs(name, reference, graph)
    if graph:
        found = graph.opened()(**inputs)[0].float().cpu()
    else:
        assert ours
        found = _module_output(name, load_component(candidate, ours.name, torch.float32), inputs)
    least = (graph.median_limit or graph.limit) if graph else LIMITS["fp32"]
    return Check(f"{name}, relative error", relative_error(found, expected), limit or least)


def _component(model: Model, name: str) -> Component | None:
    return next((part for part in model.components if part.name == name and part.weights), None)


def _same_files(ours: Component | None, theirs: Component) -> bool:
    """Whether two components are byte-identical, so that no comparison is needed."""
    if ours is None or {path.name for path in ours.files} != {path.name for path in theirs.files}:
        return False
    pairs = zip(sorted(ours.files), sorted(theirs.files), strict=True)
    return all(one.samefile(other) or digest_file(one) == digest_file(other) for one, other in pairs)


def _reference_outputs(name: str, reference: Model, graph: Candidate | None) -> tuple[Tensor, dict[str, Tensor]]:
    """(reference output, inputs) of a component's own class, in shapes that the graph supports."""
    generator = torch.Generator().manual_seed(0)
    model: Any = load_component(reference, _PARTS[name], torch.float32)
    if name == "text_encoder":
        shape = _accepted_shape(graph, "input_ids", (3, 17))
        ids = torch.randint(0, model.config.vocab_size, shape, generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, 9:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
    else:
        shape = (2, model.config.latent_channels, 4, 6)
        shape = shape if name == "vae_encoder" else _accepted_shape(graph, "latent_sample", shape)
        inputs = {"latent_sample": torch.randn(shape, generator=generator)}
    if name == "vae_encoder":
        picture = _module_output("vae_decoder", model, inputs)
        sides = _accepted_shape(graph, "sample", tuple(picture.shape))[2:]
        inputs = {"sample": torch.nn.functional.interpolate(picture, sides)}
    return _module_output(name, model, inputs), inputs


def _accepted_shape(graph: Candidate | None, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return graph.fitted(name, shape) if graph else shape


def _module_output(name: str, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Output of a component's own class for the inputs of its graph."""
    with torch.no_grad(), quiet():
        if name == "text_encoder":
            found: Tensor = model(**inputs).last_hidden_state
        elif name == "vae_decoder":
            found = model.decode(inputs["latent_sample"]).sample
        else:
            found = model.encode(inputs["sample"]).latent
    return found


def _pictures(candidate: Model, reference: Model, graphs: Mapping[str, Candidate], settings: Comparison) -> list[Check]:
    """PSNR and SSIM of images from the same prompts and noises; the worst pair counts, or the median with rounding."""
    batch, size = _engine_batch(graphs, reference)
    count = -(-settings.pictures // batch) * batch if size else settings.pictures  # engines may require full batches
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    sampling = GenerationSettings(settings.steps, size=size, batch=batch)

    def generate(generator: ImageGenerator, how: GenerationSettings = sampling) -> list[Any]:
        return [picture for batch in generator.generate(prompts, range(len(prompts)), how) for picture in batch]

    theirs = open_generator(reference, "cpu")
    expected = generate(theirs)
    ours = theirs if _shared(candidate, reference, graphs) else open_generator(candidate, "cpu")
    rounds_activations = any(graph.rounds_activations for graph in graphs.values())
    choose: Callable[[list[float]], float] = statistics.median if rounds_activations else min
    middle, limits = "median" if rounds_activations else "the least", [PSNR, SSIM]
    if rounds_activations:
        moved = generate(theirs, replace(sampling, guidance=sampling.guidance * (1 + _MOVED)))
        limits = [
            min(limit, choose(list(map(measure, moved, expected))) - less)
            for measure, limit, less in ((psnr, ROUNDED_PSNR, _LESS_PSNR), (ssim, ROUNDED_SSIM, _LESS_SSIM))
        ]
    names = [f"pictures, {name}, {middle}" for name in ("PSNR in dB", "SSIM")]
    try:
        found = generate(_with_graphs(ours, graphs, candidate))
    except InvalidInput:  # NaN in the images
        return [Check(name, -math.inf, limit, most=False) for name, limit in zip(names, limits, strict=True)]
    return [
        Check(name, choose(list(map(measure, found, expected))), limit, most=False)
        for name, measure, limit in zip(names, (psnr, ssim), limits, strict=True)
    ]


def _engine_batch(graphs: Mapping[str, Candidate], model: Model) -> tuple[int, tuple[int, int] | None]:
    """(batch size, image size or None): the engine's nearest size to the native one; None without an engine."""
    engine = graphs.get("transformer")
    if engine is None or engine.record is None:
        return 4, None
    side, (step, _) = latent_side(model), native(model)
    branches = 1 if model.architecture.guidance else 2
    batch, _, rows, columns = engine.fitted("hidden_states", (4 * branches, model.architecture.in_channels, side, side))
    return max(1, batch // branches), (columns * step, rows * step)


def _shared(candidate: Model, reference: Model, graphs: Mapping[str, Candidate]) -> bool:
    """Whether all components without a graph are identical in both models, so that one pipeline serves both."""
    replaced = {"vae" if name == "vae_decoder" else name for name in graphs}
    ours = {part.name: part for part in candidate.components}
    return all(part.name in replaced or _same_files(ours.get(part.name), part) for part in reference.components)


def _with_graphs(
    generator: DiffusionGenerator, graphs: Mapping[str, Candidate], candidate: Model
) -> DiffusionGenerator:
    """A copy of the generator whose pipeline runs the graphs."""
    pipeline = copy.copy(generator.pipeline)
    install_runners(
        pipeline, {PAINTING[name]: graph.opened() for name, graph in graphs.items() if name in PAINTING}, candidate
    )
    return replace(generator, pipeline=pipeline)
