"""`sanac verify`: whether two models compute the same function, or rank the same noises alike."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sanac import __version__
from sanac.core import json_files
from sanac.core.artifact.cache import load_cached, store_cached
from sanac.core.artifact.measurements import measurements_in, write_measurement
from sanac.core.artifact.model import Model
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.check import Check
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.view import Block
from sanac.nn.generation import GenerationSettings
from sanac.runtime.backends import graphs_in
from sanac.runtime.doctor import processor, version
from sanac.runtime.image_files import save_image
from sanac.runtime.pipeline import open_generator
from sanac.verify.comparison_sheet import draw_pairs
from sanac.verify.end_to_end import Comparison, VerifyReport, verify
from sanac.verify.rank_correlation import RankSettings, rank
from sanac.verify.settings import VerifySettings
from sanac.verify.show import show_checks, show_ranks, show_report, show_sheet

_METRICS = {"Kendall's tau": "kendall", "Spearman's rho": "spearman"}


def run(word: str, settings: VerifySettings, context: Context) -> Outcome:
    """Compare CANDIDATE with the model of --against."""
    candidate, reference = context.open(word), context.open(settings.against)
    if settings.rank_correlation:
        return _compare_ranks(candidate, reference, settings, context)
    if "seed" in settings.typed:
        context.reporter.warn("--seed has no effect here")
    backend = settings.backend or ("onnx" if graphs_in(candidate) else "torch")
    optional = "pictures" not in settings.typed
    how = Comparison(backend, settings.limit, settings.pictures, settings.steps, pictures_optional=optional)
    return compared(candidate, reference, how, settings.device, context, reuse=context.reuse_comparisons)


@dataclass(frozen=True, slots=True)
class StoredComparison:
    """A comparison of the very same files, read from its measurement."""

    figures: tuple[Check, ...]
    notes: tuple[str, ...]
    passed: bool = True


def compared(
    candidate: Model, reference: Model, how: Comparison, device: str | None, context: Context, *, reuse: bool = False
) -> Outcome:
    """Compare, and keep the measurement beside an artifact; `reuse`: unless the very same files passed before."""
    key = _key(candidate, reference, how, device)
    if reuse and (known := _known(candidate, key, _sheet(candidate, how))):
        return known
    found = verify(candidate, reference, how, device or "cpu", context.reporter)
    data = {"reference": reference.located.name, "backend": how.backend, **found.to_json(), "key": key}
    home = candidate.located.path if candidate.manifest else None
    sheet = _save_pairs(found, candidate, reference, how) if home else None
    if home:
        values = {_flat(figure.name): figure.value for figure in found.figures}
        metrics = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        write_measurement(home, f"verify-{how.backend}", data, metrics)
        store_cached(_stored(candidate, key), data)
    return Outcome("ok" if found.passed else "failed", data, home, found, partial(show_report, found, sheet))


def _save_pairs(found: VerifyReport, candidate: Model, reference: Model, how: Comparison) -> Path | None:
    """Write the images that were compared side by side, next to the measurement; None where there are none."""
    path = _sheet(candidate, how)
    if not found.pairs:
        path.unlink(missing_ok=True)
        return None
    headers = [
        [reference.located.name, "the reference, torch"],
        [candidate.located.name, f"the candidate, {how.backend}"],
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pairs = found.pairs
    save_image(
        draw_pairs(pairs.expected, pairs.found, headers, pairs.prompts), path, {"software": f"sanac {__version__}"}
    )
    return path.path


def _sheet(candidate: Model, how: Comparison) -> ConfinedPath:
    return measurements_in(candidate.located.path) / f"verify-{how.backend}.png"


def _key(candidate: Model, reference: Model, how: Comparison, device: str | None) -> str:
    """Equal where the same files are compared in the same way by the same software on the same processor."""
    files = [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for folder in (candidate.located.path, reference.located.path)
        for path in (sorted(folder.rglob("*")) if folder.is_dir() else [])
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(MEASUREMENTS)
    ]
    versions = [__version__, *map(version, ("torch", "diffusers", "onnxruntime", "onnxruntime-gpu"))]
    identities = [candidate.identity(), reference.identity()]
    return json_files.key_of(["verify", asdict(how), device, identities, files, versions, processor()])


def _stored(candidate: Model, key: str) -> ConfinedPath:
    """Where a comparison is kept for reuse, beside the measurements."""
    return measurements_in(candidate.located.path) / ".comparisons" / f"{key[:16]}.json"


def _known(candidate: Model, key: str, sheet: ConfinedPath) -> Outcome | None:
    """The outcome of a comparison of the very same files that passed."""
    fields: dict[str, type] = {"figures": list, "notes": list, "passed": bool}
    found = load_cached(_stored(candidate, key), key, fields) if candidate.manifest else None
    if not found or not found["passed"]:
        return None
    try:
        checks = tuple(Check(one["name"], one["value"], one["limit"], one["most"]) for one in found["figures"])
    except (KeyError, TypeError):
        return None
    if not all(one.passed for one in checks):
        return None
    view = StoredComparison(checks, tuple(map(str, found["notes"])))
    return Outcome(
        "cached",
        found,
        candidate.located.path,
        view,
        partial(_show_stored, view, sheet.path if sheet.is_file() else None),
    )


def _show_stored(view: StoredComparison, sheet: Path | None) -> Iterator[Block]:
    yield from show_checks(view.figures, view.notes)
    yield from show_sheet(sheet)
    yield "the same function, within these limits (cached: the same files were compared before)"


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
    return Outcome("ok" if passed else "failed", data, home, found, partial(show_ranks, found))
