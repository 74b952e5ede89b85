"""Engines of graphs: which builder makes them, for which GPUs and shapes; each built by a process of its own."""

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
from sanac.nn.device import capability
from sanac.nn.onnx_files import GRAPH
from sanac.nn.pipeline_config import native

if TYPE_CHECKING:
    from sanac.export.component_graph import ComponentGraph

_SCHEMA = 1  # raised when the same settings would give another engine
_LONGEST, _LONGEST_TEXT = 300, 1024  # tokens that pipelines give the transformer, and with instructions the encoder
_ITEM = {"fp32": 4, "fp16": 2, "bf16": 2}
_COPIES, _BUILDER = 2.0, 700_000_000  # anonymous memory that TensorRT takes: times the weights, and besides
_RUNTIME = 16_000_000  # bytes of an engine besides its weights


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What the user said of engines."""

    builder: str = "auto"
    capabilities: tuple[int, ...] = ()
    batch: tuple[int, int] = (1, 4)
    size: tuple[int, int] | None = (
        None  # of a picture's sides, in pixels; None: from half the model's own to its double
    )
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class EngineBuild:
    """One engine: of which graph, by whom, for what."""

    component: "ComponentGraph"
    builder: str
    version: str
    capabilities: tuple[int, ...]
    sizes: Mapping[str, Span] = field(hash=False)
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    structure: str | None = None  # of the graph that this engine was built of
    timing_cache: Path | None = None

    @property
    def stem(self) -> str:
        """Of its files: transformer/model.int8.rtx-1.7.1.116.sm89."""
        scheme = self.component.scheme or self.component.precision
        return f"{self.component.folder}/model.{scheme}.{self.builder}-{self.version}.{sm_text(self.capabilities)}"

    @property
    def graph_file(self) -> str:
        """The graph's file."""
        return f"{self.component.folder}/{GRAPH}"

    @property
    def files(self) -> tuple[str, ...]:
        """What is written for it."""
        return (self.stem + ENGINE, self.stem + RECORD, self.stem + LOG)

    @property
    def weights(self) -> int:
        """Bytes that its weights take, at most: those of few bits may be restored in it."""
        return self.component.parameters * _ITEM[self.component.precision]

    @property
    def memory(self) -> int:
        """That building it takes, about."""
        return int(_COPIES * self.weights) + _BUILDER

    @property
    def disk(self) -> int:
        """That it takes, about."""
        return self.weights + _RUNTIME

    @property
    def built_with(self) -> str:
        """For people."""
        return f"{PACKAGES[self.builder]} {self.version} for {sm_text(self.capabilities)}"

    def to_json(self) -> dict[str, Any]:
        """What its content hangs on, besides the graph."""
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
        """By which it is known that it stands already."""
        return json_files.key_of(["engine", self.to_json(), graph])

    def task(self, folder: Path, out: Path) -> dict[str, Any]:
        """For the process that builds it."""
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
    """An engine for each graph; everything that speaks against one is said before any is built."""
    if settings.refit_from:
        return [_refitted(graphs, settings, settings.refit_from)]
    builder, version, capabilities = _choose(settings)
    sizes = _sizes(model, settings)
    found = []
    for graph in graphs:
        refuse_impossible(graph.forms, builder, capabilities, f"the {graph.folder}'s graph")
        how = (settings.weight_streaming, settings.refit, None, None, settings.timing_cache)
        found.append(EngineBuild(graph, builder, version, capabilities, sizes[graph.folder], *how))
    return found


def _choose(settings: EngineSettings) -> tuple[str, str, tuple[int, ...]]:
    """Builder, its version, and the GPUs; never another builder than the one asked for."""
    here, capabilities, builder = capability(), settings.capabilities, settings.builder
    if builder == "auto":
        builder = "tensorrt" if here and capabilities in {(), (here,)} and _has("tensorrt") else "rtx"
    if builder == "rtx" and not (capabilities or here):
        hint = "--sm rtx4090, --sm 89, several: --sm 89,120"
        raise UsageError("engines for which GPU?", why="none is here, so it has to be said", hint=hint)
    version = str(bindings(builder).__version__)
    if settings.refit:
        _need_gpu("leave --refit out, and build anew when the weights change")
    if builder == "rtx":
        return builder, version, _ahead(settings, capabilities or (here or 0,))
    if here is None:
        hint = "--builder rtx --sm 89 builds ahead of time"
        raise MissingResource("tensorrt builds on the GPU that will run the engine, and none is here", hint=hint)
    if capabilities not in {(), (here,)}:
        why = f"tensorrt builds for the GPU that is here, sm{here}"
        raise UsageError(f"no engine for {sm_text(capabilities)}", why=why, hint="--builder rtx, or leave --sm out")
    if settings.timing_cache and not settings.timing_cache.absolute().parent.is_dir():
        why = f"there is no folder {settings.timing_cache.absolute().parent}"
        raise UsageError(f"--timing-cache {settings.timing_cache} can't be written", why=why)
    return builder, version, (here,)


def _ahead(settings: EngineSettings, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The GPUs that TensorRT-RTX is to build for; Misuse for what it can't."""
    if beyond := [one for one in chosen if one not in AHEAD]:
        why = f"{PACKAGES['rtx']} builds for {', '.join(map(str, AHEAD))}"
        hint = "pip install 'sanac[gpu]' on a machine with that GPU, and --builder tensorrt"
        raise UsageError(f"no engine for sm{beyond[0]}", why=why, hint=hint)
    if settings.timing_cache:
        why = "tensorrt-rtx times nothing ahead of time"
        raise UsageError("--timing-cache is for --builder tensorrt", why=why, hint="leave it out")
    return chosen


def _need_gpu(hint: str) -> None:
    """Of engines that take other weights."""
    if capability() is None:
        why = "TensorRT compiles those on a GPU, and none is here"
        raise MissingResource("no engine that takes other weights can be made", why=why, hint=hint)


def _has(builder: str) -> bool:
    try:
        bindings(builder)
    except MissingResource:
        return False
    return True


def _refitted(graphs: "Sequence[ComponentGraph]", settings: EngineSettings, old: Path) -> EngineBuild:
    """The engine that gets new weights: all else is as its record says."""
    record, again = check_file(old), "leave --refit-from out to build one"
    graph = next((one for one in graphs if one.folder == old.absolute().parent.name), None)
    if graph is None:
        raise UsageError(f"{old} is no engine of what is exported", hint="it lies in the folder of its component")
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
    """What the symbols of each component's graph may be."""
    architecture = model.architecture
    patch, (step, own) = architecture.patch_size, native(model)
    low, high = settings.size or (max(step * patch, own // 2), 2 * own)
    if low % (step * patch) or high % (step * patch):
        raise UsageError(f"pictures have sides in steps of {step * patch} pixels", hint=f"--size {own // 2}..{2 * own}")
    sides = Span(low // step, min(max(own, low), high) // step, high // step)
    batch = Span(settings.batch[0], settings.batch[0], settings.batch[1])
    branches = 1 if architecture.guidance else 2  # with guidance, a pipeline asks for each picture twice at once
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
