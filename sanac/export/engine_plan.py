"""Plans TensorRT engines: the builder, target GPUs and shape ranges of each; checks all of them before building."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core import json_files
from sanac.core.artifact.engine_record import (
    AHEAD,
    ENGINE,
    LOG,
    PACKAGES,
    RECORD,
    Span,
    bindings,
    check_file,
    check_runs_here,
    refuse_impossible,
    sm_text,
)
from sanac.core.artifact.model import Model
from sanac.core.errors import MissingResource, UsageError
from sanac.core.file_copy import digest_file
from sanac.core.requirements import install_command
from sanac.nn.device import capability
from sanac.nn.pipeline_config import native

if TYPE_CHECKING:
    from sanac.export.component_graph import ComponentGraph

_SCHEMA = 1  # raised when the same settings would give another engine
_LONGEST, _LONGEST_TEXT = 300, 1024  # most tokens for the transformer, and for the text encoder with instructions
_ITEM = {"fp32": 4, "fp16": 2, "bf16": 2}
_COPIES, _BUILDER = 2.0, 700_000_000  # anonymous memory of a build: multiple of the weights, plus fixed bytes
_RUNTIME = 16_000_000  # bytes of an engine without its weights


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """User settings for building TensorRT engines."""

    builder: str = "auto"
    capabilities: tuple[int, ...] = ()
    batch: tuple[int, int] = (1, 4)
    size: tuple[int, int] | None = None  # range of image sides in pixels; None: half to double the native resolution
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class EngineBuild:
    """One engine to build: its graph, builder, target GPUs and shape ranges."""

    component: "ComponentGraph"
    builder: str
    version: str
    capabilities: tuple[int, ...]
    sizes: Mapping[str, Span] = field(hash=False)
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    structure: str | None = None  # digest of the graph that the engine to refit was built from
    timing_cache: Path | None = None

    @property
    def stem(self) -> str:
        """Path stem of the engine's files, e.g. transformer/model.int8.rtx-1.7.1.116.sm89."""
        scheme = self.component.scheme or self.component.precision
        scheme = f"depth-{len(self.component.kept)}.{scheme}" if self.component.kept else scheme
        return f"{self.component.folder}/model.{scheme}.{self.builder}-{self.version}.{sm_text(self.capabilities)}"

    @property
    def graph_file(self) -> str:
        """Path of the graph file."""
        return self.component.file

    @property
    def files(self) -> tuple[str, ...]:
        """Files written for the engine: engine, record and build log."""
        return (self.stem + ENGINE, self.stem + RECORD, self.stem + LOG)

    @property
    def weights(self) -> int:
        """Upper bound on the bytes of the engine's weights; TensorRT may store quantized ones dequantized."""
        component = self.component
        share = len(component.kept) / component.blocks if component.kept else 1.0
        return int(share * component.parameters) * _ITEM[component.precision]

    @property
    def memory(self) -> int:
        """Approximate bytes of memory needed to build the engine."""
        return int(_COPIES * self.weights) + _BUILDER

    @property
    def disk(self) -> int:
        """Approximate bytes of the engine on disk."""
        return self.weights + _RUNTIME

    @property
    def built_with(self) -> str:
        """Builder, version and target GPUs, readable."""
        return f"{PACKAGES[self.builder]} {self.version} for {sm_text(self.capabilities)}"

    def to_json(self) -> dict[str, Any]:
        """Everything that the engine depends on besides the graph."""
        return {
            "schema": _SCHEMA,
            "folder": self.component.folder,
            "builder": self.builder,
            "version": self.version,
            "capabilities": list(self.capabilities),
            "sizes": {name: asdict(span) for name, span in self.sizes.items()},
            "weight_streaming": self.weight_streaming,
            "refit": self.refit,
            "refitted": digest_file(self.refit_from) if self.refit_from else None,
        }

    def key(self, graph: str) -> str:
        """Content key of the engine of a graph with this key."""
        return json_files.key_of(["engine", self.to_json(), graph])

    def task(self, folder: Path, out: Path) -> dict[str, Any]:
        """The task for the build process."""
        return {
            "parent": os.getpid(),
            "builder": self.builder,
            "graph": str(folder / self.graph_file),
            "out": str(out),
            "capabilities": self.capabilities,
            "sizes": {name: (span.least, span.best, span.most) for name, span in self.sizes.items()},
            "weight_streaming": self.weight_streaming,
            "refit": self.refit,
            "refit_from": str(self.refit_from.absolute()) if self.refit_from else None,
            "structure": self.structure,
            "timing_cache": str(self.timing_cache.absolute()) if self.timing_cache else None,
            "no_bf16": min(self.capabilities) == AHEAD[0],
        }


def engines_of(model: Model, graphs: "Sequence[ComponentGraph]", settings: EngineSettings) -> list[EngineBuild]:
    """One engine build per graph; raises before anything is built if one is impossible."""
    if settings.refit_from:
        return [_refitted(graphs, settings, settings.refit_from)]
    builder, version, capabilities = choose_builder(settings)
    sizes = _sizes(model, settings)
    found = []
    for graph in graphs:
        refuse_impossible(graph.forms, builder, capabilities, f"the {graph.folder}'s graph")
        how = (settings.weight_streaming, settings.refit, None, None, settings.timing_cache)
        found.append(EngineBuild(graph, builder, version, capabilities, sizes[graph.folder], *how))
    return found


