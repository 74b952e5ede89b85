"""The generator of a suite's images: the model, or a search around it where one is typed."""

from collections.abc import Sequence
from dataclasses import replace

from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.judge.verifier import Request
from sanac.nn.generation import GenerationSettings, ImageGenerator
from sanac.search.generators import Generator, open_any_generator
from sanac.search.searching_generator import SearchingGenerator, searching
from sanac.verify.evaluate_settings import EvaluateSettings


def open_suite_generator(
    model: AnyModel,
    settings: EvaluateSettings,
    sampling: GenerationSettings,
    requests: Sequence[Request],
    kept: ConfinedPath,
    reporter: Reporter,
    images: int,
    of: int,
) -> Generator | SearchingGenerator:
    """Open a model, and begin the search that the settings ask for; its scores are kept in the folder `kept`.

    `images` are to be generated, of so many that a typed budget is for.
    """
    generator = open_any_generator(model, settings.device, settings.backend, reporter)
    for warning in generator.device_warnings():
        reporter.warn(warning)
    if settings.search == "single":
        return generator
    if settings.max_forwards is not None:
        settings = replace(settings, max_forwards=settings.max_forwards * images // of)
    words, n = settings.search_verifier, settings.n
    return searching(model, generator, settings, words, n, sampling, requests, images, kept, reporter)


def spent_text(generator: ImageGenerator, images: int) -> str:
    """What the search of so many images took; '' where there was none."""
    if not isinstance(generator, SearchingGenerator):
        return ""
    plan, spent = generator.searcher.plan, generator.searcher.budget.spent
    each = f"{spent['forwards'] / images:,.0f} forward passes ({spent['block_forwards'] / images:,.0f} of blocks)"
    return f"{plan.strategy} over {plan.n} noises: {each} per image"
