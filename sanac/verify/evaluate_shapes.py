"""`sanac evaluate --suite shapes`: the share of right images, read by the shapes world's detector."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.artifact.measurements import measurements_in, write_measurement
from sanac.core.context import Context, Outcome
from sanac.core.view import Block, path_text
from sanac.judge.requests import requests_of
from sanac.judge.results import write_results
from sanac.runtime.generate import file_name
from sanac.runtime.image_files import make_folder, save_sheet
from sanac.search.generators import any_sampling
from sanac.search.searching_generator import SearchingGenerator
from sanac.verify.evaluate_settings import EvaluateSettings
from sanac.verify.shapes_suite import Evaluation, evaluate, examples, suite_prompts
from sanac.verify.suite_generator import open_suite_generator, spent_text
from sanac.verify.suite_scores import score_metrics, score_table


def run(word: str, settings: EvaluateSettings, context: Context) -> Outcome:
    """Generate and judge the suite's images; write the scores, a sheet of examples and a line per image."""
    opened = context.open_any(word)
    default = opened.located.path if opened.manifest else Path("sanac-out") / f"evaluate-{file_name(word)}"
    sampling = any_sampling(opened, settings, context.reporter, batch=settings.batch)
    home = make_folder(settings.out or default)
    if "shapes" in settings.search_verifier:
        context.reporter.warn("the detector that scores the images also chooses them: this doesn't measure the search")
    prompts = suite_prompts(settings.images, settings.prompts_split)
    requests = requests_of([one.text for part in prompts for one in part])
    kept = measurements_in(home) / "search"
    count = len(requests)
    generator = open_suite_generator(opened, settings, sampling, requests, kept, context.reporter, count, count)
    found = evaluate(generator, settings.images, sampling, settings.seed, settings.prompts_split, context.reporter)
    about: dict[str, Any] = {"model": opened.located.name, "suite": settings.suite, "split": settings.prompts_split}
    about |= {"seed": settings.seed, "sampling": sampling.to_json(), "device": generator.device}
    about |= {"backend": settings.backend} if settings.backend != "torch" else {}
    about |= {"schedule": str(opened.schedule)} if opened.schedule else {}
    about |= {"search": generator.to_json()} if isinstance(generator, SearchingGenerator) else {}
    files = _save(found, about, settings.measurement, home)
    shown = partial(_show, found, files, spent_text(generator, count))
    return Outcome("ok", about | found.to_json(), home, found, shown)


def _show(found: Evaluation, files: tuple[Path, ...], spent: str) -> Iterator[Block]:
    """A row per task, the distance of the set, what a search spent, and the files."""
    scores = {**found.summary.tasks, "overall": found.summary.overall}
    scores |= {"held out": found.held_out} if found.held_out else {}
    yield score_table(scores)
    distance = found.distance
    yield f"distance to rendered scenes: {distance.frechet:.2f} (two halves of these: {distance.frechet_floor:.2f})"
    yield f"diversity: {distance.diversity}"
    if spent:
        yield spent
    yield from map(path_text, files)


def _save(found: Evaluation, about: dict[str, Any], name: str, home: Path) -> tuple[Path, ...]:
    scores = {"overall": found.summary.overall, **found.summary.tasks}
    scores |= {"held_out": found.held_out} if found.held_out else {}
    metrics = {"frechet": found.distance.frechet, **score_metrics(scores)}
    written = write_measurement(home, name, about | found.to_json(), metrics)
    shown = examples(found)
    sheet = measurements_in(home) / f"{name}.png"
    verdicts = [found.results[index].correct for index in shown]
    save_sheet(sheet, [found.pictures[i] for i in shown], [found.prompts[i].text for i in shown], verdicts, columns=8)
    lines = measurements_in(home) / f"{name}.jsonl"
    write_results(lines, found.results)
    return written, sheet.path, lines.path
