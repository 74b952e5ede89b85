"""Settings of searches, and of `sanac generate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance, ImageSize, Order, Steps, Temperature
from sanac.core.settings import ADVANCED, ModelRef, Naming, Option, RunSettings
from sanac.judge.words import check_reader, check_word

SEARCH, PREVIEWS = "Search options", "Preview options"
SEARCHED = 8  # noises of a search where --n isn't typed
ABSOLUTE = ("gated", "two-stage", "reflection", "zero-order", "paths", "prm")  # compare scores of different rounds
LOOKING = ("halving", "gated", "paths", "prm")  # strategies that look at previews
USES = {  # option -> the strategies that use it
    "look": LOOKING,
    "keep": ("halving",),
    "clarity": ("gated",),
    "potential": ("gated",),
    "previews": LOOKING,
    "until": ("best-of", "reflection"),
    "draft_steps": ("two-stage",),
    "draft": ("two-stage",),
    "neighbours": ("zero-order",),
    "cosine": ("zero-order",),
    "back": ("reflection", "paths"),
}


SearchVerifiers = Annotated[
    tuple[str, ...],
    Option(
        "What scores candidates: shapes, or judge:, clip:, vlm: or atoms:MODEL; several are ranked together.",
        "NAME,...",
        comma=True,
        check=check_word,
        group=SEARCH,
    ),
]


@dataclass(frozen=True, kw_only=True)
class SearchSettings(RunSettings):
    """How images are found: by one noise each, or by a search over several."""

    TITLE: ClassVar[str] = SEARCH

    search: Annotated[
        Literal["single", "best-of", "halving", "gated", "two-stage", "reflection", "zero-order", "paths", "prm"],
        Option("How images are found: one per noise, or by a search over --n noises of each prompt.", "NAME"),
    ] = "single"
    max_forwards: Annotated[
        int | None,
        Option("Forward passes of the transformer to spend at most, both branches counted.", "N", ge=1),
    ] = None
    max_seconds: Annotated[float | None, Option("Begin no further candidates after so many seconds.", "S", gt=0)] = None
    until: Annotated[
        float | None,
        Option("Stop at the first candidate with this score.", "SCORE", "reflection: the verifier's verdict", gt=0),
    ] = None
    previews: Annotated[
        str | None,
        Option(
            "What reads previews: judge:MODEL, states:MODEL, or any verifier.",
            "NAME",
            "the verifier",
            check=check_reader,
            group=PREVIEWS,
        ),
    ] = None
    look: Annotated[
        tuple[int, ...],
        Option("Steps after which previews are read.", "STEP,...", "by strategy", comma=True, ge=1, group=PREVIEWS),
    ] = ()
    keep: Annotated[float, Option("Share that halving keeps at each look.", "SHARE", gt=0, le=1, group=PREVIEWS)] = 0.5
    clarity: Annotated[
        float, Option("Least clarity at which a gate judges a preview.", "P", ge=0, le=1, group=PREVIEWS)
    ] = 0.5
    potential: Annotated[
        float, Option("Potential below which a clear preview is dropped.", "P", ge=0, le=1, group=PREVIEWS)
    ] = 0.5
    draft_steps: Annotated[
        int | None, Option("Sampler steps of a draft.", "N", "half", ge=1, le=1000, group=ADVANCED)
    ] = None
    draft: Annotated[ModelRef | None, Option("A model that drafts.", "MODEL", "MODEL itself", group=ADVANCED)] = None
    neighbours: Annotated[int, Option("Neighbours of the best noise to try.", "N", ge=1, group=ADVANCED)] = 4
    cosine: Annotated[float, Option("Cosine of a neighbour to its noise.", "T", gt=-1, lt=1, group=ADVANCED)] = 0.95
    back: Annotated[
        float, Option("Share of the steps that a new start goes back.", "SHARE", gt=0, le=1, group=ADVANCED)
    ] = 0.5

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The words of what scores candidates."""
        return ()

    @property
    def readers(self) -> tuple[str, ...]:
        """The words of verifiers that read previews."""
        return (self.previews,) if self.previews and not self.previews.startswith("states:") else ()

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Options of another strategy, and ranks where scores are compared between rounds."""
        if len(self.verifiers) > 1 and (self.search in ABSOLUTE or self.until is not None):
            what = name("until") if self.until is not None else f"{name('search')} {self.search}"
            yield "search", f"{what} needs a single verifier: of several, only ranks within a round are known"
        for option in ("max_forwards", "max_seconds"):
            if self.search == "single" and getattr(self, option):
                yield option, f"{name(option)} requires {name('search')}"
        for option, strategies in USES.items():
            if option in self.typed and self.search not in strategies:
                yield option, f"{name(option)} requires {name('search')} {' or '.join(strategies)}"
        if list(self.look) != sorted(set(self.look)):
            yield "look", f"{name('look')} is not in ascending order"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(SearchSettings):
    """Generate each PROMPT with MODEL: a PNG each, with prompt, seed and settings inside, and a sheet of all.

    With --search, --n noises of every prompt are searched, and --verifier chooses the best image.
    The first image's noise is drawn from --seed (0 by default), the next one's from the seed after it. A file of the
    same prompt and seed by another model or with other settings is never replaced (exit 2): choose another --out.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'sanac generate sanac:tiny "two red circles"',
        'sanac generate MODEL "a red circle" "a blue square above a cross" --n 4 --out pictures',
        'sanac generate MODEL "a lighthouse at dusk" --seed 7 --size 1024x768',
        'sanac generate ./exported "a red circle" --backend onnx',
        'sanac generate sanac:tiny "a circle above a square" --search halving --n 8 --verifier judge:sanac:tiny',
    )

    prompts: Annotated[tuple[str, ...], Option("The prompts.", "PROMPT...", positional=True)]
    n: Annotated[int, Option("Images, or noises to search, per prompt.", "N", "1; 8 with --search", ge=1, le=4096)] = 1
    steps: Steps = None
    guidance: Guidance = 4.5
    order: Order = "confidence"
    temperature: Temperature = 1.0
    size: ImageSize = None
    batch: Annotated[int | None, Option("Images per batch.", "N", "as many as fit, at most 16", ge=1)] = None
    tile: Annotated[int | None, Option("Decode in tiles of this side: less memory.", "PIXELS", ge=1)] = None
    backend: Annotated[
        Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"],
        Option("What computes: the weights, or what was exported.", "NAME"),
    ] = "torch"
    verifier: SearchVerifiers = ()
    out: Annotated[Path, Option("Where the images go.", "DIR", recipe=False)] = Path("pictures")

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The words of what scores candidates."""
        return self.verifier

    @property
    def candidates(self) -> int:
        """Noises per prompt."""
        return self.n if "n" in self.typed or self.n != 1 else SEARCHED

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Prompts that say nothing, a search without a verifier, and a verifier without a search."""
        if blank := [f"prompt {number}" for number, prompt in enumerate(self.prompts, 1) if not prompt.strip()]:
            yield "prompts", f"{', '.join(blank)} is empty: describe what the image should show"
        if self.search != "single" and not self.verifier:
            needs = f"{name('search')} {self.search} needs {name('verifier')}"
            yield "verifier", f"{needs}: shapes, judge:MODEL, clip:MODEL, vlm:MODEL"
        if self.search == "single" and self.verifier:
            yield "verifier", f"{name('verifier')} requires {name('search')}"
        yield from super().contradictions(name)
