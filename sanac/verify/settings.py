"""Settings of `sanac verify`, `evaluate`, `bench` and `gate`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance, ImageSize, Steps
from sanac.core.settings import ADVANCED, DeviceSettings, ModelRef, Naming, Option, RunSettings, Settings
from sanac.judge.words import check_word

_SHAPES, _PROMPTS = "Options of --suite shapes", "Options of --suite prompts"
_SUITES_OF = {  # options that not every suite has, with those that have it
    "images": ("shapes",),
    "prompts_split": ("shapes",),
    "prompts": ("prompts",),
    "each": ("prompts",),
    "against": ("prompts",),
    "verifier": ("prompts",),
}
_SCORES, _OUTPUT = "Score options", "Output options"  # groups in help
_RANKS = ("verifier", "rank_prompts", "noises", "candidate_steps", "min_kendall")


@dataclass(frozen=True, kw_only=True)
class RankCorrelationSettings(RunSettings):
    """Whether two models rank the same noises alike."""

    TITLE: ClassVar[str] = "Rank correlation options"

    rank_correlation: Annotated[bool, Option("Compare how both models rank the same noises.")] = False
    verifier: Annotated[Literal["shapes"] | None, Option("The verifier that grades the images.", "NAME", "shapes")] = (
        None
    )
    rank_prompts: Annotated[int | None, Option("Prompts to rank noises for.", "N", "24", ge=6)] = None
    noises: Annotated[int | None, Option("Noises per prompt.", "N", "16", ge=2, le=256)] = None
    candidate_steps: Annotated[int | None, Option("Sampler steps of CANDIDATE.", "N", "--steps", ge=1, le=1000)] = None
    min_kendall: Annotated[
        float | None,
        Option(
            "Exit 5 if the lower bound of Kendall's tau is less.",
            "TAU",
            ge=-1,
            le=1,
            aliases=("least_kendall",),
            stored="least_kendall",
        ),
    ] = None

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of a rank correlation where none is asked for."""
        for idle in _RANKS:
            if not self.rank_correlation and getattr(self, idle) is not None:
                yield idle, f"{name(idle)} only applies with {name('rank_correlation')}"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class VerifySettings(RankCorrelationSettings):
    """Give CANDIDATE and REFERENCE the same inputs and compare their outputs, block by block; then their images.

    Inputs are random ones of several sizes, and edge cases: nothing but zeros, huge numbers, no caption, first and last
    step. Exit 5 when a value is beyond its limit.

    With --rank-correlation another question: do both rank the same noises alike, as a verifier grades their images?
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac verify ./exported --against sanac:tiny",
        "sanac verify ./exported --against sanac:tiny --limit 1e-3 --pictures 0",
        "sanac verify ./converted --against model.pth --backend torch --json",
        "sanac verify ./exported --against sanac:tiny --backend trt",
        "sanac verify ./pruned --against sanac:tiny --rank-correlation --noises 16",
    )

    against: Annotated[
        ModelRef,
        Option("The reference model; in a recipe also `self` and `source`.", "REFERENCE", recipe_default="self"),
    ]
    backend: Annotated[
        Literal["torch", "onnx", "trt"] | None, Option("What runs CANDIDATE.", "NAME", "onnx where graphs are")
    ] = None
    limit: Annotated[float | None, Option("Largest relative error.", "ERROR", "by precision", gt=0)] = None
    pictures: Annotated[
        int, Option("Images to generate with both; left out where memory is short, unless set.", "N", ge=0, le=64)
    ] = 4
    steps: Annotated[int, Option("Sampler steps.", "N", ge=1, le=1000)] = 12


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(RunSettings):
    """Generate the suite's prompts with MODEL and judge every image; means with intervals by prompt.

    shapes: prompts of the shapes world, scores per task. Test prompts and combinations marked held-out were never seen
    in training. The same images are compared with rendered scenes as a set: a distance that sees collapse, which a
    score per image does not.

    prompts: your own, in --prompts FILE. The images are compared with those that --against generates from the same
    noises, and scored by --verifier. Images and scores are kept, so a stopped run goes on.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac evaluate sanac:tiny --suite shapes --images 240",
        "sanac evaluate ./sanac-out/prune-1a2b3c4d --suite shapes --json",
        "sanac evaluate ./exported --suite shapes --backend onnx",
        "sanac evaluate ./recovered --suite prompts --prompts mine.txt --against MODEL --verifier clip:CLIP",
    )

    suite: Annotated[
        Literal["shapes", "prompts"],
        Option("shapes: the world that sanac:tiny was trained on; prompts: your own.", "NAME"),
    ]
    images: Annotated[
        int, Option("Images to generate and judge; two per task at least.", "N", ge=12, group=_SHAPES)
    ] = 2048
    steps: Steps = None
    guidance: Guidance = 4.5
    batch: Annotated[int, Option("Images per batch.", "N", "32; prompts: fewer of large images", ge=1)] = 32
    backend: Annotated[
        Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"],
        Option("What computes: the weights, or what was exported.", "NAME"),
    ] = "torch"
    prompts_split: Annotated[
        Literal["test", "tune"],
        Option("The prompts: choose settings on tune, report test.", "NAME", group=_SHAPES),
    ] = "test"
    prompts: Annotated[Path | None, Option("A text file with a prompt per line.", "FILE", group=_PROMPTS)] = None
    each: Annotated[int | None, Option("Images per prompt.", "N", "1", ge=1, le=1024, group=_PROMPTS)] = None
    against: Annotated[
        ModelRef | None,
        Option(
            "The reference model, computed with its weights; in a recipe also `self` and `source`.",
            "REFERENCE",
            group=_PROMPTS,
        ),
    ] = None
    verifier: Annotated[
        tuple[str, ...],
        Option(
            "What scores the images: shapes, clip:MODEL, vlm:MODEL, atoms:MODEL; each on its own.",
            "NAME,...",
            comma=True,
            check=check_word,
            group=_PROMPTS,
        ),
    ] = ()
    out: Annotated[
        Path | None,
        Option(
            "Where the measurement goes.",
            "DIR",
            "the artifact; sanac-out/evaluate-NAME for other models",
            recipe=False,
        ),
    ] = None

    @property
    def measurement(self) -> str:
        """The name of the measurement that is written."""
        return f"evaluate-{self.suite}" + (f"-{self.backend}" if self.backend != "torch" else "")

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Options of another suite, and what a suite can't do without."""
        for idle, suites in _SUITES_OF.items():
            given = idle in self.typed or getattr(self, idle) != getattr(EvaluateSettings, idle)
            if given and self.suite not in suites:
                yield idle, f"{name(idle)} only applies with {name('suite')} {' or '.join(suites)}"
        if self.suite == "prompts" and self.prompts is None:
            yield "prompts", f"{name('suite')} prompts needs {name('prompts')}, a file with a prompt per line"
        if self.suite == "prompts" and self.against is None and not self.verifier:
            yield (
                "against",
                f"{name('suite')} prompts needs {name('against')}, a model to compare with, or {name('verifier')}",
            )
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class BenchSettings(DeviceSettings):
    """Time every MODEL with every backend, in turns, each in a process of its own; ratios are to the first.

    Images are generated by the whole pipeline, and its parts timed as it calls them; a transformer without the rest of
    its pipeline is timed by the step. The figures go into measurements/bench.json of each MODEL that is an artifact. A
    warning says when they can't be trusted: other load, rounds far apart, or a drift.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac bench sanac:tiny ./sanac-out/prune-1a2b3c4d",
        "sanac bench ./exported --backend torch,compile,onnx --batch 1,4",
        "sanac bench ./exported --backend torch,trt --size 1024 --rounds 10 --json",
    )

    backend: Annotated[
        tuple[Literal["torch", "compile", "onnx", "onnx-trt", "onnx-rtx", "trt"], ...],
        Option("Backends to time.", "NAME,...", "torch, and onnx where graphs are", comma=True),
    ] = ()
    batch: Annotated[tuple[int, ...], Option("Batch sizes.", "N,...", comma=True, ge=1, le=9999)] = (1,)
    rounds: Annotated[int, Option("Rounds; every model takes one turn in each.", "N", ge=1, le=1000)] = 5
    steps: Steps = None
    guidance: Guidance = 4.5
    size: ImageSize = None
    tile: Annotated[int | None, Option("Decode in tiles of this side.", "PIXELS", ge=1, group=ADVANCED)] = None
    threads: Annotated[int | None, Option("Processor threads.", "N", "all", ge=1, group=ADVANCED)] = None
    out: Annotated[Path | None, Option("Write the measurement here, too.", "DIR", recipe=False)] = None


@dataclass(frozen=True, kw_only=True)
class CompareSettings(RunSettings):
    """Generate the same prompts with every MODEL from the same noises, and show them side by side.

    Writes a sheet with a row per prompt and a column per model, each picture, and compare.json: sizes, time per
    picture, PSNR and SSIM to the first model's pictures, and what differs from it: blocks, precision, steps of the
    lineage. Models with the vocabulary of the shapes world are scored, too, with the paired difference to the first.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac compare sanac:tiny ./sanac-out/prune-1a2b3c4d",
        'sanac compare A B C --prompt "a lighthouse at dusk" --prompt "two cats" --seed 7',
        "sanac compare A B --prompts prompts.txt --num-prompts 8 --images 0 --out side-by-side",
    )

    prompt: Annotated[tuple[str, ...], Option("A prompt to generate. May be repeated.", "TEXT", recipe=False)] = ()
    prompts: Annotated[
        Path | None,
        Option(
            "A text file with a prompt per line.", "FILE", "prompts of the shapes world, or bundled ones", recipe=False
        ),
    ] = None
    num_prompts: Annotated[
        int | None,
        Option(
            "How many of the file's or the default prompts.", "N", "4, or the whole file", ge=1, le=64, recipe=False
        ),
    ] = None
    images: Annotated[
        int | None,
        Option(
            "Images to score with the shapes suite, 12 or more; 0: no score.",
            "N",
            "64 where every model has its vocabulary, else 0",
            ge=0,
            recipe=False,
            group=_SCORES,
        ),
    ] = None
    prompts_split: Annotated[
        Literal["test", "tune"], Option("The suite's prompts, as in evaluate.", "NAME", recipe=False, group=_SCORES)
    ] = "test"
    steps: Annotated[
        int | None,
        Option("Sampler steps.", "N", "the schedule's, else 20, SANA-Sprint's 2", ge=1, le=1000, recipe=False),
    ] = None
    guidance: Annotated[float, Option("Guidance scale.", "SCALE", ge=0, le=100, recipe=False)] = 4.5
    batch: Annotated[int, Option("Images per batch of the suite.", "N", ge=1, recipe=False, group=_SCORES)] = 16
    out: Annotated[
        Path | None,
        Option("Where sheet, pictures and figures go.", "DIR", "WORKSPACE/compare-KEY", recipe=False, group=_OUTPUT),
    ] = None
    workspace: Annotated[Path, Option("Where comparisons go without --out.", "DIR", recipe=False, group=_OUTPUT)] = (
        Path("sanac-out")
    )
    force: Annotated[
        bool, Option("Compare again, and replace another comparison that is in DIR.", recipe=False, group=_OUTPUT)
    ] = False

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Two sources of prompts, empty prompts, and a suite of too few images."""
        if self.prompt and self.prompts is not None:
            yield "prompts", f"{name('prompt')} and {name('prompts')} contradict each other: give one of them"
        if self.prompt and self.num_prompts is not None:
            yield "num_prompts", f"{name('num_prompts')} only applies without {name('prompt')}"
        if any(not text.strip() for text in self.prompt):
            yield "prompt", f"{name('prompt')} is empty: say what the image is to show"
        if self.images is not None and 0 < self.images < 12:
            yield "images", f"{name('images')} is {self.images}: 12 or more (two per task), or 0 for no score"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """Hold the measurements of the artifact DIR to the limits in FILE. Exit 5 if one isn't kept.

    A metric that was not measured fails. On GitHub Actions, failures are annotated and the step's summary shows all;
    everything is written, whichever way the verdict goes.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac gate ./recovered --gates gates.toml",
        "sanac gate ./recovered --gates gates.toml --baseline sanac-out/evaluate-sanac-tiny --junit gates.xml",
    )

    gates: Annotated[Path, Option("TOML file with [[gate]] tables.", "FILE", recipe=False)]
    baseline: Annotated[
        tuple[ModelRef, ...],
        Option(
            "What ratios are relative to: a model, or a folder with its measurements. May be repeated.",
            "MODEL",
            recipe=False,
        ),
    ] = ()
    junit: Annotated[Path | None, Option("Write a JUnit file, too.", "FILE", recipe=False)] = None


def measurement_of(settings: Settings, *, graphs: bool) -> str:
    """The name of the measurement that verify or evaluate writes; `graphs`: whether the model has ONNX graphs."""
    if isinstance(settings, EvaluateSettings):
        return settings.measurement
    assert isinstance(settings, VerifySettings)
    backend = settings.backend or ("onnx" if graphs else "torch")
    return "verify-ranks" if settings.rank_correlation else f"verify-{backend}"
