"""Compares a candidate with a reference: the transformer block by block, the other components, and generated images."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sanac.core.artifact.model import Model
from sanac.core.check import Check
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import Reporter
from sanac.judge.image_metrics import Picture, psnr, ssim
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.nn.pipeline_config import latent_side, native
from sanac.runtime.backends import PAINTING, install_runners
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.verify.components import PARTS, compare_component, same_files
from sanac.verify.depth_graphs import compare_depths
from sanac.verify.engine_candidates import Executed, executed, ready_depth_engines, ready_engines
from sanac.verify.memory import check_memory, missing_for_pictures
from sanac.verify.onnx_candidates import (
    ALIKE,
    LIMITS,
    TIPPED,
    WIDENED,
    Candidate,
    open_candidates,
    open_depth_candidates,
)
from sanac.verify.parity import Case, Parity, ParityBackend, cases, compare
from sanac.verify.parity_backends import EngineBackend, OnnxBackend, TorchBackend
from sanac.verify.streamed_graph import GraphRun, plan_run

PSNR, SSIM = 40.0, 0.99
ROUNDED_PSNR, ROUNDED_SSIM = 30.0, 0.95  # or the reference's similarity to itself minus the slack below, if lower
_LESS_PSNR, _LESS_SSIM = 6.0, 0.1
_MOVED = 1e-5  # relative change of guidance when the reference is compared with itself
PROMPTS = ("a red circle", "two blue squares", "a green triangle left of a yellow circle", "three purple stars")
UNPAINTED = "no images compared: {}; sanac verify {} --against {} --pictures {} compares them"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Settings of a comparison."""

    backend: str = "onnx"
    limit: float | None = None  # on the relative error; None: by precision
    pictures: int = 4
    steps: int = 12
    engines: tuple[str, ...] = ()  # only these engine files; empty: all
    pictures_optional: bool = False  # whether images are left out where memory is short


@dataclass(frozen=True)
class PicturePairs:
    """Images of the reference and of the candidate from the same prompts and noises."""

    prompts: Sequence[str]
    expected: Sequence[Picture]
    found: Sequence[Picture]


@dataclass(frozen=True)
class VerifyReport:
    """Result of a comparison."""

    parity: Parity
    other_checks: tuple[Check, ...]  # of the other components and of images
    notes: tuple[str, ...]  # remarks on how the comparison was done
    executed: Executed  # engines that ran
    pairs: PicturePairs | None = None  # the images that were compared

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
    runs = {name: GraphRun((), 0) if one.record else plan_run(one.path, one.content) for name, one in graphs.items()}
    check_memory(reference, reporter, runs)
    pictures, skipped = pictures_compared(candidate, reference, settings)
    notes += filter(None, [skipped])
    reporter.note("comparing outputs, and the hidden states after each block")
    parity = _transformers(candidate, reference, graphs.get("transformer"), runs, settings.limit, device)
    notes += (
        [ALIKE.format(*parity.unreplayed_errors)]
        if parity.unreplayed_errors
        else [TIPPED]
        if parity.median_limit
        else []
    )
    depths = _depth_candidates(candidate, settings)
    fitted = partial(_fitted, model=reference)
    depth_checks = compare_depths(
        candidate,
        reference,
        depths,
        cases(),
        lambda graph: _depth_backend(graph, device),
        fitted,
        limit=settings.limit,
        device=device,
    )
    others = [
        compare_component(name, graphs.get(name), runs.get(name), candidate, reference, settings.limit)
        for name in PARTS
    ]
    found = [*depth_checks, *(check for check, _ in others if check)]
    notes += [where for _, where in others if where]
    pairs = None
    if pictures:
        reporter.note(f"generating {settings.pictures} images with both")
        checks, pairs = _pictures(candidate, reference, graphs, settings)
        found += checks
    return VerifyReport(parity, tuple(found), tuple(notes), engines_run, pairs)


def pictures_compared(candidate: Model, reference: Model, settings: Comparison) -> tuple[bool, str]:
    """(whether images are compared, why not); MissingResource if they must be and memory is short."""
    if not settings.pictures:
        return False, ""
    if candidate.model_index is None or reference.model_index is None:
        return False, "no images compared: candidate and reference must both be complete pipelines"
    missing = missing_for_pictures(reference)
    if missing and not settings.pictures_optional:
        hint = "--pictures 0 needs less memory"
        raise MissingResource("not enough memory to compare images", why=missing, hint=hint)
    if missing:
        names = candidate.located.path, reference.located.path
        return False, UNPAINTED.format(missing, *names, settings.pictures)
    return True, ""


