"""Costs of `sanac verify`, `evaluate` and `bench` in a recipe."""

from io import BytesIO
from pathlib import Path

from sanac.core.cost import OVERHEAD, Cost, ModelShape, comparison_memory
from sanac.core.errors import InvalidInput
from sanac.nn.calibration.prompts import read_prompts
from sanac.nn.stepwise import StepCost
from sanac.search.picture_cost import BRANCHES, picture_cost
from sanac.verify.evaluate_settings import EvaluateSettings
from sanac.verify.settings import BenchSettings, VerifySettings

UNKNOWN = 100  # prompts of a file that can't be read yet
_GENEVAL = 553  # prompts
_JUDGING = 7e11  # operations per image: a Mask2Former with Swin-S at 800 pixels, a crop or two for CLIP ViT-L/14
_JUDGES = 2e9  # bytes of both in fp32; they are loaded after the model is done


def verify(settings: VerifySettings, before: ModelShape, _others: int) -> Cost:
    """Outputs block by block; images with both models in memory, where they are asked for or there is room."""
    work = before.forward(settings.pictures * settings.steps * 2 + 20)
    asked = settings.pictures and "pictures" in settings.typed
    memory = OVERHEAD + 2 * before.size_fp32 if asked else comparison_memory(before)
    return Cost(before, memory, work, 2 * before.size)


def evaluate(settings: EvaluateSettings, before: ModelShape, _others: int) -> Cost:
    """The suite's images: of shapes, a quarter more for its held-out part; of geneval, with their judges."""
    images, reference, judging, judges = 1.25 * settings.images, 0.0, 0.0, 0.0
    if settings.suite == "geneval":
        images = _lines(settings.prompts) * (settings.each or 4)
        judging, judges = images * _JUDGING, _JUDGES
    elif settings.suite == "prompts":
        images = (settings.each or 1) * _count_prompts(settings.prompts)
        reference = images if settings.against else 0.0  # it may be deeper: that is not known here
    steps = settings.steps or before.steps
    work = before.forward((images * _candidates(settings, steps) + reference) * steps) + judging
    return Cost(before, OVERHEAD + max(before.size_fp32, judges), work, before.size + judges)


def _candidates(settings: EvaluateSettings, steps: int) -> float:
    """How many whole pictures the search of one picture costs."""
    each = (StepCost(BRANCHES, BRANCHES),) * steps
    return picture_cost(settings, settings.n, each) / steps


def _lines(file: Path | None) -> int:
    """The number of prompts in a metadata file; GenEval's, where it can't be read from here."""
    try:
        with file.open("rb") if file and file.is_file() else BytesIO() as lines:
            return sum(1 for _ in lines) or _GENEVAL
    except OSError:
        return _GENEVAL


def _count_prompts(file: Path | None) -> int:
    """The number of prompts in a file; a guess where it can't be read here: the stage says why."""
    try:
        return len(read_prompts(file)) if file else UNKNOWN
    except InvalidInput:
        return UNKNOWN


def bench(settings: BenchSettings, before: ModelShape, others: int) -> Cost:
    """Turns of every model, all of them in memory."""
    turns = settings.rounds * (settings.steps or 20) * (1 + others) * 1.5
    return Cost(before, (OVERHEAD + before.size_fp32) * (1 + others), before.forward(turns), before.size)