def choose_builder(settings: EngineSettings) -> tuple[str, str, tuple[int, ...]]:
    """Builder, its version and the target GPUs. An explicitly chosen builder is never replaced."""
    here, capabilities, builder = capability(), settings.capabilities, settings.builder
    if builder == "auto":
        builder = "tensorrt" if here and capabilities in {(), (here,)} and _has("tensorrt") else "rtx"
    if builder == "rtx" and not (capabilities or here):
        hint = "--sm rtx4090, --sm 89, several: --sm 89,120"
        raise UsageError("no target GPU", why="no GPU is installed here, so --sm must name one", hint=hint)
    version = str(bindings(builder).__version__)
    if settings.refit:
        _need_gpu("drop --refit, and build the engine again when the weights change")
    if builder == "rtx":
        return builder, version, _ahead(settings, capabilities or (here or 0,))
    if here is None:
        hint = "--builder rtx --sm 89 builds ahead of time without a GPU"
        raise MissingResource(
            "--builder tensorrt requires a GPU", why="it builds on the GPU that will run the engine", hint=hint
        )
    if capabilities not in {(), (here,)}:
        why = f"tensorrt builds only for the installed GPU, sm{here}"
        raise UsageError(
            f"can't build an engine for {sm_text(capabilities)}", why=why, hint="--builder rtx, or drop --sm"
        )
    if settings.timing_cache and not settings.timing_cache.absolute().parent.is_dir():
        why = f"the folder {settings.timing_cache.absolute().parent} does not exist"
        raise UsageError(f"--timing-cache {settings.timing_cache} can't be written", why=why)
    return builder, version, (here,)


def _ahead(settings: EngineSettings, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The target GPUs of TensorRT-RTX; UsageError if it doesn't support one."""
    if beyond := [one for one in chosen if one not in AHEAD]:
        why = f"{PACKAGES['rtx']} builds for {', '.join(map(str, AHEAD))}"
        hint = f"{install_command('gpu')} on a machine with that GPU, and --builder tensorrt"
        raise UsageError(f"can't build an engine for sm{beyond[0]}", why=why, hint=hint)
    if settings.timing_cache:
        why = "tensorrt-rtx measures no timings ahead of time"
        raise UsageError("--timing-cache only applies to --builder tensorrt", why=why, hint="drop --timing-cache")
    return chosen


def _need_gpu(hint: str) -> None:
    """Raise MissingResource without a GPU, which refittable engines need."""
    if capability() is None:
        why = "TensorRT compiles refittable engines on a GPU, and none is installed here"
        raise MissingResource("can't build a refittable engine", why=why, hint=hint)


def _has(builder: str) -> bool:
    try:
        bindings(builder)
    except MissingResource:
        return False
    return True


def _refitted(graphs: "Sequence[ComponentGraph]", settings: EngineSettings, old: Path) -> EngineBuild:
    """The build that refits the engine `old`; everything but its weights comes from its record."""
    record, again = check_file(old), "drop --refit-from to build a new engine"
    whole = [one for one in graphs if not one.kept]
    graph = next((one for one in whole if one.folder == old.absolute().parent.name), None)
    if graph is None:
        raise UsageError(
            f"{old} is not an engine of an exported component",
            why=f"its folder is not one of {', '.join(one.folder for one in graphs)}",
            hint="keep the engine in the folder of its component, or pass that --component",
        )
    if not record.refit:
        raise UsageError(f"{old} can't be refitted", why="it was built without --refit", hint=again)
    if settings.builder not in {"auto", record.builder}:
        raise UsageError(
            f"--builder {settings.builder} can't refit {old}", why=f"{record.builder} built it", hint=again
        )
    _need_gpu(again)
    version = str(bindings(record.builder).__version__)
    check_runs_here(record, version, capability())
    how = (record.weight_streaming, True, old, record.structure)
    return EngineBuild(graph, record.builder, version, record.capabilities, {}, *how)


def _sizes(model: Model, settings: EngineSettings) -> dict[str, dict[str, Span]]:
    """Range of each symbolic dimension, by component folder."""
    architecture = model.architecture
    patch, (step, own) = architecture.patch_size, native(model)
    low, high = settings.size or (max(step * patch, own // 2), 2 * own)
    if low % (step * patch) or high % (step * patch):
        raise UsageError(
            f"--size {low}..{high}: image sides must be multiples of {step * patch} pixels",
            hint=f"--size {own // 2}..{2 * own}",
        )
    sides = Span(low // step, min(max(own, low), high) // step, high // step)
    batch = Span(settings.batch[0], settings.batch[0], settings.batch[1])
    branches = 1 if architecture.guidance else 2  # classifier-free guidance doubles the batch
    both = Span(batch.least, min(batch.least * branches, batch.most * branches), batch.most * branches)
    parts = Span(sides.least // patch, sides.best // patch, sides.most // patch)
    text = Span(1, _LONGEST, _LONGEST)
    picture = {"batch": batch, "rows": sides, "columns": sides}
    return {
        "transformer": {"batch": both, "rows": parts, "columns": parts, "sequence_length": text},
        "text_encoder": {"batch": batch, "sequence_length": Span(1, _LONGEST, _LONGEST_TEXT)},
        "vae_decoder": picture,
        "vae_encoder": picture,
    }
