"""`sanac generate`: images from prompts, one per noise or the winners of a search."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.token_model import AnyModel, open_any_model
from sanac.core.atomic import write_atomically
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.units import duration_text, parse_size
from sanac.core.view import Block, Table
from sanac.judge.requests import check_requests, requests_of
from sanac.judge.verifier import Picture, Request
from sanac.nn.device import pick_device
from sanac.nn.generation import GenerationSettings
from sanac.runtime.generate import (
    PlannedPicture,
    file_name,
    generate,
    model_metadata,
    plan_pictures,
    refuse_replacing,
    write_picture,
)
from sanac.runtime.image_files import made_folder, metadata_text, read_metadata, read_picture, save_sheet
from sanac.search.generators import Generator, Stepwise, any_batch, any_sampling, open_any_generator
from sanac.search.open_search import calibrate, open_search, plan_search
from sanac.search.pool import Candidate, Found, Origin
from sanac.search.searcher import Searcher, SearchJournal, found_json
from sanac.search.settings import GenerateSettings

_COLUMNS, _SHOWN = 8, 64  # candidates of a prompt on the sheet, and of all prompts
CANDIDATES, JOURNAL, REPORT, SHEET = "candidates", "journal.jsonl", "search.json", "sheet.png"


def run(word: str, settings: GenerateSettings, context: Context) -> Outcome:
    """Generate every prompt, and write the images and a sheet of them."""
    opened = context.open_any(word)
    size = parse_size(settings.size) if settings.size else None
    batch = settings.batch or any_batch(opened, pick_device(settings.device), size, settings.tile)
    how = {"size": size, "batch": batch, "tile": settings.tile}
    sampling = any_sampling(opened, settings, context.reporter, **how)
    if settings.search != "single":
        return _search(opened, settings, sampling, context)
    shared = model_metadata(opened, sampling, settings.backend)
    planned = plan_pictures(settings.prompts, settings.n, settings.seed, settings.out, shared)
    refuse_replacing(planned)
    with made_folder(settings.out):
        generator = _opened(opened, settings, context)
        files = generate(generator, planned, sampling, settings.out, context.reporter)
    data = {"pictures": [str(path) for path in files], "device": generator.device, "backend": settings.backend}
    return Outcome("ok", data, settings.out, tuple(files), lambda: map(str, files))


def _opened(model: AnyModel, settings: GenerateSettings, context: Context) -> Generator:
    """The generator of a model, with what there is to say about it and these prompts."""
    generator = open_any_generator(model, settings.device, settings.backend, context.reporter)
    for warning in generator.device_warnings():
        context.reporter.warn(warning)
    if unknown := generator.unknown_words(settings.prompts):
        context.reporter.warn(f"words that are not in the model's vocabulary, and have no effect: {', '.join(unknown)}")
    return generator


@dataclass(frozen=True)
class _Files:
    """Where the images of a search go, and what all of them have in their metadata."""

    out: Path
    shared: dict[str, Any]
    drafted: dict[str, Any] = field(default_factory=dict)  # of drafts, by another model or in other steps

    @property
    def candidates(self) -> ConfinedPath:
        """The folder of all candidates."""
        return ConfinedPath(self.out) / CANDIDATES

    def candidate(self, prompt: str, origin: Origin) -> PlannedPicture:
        """The file of a candidate: its seed names it, and a digest where more than that led to it."""
        plain = origin == Origin(origin.noise) and not origin.noise.turns
        mark = "" if plain else f"-{json_files.key_of(origin.to_json())[:6]}"
        shared = self.drafted if origin.draft else self.shared
        about = {"prompt": prompt, "seed": str(origin.noise.seed), **shared}
        about |= {} if plain else {"origin": origin.to_json()}
        path = self.candidates / f"{file_name(prompt)}-{origin.noise.seed}{mark}.png"
        return PlannedPicture(path, prompt, origin.noise.seed, about)

    def read(self, prompt: str, origin: Origin) -> Picture | None:
        """The image of a candidate that an earlier run finished; None if there is none of this very origin."""
        planned = self.candidate(prompt, origin)
        if not planned.path.exists():
            return None
        refuse_replacing([planned])
        return read_picture(planned.path)

    def picture(self, prompt: str, origin: Origin) -> Picture:
        """The image of a candidate that was finished."""
        return read_picture(self.candidate(prompt, origin).path)

    def write(self, prompt: str, origin: Origin, picture: Picture) -> None:
        """Keep the image of a candidate."""
        planned = self.candidate(prompt, origin)
        refuse_replacing([planned])
        write_picture(planned, picture)


def _search(model: AnyModel, settings: GenerateSettings, sampling: GenerationSettings, context: Context) -> Outcome:
    """The winner of a search for every prompt."""
    plan = plan_search(settings, settings.candidates, sampling)
    requests = requests_of(settings.prompts)
    check_requests([*settings.verifier, *settings.readers], requests)
    files = _Files(settings.out, model_metadata(model, sampling, settings.backend))
    for folder in (files.candidates, ConfinedPath(settings.out)):
        refuse_replacing(plan_pictures(settings.prompts, plan.n, settings.seed, folder, files.shared))
    with made_folder(settings.out):
        generator = _opened(model, settings, context)
        searcher = open_search(model, generator, settings, settings.verifier, plan, sampling, files.candidates)
        searcher.check(len(requests))
        calibrate(searcher, model, settings, settings.verifier, requests, context.reporter)
        if isinstance(searcher.drafting, Stepwise):
            drafting = open_any_model(locate(settings.draft)) if settings.draft else model
            backend = "torch" if settings.draft else settings.backend
            files = replace(files, drafted=model_metadata(drafting, searcher.drafting.sampling, backend))
        (settings.out / CANDIDATES).mkdir(exist_ok=True)
        about: dict[str, Any] = {"strategy": settings.search, "n": plan.n}
        about |= {"verifier": searcher.judge.verifier.id}
        about |= {"reader": searcher.judge.reader.id} if searcher.judge.reader else {}
        about |= {"looks": list(searcher.plan.looks), "settings": _typed(settings)}
        found = _found(searcher, requests, settings, files, [about, files.shared, files.drafted], context)
        written = _written(requests, found, files, about)
        told = [{"prompt": one.prompt, **found_json(result)} for one, result in zip(requests, found, strict=True)]
        data: dict[str, Any] = {**about, "spent": searcher.budget.to_json()}
        data |= {"pictures": written, "prompts": told}
        write_atomically(ConfinedPath(settings.out) / REPORT, json_files.pretty(data))
    show = partial(_show, requests, found, searcher.budget.to_json(), written)
    return Outcome(
        "ok", {**data, "device": generator.device, "backend": settings.backend}, settings.out, (requests, found), show
    )


def _typed(settings: GenerateSettings) -> dict[str, Any]:
    """The search's own settings."""
    names = ("max_forwards", "until", "look", "keep", "clarity", "potential", "draft_steps", "draft", "neighbours")
    return {name: getattr(settings, name) for name in (*names, "cosine", "back", "seed")}


