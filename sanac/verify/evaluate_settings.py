"""Settings of `sanac evaluate`, and the names of measurements."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance, Order, Steps, Temperature
from sanac.core.settings import ModelRef, Naming, Option, Settings, settings_of
from sanac.judge.words import check_word
from sanac.search.settings import SEARCH, SearchSettings, SearchVerifiers
from sanac.verify.settings import VerifySettings

_FILE, _SHAPES = "Options of --suite geneval and prompts", "Options of --suite shapes"
_GENEVAL, _PROMPTS = "Options of --suite geneval", "Options of --suite prompts"
_SUITES_OF = {  # options that not every suite has, with those that have it
    "images": ("shapes",),
    "prompts_split": ("shapes",),
    "prompts": ("geneval", "prompts"),
    "each": ("geneval", "prompts"),
    "detector": ("geneval",),
    "color_model": ("geneval",),
    "against": ("prompts",),
    "verifier": ("prompts",),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SearchSettings):
    """Generate the suite's prompts with MODEL and judge every image; means with intervals by prompt.

    shapes: prompts of the shapes world, scores per task. Test prompts and combinations marked held-out were never seen
    in training. The same images are compared with rendered scenes as a set: a distance that sees collapse, which a
    score per image does not.

    geneval: GenEval's prompts and rules, with a detector of transformers. MODEL may also be a folder of images in
    GenEval's layout, which are judged without generating.

    prompts: your own, in --prompts FILE. The images are compared with those that --against generates from the same
    noises, and scored by --verifier. Of geneval and prompts, images and scores are kept: a stopped run goes on.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac evaluate sanac:tiny --suite shapes --images 240",
        "sanac evaluate ./sanac-out/prune-1a2b3c4d --suite shapes --json",
        "sanac evaluate ./exported --suite shapes --backend onnx",
        "sanac evaluate ./pruned --suite shapes --search halving --search-verifier judge:sanac:tiny",
        "sanac evaluate MODEL --suite geneval --prompts evaluation_metadata.jsonl",
        "sanac evaluate ./images --suite geneval",
        "sanac evaluate ./recovered --suite prompts --prompts mine.txt --against MODEL --verifier clip:CLIP",
    )

    suite: Annotated[
        Literal["shapes", "geneval", "prompts"],
        Option(
            "shapes: the world that sanac:tiny was trained on; geneval: photographs of everyday objects; "
            "prompts: your own.",
            "NAME",
        ),
    ]
    images: Annotated[
        int, Option("Images to generate and judge; two per task at least.", "N", ge=12, group=_SHAPES)
    ] = 2048
    steps: Steps = None
    guidance: Guidance = 4.5
    order: Order = "confidence"
    temperature: Temperature = 1.0
    batch: Annotated[int, Option("Images per batch.", "N", "32; prompts: fewer of large images", ge=1)] = 32
    backend: Annotated[
        Literal["torch", "onnx", "onnx-trt", "onnx-rtx", "trt"],
        Option("What computes: the weights, or what was exported.", "NAME"),
    ] = "torch"
    prompts_split: Annotated[
        Literal["test", "tune"],
        Option("The prompts: choose settings on tune, report test.", "NAME", group=_SHAPES),
    ] = "test"
    prompts: Annotated[
        Path | None,
        Option("geneval: evaluation_metadata.jsonl; prompts: a text file with a prompt per line.", "FILE", group=_FILE),
    ] = None
    each: Annotated[
        int | None,
        Option("Images per prompt.", "N", "geneval: 4, or all of a folder's; prompts: 1", ge=1, le=1000, group=_FILE),
    ] = None
    detector: Annotated[str, Option("A Mask2Former for instances: a folder or a hub id.", "MODEL", group=_GENEVAL)] = (
        "facebook/mask2former-swin-small-coco-instance"
    )
    color_model: Annotated[
        str, Option("A CLIP model that names colours: a folder or a hub id.", "MODEL", group=_GENEVAL)
    ] = "openai/clip-vit-large-patch14"
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
            "What scores the images: shapes, or judge:, clip:, vlm: or atoms:MODEL; each on its own.",
            "NAME,...",
            comma=True,
            check=check_word,
            group=_PROMPTS,
        ),
    ] = ()
    n: Annotated[int, Option("Noises to search per image.", "N", ge=1, le=4096, group=SEARCH)] = 8
    search_verifier: SearchVerifiers = ()
    out: Annotated[
        Path | None,
        Option(
            "Where the measurement goes, and geneval's images.",
            "DIR",
            "the artifact, geneval's images beside it; sanac-out/evaluate-NAME for other models",
            recipe=False,
        ),
    ] = None

    @property
    def verifiers(self) -> tuple[str, ...]:
        """The words of what scores candidates."""
        return self.search_verifier

    @property
    def measurement(self) -> str:
        """The name of the measurement that is written; of a search with its noises: evaluate-shapes-best-of-4."""
        suite = {"geneval": "geneval-hf"}.get(self.suite, self.suite)
        marks: list[str] = [self.backend] if self.backend != "torch" else []
        marks += [self.search, str(self.n)] if self.search != "single" else []
        return "-".join(["evaluate", suite, *marks])

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Options of another suite, and what a suite can't do without."""
        known = settings_of(type(self))
        for idle, suites in _SUITES_OF.items():
            given = idle in self.typed or getattr(self, idle) != known[idle].default
            if given and self.suite not in suites:
                yield idle, f"{name(idle)} only applies with {name('suite')} {' or '.join(suites)}"
        if self.search != "single" and not self.search_verifier:
            yield "search_verifier", f"{name('search')} {self.search} needs {name('search_verifier')}"
        for idle in ("n", "search_verifier") if self.search == "single" else ():
            if idle in self.typed:
                yield idle, f"{name(idle)} requires {name('search')}"
        if self.suite == "prompts" and self.prompts is None:
            yield "prompts", f"{name('suite')} prompts needs {name('prompts')}, a file with a prompt per line"
        if self.suite == "prompts" and self.against is None and not self.verifier:
            needed = f"{name('against')}, a model to compare with, or {name('verifier')}"
            yield "against", f"{name('suite')} prompts needs {needed}"
        yield from super().contradictions(name)


def measurement_of(settings: Settings, *, graphs: bool) -> str:
    """The name of the measurement that verify or evaluate writes; `graphs`: whether the model has ONNX graphs."""
    if isinstance(settings, EvaluateSettings):
        return settings.measurement
    assert isinstance(settings, VerifySettings)
    backend = settings.backend or ("onnx" if graphs else "torch")
    return "verify-ranks" if settings.rank_correlation else f"verify-{backend}"
