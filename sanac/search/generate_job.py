"""`sanac generate`: images from prompts, one per noise or the best of several."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.units import duration_text, parse_size
from sanac.core.view import Block, Table
from sanac.judge.requests import check_requests, requests_of
from sanac.nn.device import pick_device
from sanac.nn.guidance import branches_of
from sanac.runtime.generate import (
    PlannedPicture,
    file_name,
    generate,
    model_metadata,
    plan_pictures,
    refuse_replacing,
    write_picture,
)
from sanac.runtime.image_files import made_folder, read_metadata, save_sheet
from sanac.runtime.pipeline import DiffusionGenerator, GenerationSettings, open_generator, sampling_of
from sanac.search.best_of import Ranking, rank_candidates, winners
from sanac.search.budget import Budget, forwards_of
from sanac.search.settings import GenerateSettings
from sanac.search.verifiers import open_verifier

CANDIDATES, REPORT, SHEET = "candidates", "search.json", "sheet.png"


def run(word: str, settings: GenerateSettings, context: Context) -> Outcome:
    """Generate every prompt, and write the images and a sheet of them."""
    opened = context.open(word)
    size = parse_size(settings.size) if settings.size else None
    how = {"size": size, "batch": settings.batch, "tile": settings.tile}
    typed = "guidance" in settings.typed
    sampling = sampling_of(opened, settings.steps, settings.guidance, context.reporter, guidance_typed=typed, **how)
    if settings.search == "best-of":
        return _best_of(opened, settings, sampling, context)
    shared = model_metadata(opened, sampling, settings.backend)
    planned = plan_pictures(settings.prompts, settings.n, settings.seed, settings.out, shared)
    refuse_replacing(planned)
    with made_folder(settings.out):
        generator = _opened(opened, settings, context)
        files = generate(generator, planned, sampling, settings.out, context.reporter)
    data = {"pictures": [str(path) for path in files], "device": generator.device, "backend": settings.backend}
    return Outcome("ok", data, settings.out, tuple(files), lambda: map(str, files))


def _opened(model: Model, settings: GenerateSettings, context: Context) -> DiffusionGenerator:
    """The generator of a model, with what there is to say about it and these prompts."""
    generator = open_generator(model, settings.device, settings.backend, context.reporter)
    for warning in generator.device_warnings():
        context.reporter.warn(warning)
    if unknown := generator.unknown_words(settings.prompts):
        context.reporter.warn(f"words that are not in the model's vocabulary, and have no effect: {', '.join(unknown)}")
    return generator


def _best_of(model: Model, settings: GenerateSettings, sampling: GenerationSettings, context: Context) -> Outcome:
    """The best of several candidates of every prompt."""
    each = forwards_of(model.schedule, sampling.steps, branches_of(model), sampling.guidance)
    budget = Budget(settings.max_forwards, settings.max_seconds)
    budget.check(each, len(settings.prompts))
    shared, out = model_metadata(model, sampling, settings.backend), settings.out
    every = plan_pictures(settings.prompts, settings.n, settings.seed, out / CANDIDATES, shared)
    planned = [every[start : start + settings.n] for start in range(0, len(every), settings.n)]
    refuse_replacing(every)
    requests = requests_of(settings.prompts)
    check_requests(settings.verifier, requests)
    with made_folder(out):
        (out / CANDIDATES).mkdir(exist_ok=True)
        verifier = open_verifier(settings.verifier, pick_device(settings.device), ConfinedPath(out) / CANDIDATES)
        generator = _opened(model, settings, context)
        rankings = rank_candidates(generator, requests, planned, sampling, verifier, budget, each, context.reporter)
        about = {"strategy": "best-of", "n": settings.n, "verifier": verifier.id}
        files = _written(rankings, out, about)
        data: dict[str, Any] = {
            "strategy": "best-of",
            "verifier": verifier.id,
            "spent": budget.to_json(),
            "pictures": files,
            "prompts": [_told(ranking) for ranking in rankings],
        }
        write_atomically(ConfinedPath(out) / REPORT, json_files.pretty(data))
    show = partial(_show, rankings, budget, files)
    return Outcome("ok", {**data, "device": generator.device, "backend": settings.backend}, out, rankings, show)


def _written(rankings: list[Ranking], out: Path, about: dict[str, Any]) -> list[str]:
    """The winners' files, and a sheet of all candidates, the best of each prompt first."""
    best = winners(rankings, out, about)
    for one, ranking in zip(best, rankings, strict=True):
        _forget_earlier_winner(out, one)
        write_picture(one, ranking.winner.picture)
    shown = [(ranking, candidate) for ranking in rankings for candidate in ranking.candidates]
    texts = [f"{one.score:.3f}: {ranking.request.prompt} ({one.planned.seed})" for ranking, one in shown]
    verdicts = [candidate is ranking.winner for ranking, candidate in shown]
    columns = min(8, max(len(ranking.candidates) for ranking in rankings))
    save_sheet(out / SHEET, [one.picture for _, one in shown], texts, verdicts, columns)
    return [*(str(one.path) for one in best), str(out / SHEET), str(out / REPORT)]


def _forget_earlier_winner(out: Path, winner: PlannedPicture) -> None:
    """Delete the image of the same prompt that an earlier search chose; its candidate is still there."""
    for path in out.glob(f"{file_name(winner.prompt)}-*.png"):
        about = read_metadata(path) if path.name != Path(winner.path).name else {}
        if "search" in about and about.get("prompt") == winner.prompt:
            path.unlink()


def _told(ranking: Ranking) -> dict[str, Any]:
    """A prompt's candidates by seed and score, the winner first."""
    rows = [{"seed": one.planned.seed, "score": one.score} for one in ranking.candidates]
    return {"prompt": ranking.request.prompt, "candidates": rows}


def _show(rankings: list[Ranking], budget: Budget, files: list[str]) -> Iterator[Block]:
    """Winner and scores of each prompt, what was spent, and the files."""
    rows = tuple(
        (
            ranking.request.prompt,
            str(ranking.winner.planned.seed),
            f"{ranking.winner.score:.3f}",
            f"{ranking.candidates[len(ranking.candidates) // 2].score:.3f}",
            str(len(ranking.candidates)),
        )
        for ranking in rankings
    )
    yield Table(("prompt",), ("seed", "score", "median", "candidates"), rows)
    spent = budget.to_json()
    yield (
        f"{spent['forwards']:,} forward passes, {spent['decodes']:,} images, {spent['verifier_calls']:,} scores, "
        f"{duration_text(spent['seconds'])}"
    )
    yield from files