def _found(
    searcher: Searcher,
    requests: Sequence[Request],
    settings: GenerateSettings,
    files: _Files,
    key: Any,
    context: Context,
) -> list[Found]:
    """What the search of each prompt found; what the journal has is read."""
    journal = SearchJournal(files.candidates / JOURNAL, json_files.key_of(key)[:16])
    found: list[Found] = []
    context.reporter.begin("searching", len(requests), "prompts")
    try:
        for number, request in enumerate(requests):
            read: Callable[[Origin], Picture | None] = partial(files.read, request.prompt)
            first, left = settings.seed + number * searcher.plan.n, len(requests) - number
            this = {"prompt": request.prompt, "seed": first, "allowed": searcher.budget.allowed(left)}
            known = journal.get(number, this, read)
            if known is None:
                seeds = range(first, first + searcher.plan.n)
                known = searcher.search(request, seeds, left, partial(files.write, request.prompt), read)
                journal.put(number, this, *known)
            else:
                searcher.budget.add(known[1])
            found.append(_without_pictures(known[0]))
            context.reporter.advance(1)
    finally:
        context.reporter.end()
    return found


def _without_pictures(found: Found) -> Found:
    """What was found, without images in memory: they are in files."""
    return Found([replace(one, picture=None, guess=None) for one in found.candidates], found.dropped)


