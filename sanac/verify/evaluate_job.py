"""`sanac evaluate`: whether the images are good. Each suite has a module of its own."""

from collections.abc import Callable, Mapping

from sanac.core.context import Context, Outcome
from sanac.verify import evaluate_geneval, evaluate_prompts, evaluate_shapes
from sanac.verify.evaluate_settings import EvaluateSettings

SUITES: Mapping[str, Callable[[str, EvaluateSettings, Context], Outcome]] = {
    "shapes": evaluate_shapes.run,
    "geneval": evaluate_geneval.run,
    "prompts": evaluate_prompts.run,
}


def run(word: str, settings: EvaluateSettings, context: Context) -> Outcome:
    """Generate and judge the suite's images, or read images that were generated elsewhere."""
    return SUITES[settings.suite](word, settings, context)
