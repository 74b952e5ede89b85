"""Settings of `sanac export`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from sanac.core.artifact.engine_record import parse_capabilities, parse_span
from sanac.core.errors import UsageError
from sanac.core.settings import ADVANCED, DeviceSettings, Naming, Option
from sanac.core.write.settings import WriteSettings

_ENGINE = ("builder", "sm", "batch", "size", "weight_streaming", "refit", "refit_from", "timing_cache")
_BUILD_ONLY = ("sm", "batch", "size", "weight_streaming", "timing_cache")  # fixed once an engine is built
_COPY_ONLY = ("out", "lora", "link", "fresh", "full_hash", "transformer_only")


def _check_span(text: str) -> None:
    try:
        parse_span(text, "span")
    except UsageError:
        raise UsageError(f"is {text!r}, not a range such as 1..4") from None


def _check_card(text: str) -> None:
    try:
        parse_capabilities([text])
    except UsageError as error:
        raise UsageError(f"is {text!r}: unknown GPU; {error.hint}") from None


@dataclass(frozen=True, kw_only=True)
class EngineBuildSettings(WriteSettings):
    """How TensorRT engines are built."""

    TITLE: ClassVar[str] = "TensorRT options"

    trt: Annotated[bool, Option("Build TensorRT engines from the graphs, too.")] = False
    builder: Annotated[
        Literal["auto", "tensorrt", "rtx"] | None,
        Option("tensorrt builds for the GPU of this machine, rtx ahead of time.", "NAME", "auto"),
    ] = None
    sm: Annotated[
        tuple[str, ...],
        Option("Target GPUs of engines built ahead of time: 89, rtx4090, ...", "GPU", comma=True, check=_check_card),
    ] = ()
    batch: Annotated[str | None, Option("Batch sizes of the engines.", "A..B", "1..4", check=_check_span)] = None
    size: Annotated[
        str | None,
        Option(
            "Image sides of the engines, in pixels.",
            "A..B",
            "from half the model's native size to twice it",
            check=_check_span,
        ),
    ] = None
    weight_streaming: Annotated[bool, Option("Engines whose weights may stay in host memory.", group=ADVANCED)] = False
    refit: Annotated[bool, Option("Engines whose weights can be replaced later.", group=ADVANCED)] = False
    refit_from: Annotated[
        Path | None,
        Option("Replace the weights of this engine instead of building one.", "ENGINE", recipe=False, group=ADVANCED),
    ] = None
    timing_cache: Annotated[
        Path | None,
        Option("Timings of earlier builds, read and written.", "FILE", affects_result=False, group=ADVANCED),
    ] = None

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of engines where none are built, or where one is refitted."""
        if not self.trt:
            for idle in _ENGINE:
                if getattr(self, idle):
                    yield idle, f"{name(idle)} requires {name('trt')}"
        elif self.refit_from:
            for idle in _BUILD_ONLY:
                if getattr(self, idle):
                    yield idle, f"{name(idle)} is fixed in the engine of {name('refit_from')}: leave it out"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class ExportSettings(EngineBuildSettings, DeviceSettings):
    """Write MODEL with ONNX graphs beside its weights, for any batch, size and caption length; with --trt, engines.

    Graphs refer to the weights where they are: nothing is stored twice but the autoencoder, of which clients want the
    halves in folders of their own. With --in-place no copy of the model is written: an artifact gets graphs beside its
    weights. Afterwards the graphs are compared with MODEL: exit 5 if they don't compute the same function. Without
    MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac export",
        "sanac export MODEL --precision fp32 --out exported",
        "sanac export ./pruned --in-place",
        "sanac export ./pruned --trt --sm rtx4090 --batch 1..4 --size 512..2048",
        "sanac export MODEL --component transformer --precision fp16 --depthwise fp32",
        "sanac export MODEL --transformer-only --no-verify --dry-run",
    )

    onnx: Annotated[bool, Option("ONNX graphs; always written.")] = False
    component: Annotated[
        tuple[Literal["transformer", "text-encoder", "vae", "all"], ...],
        Option("The component to export. May be repeated.", "NAME", "all"),
    ] = ()
    precision: Annotated[
        Literal["bf16", "fp16", "fp32"] | None, Option("Precision to compute in.", "DTYPE", "as stored")
    ] = None
    depthwise: Annotated[
        Literal["fp16", "fp32"] | None, Option("Another precision for depthwise convolutions.", "DTYPE")
    ] = None
    depths: Annotated[
        int,
        Option(
            "Depths of MODEL's schedule that get a graph of their own, at most; other steps run the next deeper one.",
            "N",
            ge=1,
            le=16,
        ),
    ] = 3
    in_place: Annotated[
        bool, Option("Add the graphs to MODEL itself, an artifact: no weights are copied.", recipe=False)
    ] = False
    no_verify: Annotated[bool, Option("Don't compare the graphs with the model.")] = False

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of a copy where none is written."""
        if self.in_place:
            for idle in _COPY_ONLY:
                if getattr(self, idle):
                    yield idle, f"{name(idle)} applies to a copy of the model, and {name('in_place')} makes none"
        yield from super().contradictions(name)

    def selected(self) -> tuple[str, ...]:
        """The components to export; empty for all that the model has."""
        return () if "all" in self.component else self.component

    def engine_values(self) -> dict[str, Any]:
        """Parsed values of the engine settings."""
        return {
            "builder": self.builder or "auto",
            "capabilities": parse_capabilities(self.sm),
            "batch": parse_span(self.batch or "1..4", "batch"),
            "size": parse_span(self.size, "size") if self.size else None,
            "weight_streaming": self.weight_streaming,
            "refit": self.refit,
            "refit_from": self.refit_from,
            "timing_cache": self.timing_cache,
        }