def _written(requests: Sequence[Request], found: Sequence[Found], files: _Files, about: dict[str, Any]) -> list[str]:
    """The winners' files, and a sheet of all candidates, the best of each prompt first."""
    paths = []
    for request, result in zip(requests, found, strict=True):
        winner = result.winner
        planned = files.candidate(request.prompt, winner.origin)
        search = {**about, "score": winner.score, "candidates": len(result.candidates), **winner.origin.to_json()}
        path = files.out / Path(planned.path).name
        one = replace(planned, path=path, metadata={**planned.metadata, "search": search})
        refuse_replacing([one])
        _delete_earlier_winner(files.out, one)
        write_picture(one, files.picture(request.prompt, winner.origin))
        paths.append(path)
    _save_sheet(files, requests, found)
    return [*map(str, paths), str(files.out / SHEET), str(files.out / REPORT)]


def _save_sheet(files: _Files, requests: Sequence[Request], found: Sequence[Found]) -> None:
    """The best candidates of every prompt, the winner framed; of many prompts those of the first ones."""
    rows: list[tuple[Request, Candidate, bool | None]] = []
    for request, result in zip(requests, found, strict=True):
        ranked = sorted(result.candidates, key=lambda one: -one.score)
        rows += [(request, one, True if place == 0 else None) for place, one in enumerate(ranked[:_COLUMNS])]
    rows = rows[:_SHOWN]
    texts = [f"{one.score:.3f}: {request.prompt} ({one.origin.noise.seed})" for request, one, _ in rows]
    columns = min(_COLUMNS, max(len(result.candidates) for result in found))
    pictures = [files.picture(request.prompt, one.origin) for request, one, _ in rows]
    save_sheet(files.out / SHEET, pictures, texts, [won for *_, won in rows], columns)


def _delete_earlier_winner(out: Path, winner: PlannedPicture) -> None:
    """Delete the image of the same prompt that an earlier search with this model chose; its candidate is kept."""
    same = ("prompt", "model", "identity", "settings")
    planned = {name: metadata_text(winner.metadata[name]) for name in same}
    for path in out.glob(f"{file_name(winner.prompt)}-*.png"):
        about = read_metadata(path) if path.name != Path(winner.path).name else {}
        if "search" in about and all(about.get(name) == value for name, value in planned.items()):
            path.unlink()


def _show(
    requests: Sequence[Request], found: Sequence[Found], spent: dict[str, Any], files: list[str]
) -> Iterator[Block]:
    """Winner and scores of each prompt, what was spent, and the files."""
    rows = []
    for request, result in zip(requests, found, strict=True):
        scores, winner = [one.score for one in result.candidates], result.winner
        counts = (str(len(scores)), str(len(result.dropped)))
        rows.append(
            (request.prompt, str(winner.origin.noise.seed), f"{winner.score:.3f}", f"{median(scores):.3f}", *counts)
        )
    yield Table(("prompt",), ("seed", "score", "median", "finished", "dropped"), tuple(rows))
    decodes, calls = spent["decodes"], spent["verifier_calls"]
    yield (
        f"{spent['forwards']:,} forward passes ({spent['block_forwards']:,} of blocks), "
        f"{decodes:,} image{'s' * (decodes != 1)} decoded, {calls:,} score{'s' * (calls != 1)}, "
        f"{duration_text(spent['seconds'])}"
    )
    yield from files