def _transformers(
    candidate: Model,
    reference: Model,
    graph: Candidate | None,
    runs: Mapping[str, GraphRun],
    limit: float | None,
    device: str,
) -> Parity:
    """Parity of the transformers, block by block if the backend exposes blocks; frees both backends afterwards."""
    theirs = TorchBackend(reference, device)
    ours: ParityBackend = theirs
    if graph:
        ours = _backend(graph, runs, device)
    elif not same_files(candidate.transformer, reference.transformer):
        ours = TorchBackend(candidate, device)
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


def _depth_candidates(candidate: Model, settings: Comparison) -> dict[int, Candidate]:
    """Graphs or engines of the depths of the candidate's schedule."""
    if settings.backend == "torch" or candidate.schedule is None:
        return {}
    if settings.backend == "onnx":
        return open_depth_candidates(candidate)
    return ready_depth_engines(candidate, settings.engines)


def _depth_backend(graph: Candidate, device: str) -> ParityBackend:
    return _backend(graph, {"transformer": plan_run(graph.path, graph.content)} if not graph.record else {}, device)


def _backend(graph: Candidate, runs: Mapping[str, GraphRun], device: str) -> ParityBackend:
    if graph.record:
        return EngineBackend(graph.path)
    return OnnxBackend(graph.path, device, graph.content, runs["transformer"].pieces)


def _fitted(case: Case, graph: Candidate, model: Model) -> Case:
    """The case with shapes clamped to the ranges that an engine supports."""
    shape, patch = model.architecture, model.architecture.patch_size
    sides = (case.rows * patch, case.columns * patch)
    batch, _, rows, columns = graph.fitted("hidden_states", (case.batch, shape.in_channels, *sides))
    _, length = graph.fitted("encoder_attention_mask", (batch, case.length))
    return replace(case, batch=batch, rows=rows // patch, columns=columns // patch, length=length)


def _check_alike(candidate: Model, reference: Model) -> None:
    """Raise UsageError unless both models take the same inputs."""
    ours, theirs = (
        (shape.in_channels, shape.caption_channels, shape.patch_size, shape.guidance)
        for shape in (candidate.architecture, reference.architecture)
    )
    if ours != theirs:
        names = f"{candidate.located.name} can't be compared with {reference.located.name}"
        raise UsageError(names, why="their latents, captions or conditioning have different shapes")


def _pictures(
    candidate: Model, reference: Model, graphs: Mapping[str, Candidate], settings: Comparison
) -> tuple[list[Check], PicturePairs | None]:
    """PSNR and SSIM of images from the same prompts and noises; the worst pair counts, or the median with rounding."""
    batch, size = _engine_batch(graphs, reference)
    count = -(-settings.pictures // batch) * batch if size else settings.pictures  # engines may require full batches
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    sampling = GenerationSettings(settings.steps, size=size, batch=batch)

    def generate(generator: ImageGenerator, how: GenerationSettings = sampling) -> list[Any]:
        return [picture for batch in generator.generate(prompts, range(len(prompts)), how) for picture in batch]

    theirs = open_generator(reference, "cpu", scheduled=False)
    expected = generate(theirs)
    ours = theirs if _shared(candidate, reference, graphs) else open_generator(candidate, "cpu", scheduled=False)
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
        return [Check(name, -math.inf, limit, most=False) for name, limit in zip(names, limits, strict=True)], None
    checks = [
        Check(name, choose(list(map(measure, found, expected))), limit, most=False)
        for name, measure, limit in zip(names, (psnr, ssim), limits, strict=True)
    ]
    return checks, PicturePairs(prompts, expected, found)


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
    return all(part.name in replaced or same_files(ours.get(part.name), part) for part in reference.components)


def _with_graphs(
    generator: DiffusionGenerator, graphs: Mapping[str, Candidate], candidate: Model
) -> DiffusionGenerator:
    """A copy of the generator whose pipeline runs the graphs."""
    pipeline = copy.copy(generator.pipeline)
    install_runners(
        pipeline, {PAINTING[name]: graph.opened() for name, graph in graphs.items() if name in PAINTING}, candidate
    )
    return replace(generator, pipeline=pipeline)
