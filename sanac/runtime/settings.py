"""Settings of `sanac generate` and `sanac doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.settings import Naming, Option, RunSettings, Settings
from sanac.core.units import parse_size


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(RunSettings):
    """Generate each PROMPT with MODEL: a PNG each, with prompt, seed and settings inside, and a sheet of all.

    The first image's noise is drawn from --seed (0 by default), the next one's from the seed after it. A file of the
    same prompt and seed by another model or with other settings is never replaced (exit 2): choose another --out.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'sanac generate sanac:tiny "two red circles"',
        'sanac generate MODEL "a red circle" "a blue square above a cross" --n 4 --out pictures',
        'sanac generate MODEL "a lighthouse at dusk" --seed 7 --size 1024x768',
        'sanac generate ./exported "a red circle" --backend onnx',
    )

    prompts: Annotated[tuple[str, ...], Option("The prompts.", "PROMPT...", positional=True)]
    n: Annotated[int, Option("Images per prompt.", "N", ge=1, le=4096)] = 1
    steps: Annotated[
        int | None, Option("Sampler steps.", "N", "the schedule's, else 20, SANA-Sprint's 2", ge=1, le=1000)
    ] = None
    guidance: Annotated[float, Option("Guidance scale.", "SCALE", ge=0, le=100)] = 4.5
    size: Annotated[
        str | None, Option("Width and height in pixels.", "WxH", "the model's native size", check=parse_size)
    ] = None
    batch: Annotated[int, Option("Images per batch.", "N", ge=1)] = 16
    tile: Annotated[int | None, Option("Decode in tiles of this side: less memory.", "PIXELS", ge=1)] = None
    backend: Annotated[
        Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"],
        Option("What computes: the weights, or what was exported.", "NAME"),
    ] = "torch"
    out: Annotated[Path, Option("Where the images go.", "DIR", recipe=False)] = Path("pictures")

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Prompts that say nothing."""
        if blank := [f"prompt {number}" for number, prompt in enumerate(self.prompts, 1) if not prompt.strip()]:
            yield "prompts", f"{', '.join(blank)} is empty: describe what the image should show"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class DoctorSettings(Settings):
    """Look at Python, torch, GPU and driver, backends, memory, disk, cache and versions.

    Exits 4 when something that sanac always needs is broken; a missing extra is only reported.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("sanac doctor", "sanac doctor --json > doctor.json")

    workspace: Annotated[Path, Option("The workspace whose disk is looked at.", "DIR", recipe=False)] = Path(
        "sanac-out"
    )
