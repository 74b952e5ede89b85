"""`sanac verify`: whether two models compute the same function, or rank the same noises alike."""

import math

from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.model import Model
from sanac.core.context import Context, Outcome
from sanac.runtime.backends import graphs_in
from sanac.runtime.pipeline import GenerationSettings, open_generator
from sanac.verify.end_to_end import Comparison, verify
from sanac.verify.rank_correlation import RankSettings, rank
from sanac.verify.settings import VerifySettings

_METRICS = {"Kendall's tau": "kendall", "Spearman's rho": "spearman"}


def run(word: str, settings: VerifySettings, context: Context) -> Outcome:
    """Compare CANDIDATE with the model of --against."""
    candidate, reference = context.open(word), context.open(settings.against)
    if settings.rank_correlation:
        return _compare_ranks(candidate, reference, settings, context)
    if "seed" in settings.typed:
        context.reporter.warn("--seed has no effect here")
    backend = settings.backend or ("onnx" if graphs_in(candidate) else "torch")
    how = Comparison(backend, settings.limit, settings.pictures, settings.steps)
    return compared(candidate, reference, how, settings.device, context)


def compared(candidate: Model, reference: Model, how: Comparison, device: str | None, context: Context) -> Outcome:
    """Compare, and keep the measurement beside an artifact."""
    found = verify(candidate, reference, how, device or "cpu", context.reporter)
    data = {"reference": reference.located.name, "backend": how.backend, **found.to_json()}
    home = candidate.located.path if candidate.manifest else None
    if home:
        values = {_flat(figure.name): figure.value for figure in found.figures}
        metrics = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        write_measurement(home, f"verify-{how.backend}", data, metrics)
    return Outcome("ok" if found.passed else "failed", data, home, found)


def _flat(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).replace("__", "_")


def _compare_ranks(candidate: Model, reference: Model, settings: VerifySettings, context: Context) -> Outcome:
    """Rank the same noises with both, and keep the correlation beside an artifact."""
    backend, noises = settings.backend or "torch", settings.noises or 16
    how = RankSettings(
        GenerationSettings(settings.steps),
        GenerationSettings(settings.candidate_steps or settings.steps),
        settings.verifier or "shapes",
        settings.rank_prompts or 24,
        noises,
        (1, 4) if noises > 4 else (1,),
        settings.min_kendall,
        settings.seed,
    )
    ours = open_generator(candidate, settings.device, backend, context.reporter)
    found = rank(ours, open_generator(reference, settings.device), how, context.reporter)
    data = {"reference": reference.located.name, "backend": backend, **found.to_json()}
    home = candidate.located.path if candidate.manifest else None
    if home:
        metrics = {
            _METRICS.get(name, name.replace(" ", "_")): interval.value for name, interval in found.correlations.items()
        }
        write_measurement(home, "verify-ranks", data, metrics)
    passed = found.figure is None or found.figure.passed
    return Outcome("ok" if passed else "failed", data, home, found)
