"""Settings of `sanac generate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance, ImageSize, Steps
from sanac.core.settings import Naming, Option, RunSettings
from sanac.judge.words import check_word

_SEARCH = "Search options"


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(RunSettings):
    """Generate each PROMPT with MODEL: a PNG each, with prompt, seed and settings inside, and a sheet of all.

    With --search, --n candidates of every prompt are generated and --verifier chooses the best one.
    The first image's noise is drawn from --seed (0 by default), the next one's from the seed after it. A file of the
    same prompt and seed by another model or with other settings is never replaced (exit 2): choose another --out.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'sanac generate sanac:tiny "two red circles"',
        'sanac generate MODEL "a red circle" "a blue square above a cross" --n 4 --out pictures',
        'sanac generate MODEL "a lighthouse at dusk" --seed 7 --size 1024x768',
        'sanac generate ./exported "a red circle" --backend onnx',
        'sanac generate sanac:tiny "a circle above a square" --search best-of --n 8 --verifier shapes',
    )

    prompts: Annotated[tuple[str, ...], Option("The prompts.", "PROMPT...", positional=True)]
    n: Annotated[int, Option("Images per prompt.", "N", ge=1, le=4096)] = 1
    steps: Steps = None
    guidance: Guidance = 4.5
    size: ImageSize = None
    batch: Annotated[int, Option("Images per batch.", "N", ge=1)] = 16
    tile: Annotated[int | None, Option("Decode in tiles of this side: less memory.", "PIXELS", ge=1)] = None
    backend: Annotated[
        Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"],
        Option("What computes: the weights, or what was exported.", "NAME"),
    ] = "torch"
    search: Annotated[
        Literal["single", "best-of"],
        Option("How images are found: one per noise, or the best of --n candidates.", "NAME", group=_SEARCH),
    ] = "single"
    verifier: Annotated[
        tuple[str, ...],
        Option(
            "What scores candidates: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL; several are ranked together.",
            "NAME,...",
            comma=True,
            check=check_word,
            group=_SEARCH,
        ),
    ] = ()
    max_forwards: Annotated[
        int | None,
        Option("Forward passes of the transformer to spend at most, both branches counted.", "N", ge=1, group=_SEARCH),
    ] = None
    max_seconds: Annotated[
        float | None, Option("Begin no further candidates after so many seconds.", "S", gt=0, group=_SEARCH)
    ] = None
    out: Annotated[Path, Option("Where the images go.", "DIR", recipe=False)] = Path("pictures")

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Prompts that say nothing."""
        if blank := [f"prompt {number}" for number, prompt in enumerate(self.prompts, 1) if not prompt.strip()]:
            yield "prompts", f"{', '.join(blank)} is empty: describe what the image should show"
        if self.search == "best-of" and not self.verifier:
            yield "verifier", f"{name('search')} best-of needs {name('verifier')}: shapes, clip:MODEL, vlm:MODEL"
        for idle in ("verifier", "max_forwards", "max_seconds") if self.search == "single" else ():
            if getattr(self, idle):
                yield idle, f"{name(idle)} requires {name('search')} best-of"
        yield from super().contradictions(name)
