"""`sanac evaluate --suite geneval`: GenEval's prompts and rules, with models of transformers instead of mmdet's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.artifact.measurements import measurements_in, write_measurement
from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.core.view import Block, path_text
from sanac.judge.geneval_hf import NAME, GenEvalModels, find_models
from sanac.judge.kept_verdicts import KeptVerdicts
from sanac.judge.metadata import GenEvalTask, read_metadata
from sanac.judge.requests import check_requests
from sanac.judge.results import Result, Summary, result_of, summarise, write_results
from sanac.judge.verifier import Request
from sanac.nn.device import pick_device
from sanac.nn.generation import GenerationSettings
from sanac.runtime.generate import PlannedPicture, file_name, model_metadata, refuse_replacing, write_picture
from sanac.runtime.image_files import decode_picture, make_folder, read_png
from sanac.search.generators import any_sampling, check_generates
from sanac.search.searching_generator import search_about
from sanac.verify.evaluate_settings import EvaluateSettings
from sanac.verify.geneval_images import (
    EACH,
    Sample,
    image_folder,
    plan_pictures,
    read_samples,
    samples_of,
    write_metadata,
)
from sanac.verify.geneval_sheet import save_examples
from sanac.verify.suite_generator import open_suite_generator, spent_text
from sanac.verify.suite_scores import score_metrics, score_table

SCHEMA = 1  # of the measurement
PROMPTS = 553  # of GenEval
_IDLE = ("steps", "guidance", "batch", "backend", "search")  # without generating


@dataclass(frozen=True)
class Judged:
    """The images of an evaluation with their verdicts, and the scores."""

    samples: tuple[Sample, ...]
    results: tuple[Result, ...]  # in the same order
    summary: Summary

    @property
    def scores(self) -> dict[str, Any]:
        """All scores by name: the tasks, their mean, GenEval's two other shares."""
        summary = self.summary
        more = {"overall": summary.overall, "images": summary.images, "prompts": summary.prompts}
        return {**summary.tasks, **more}


def run(word: str, settings: EvaluateSettings, context: Context) -> Outcome:
    """Judge a folder of images, or generate the prompts' images and judge those."""
    given = image_folder(word)
    if given is not None:
        return _judge_folder(given, settings, context)
    if settings.prompts is None:
        raise UsageError(
            "--suite geneval needs --prompts FILE",
            why=f"{word} is a model, not a folder of images in GenEval's layout (00000/metadata.jsonl)",
            hint="--prompts evaluation_metadata.jsonl, the file of GenEval's repository (djghosh13/geneval, prompts/)",
        )
    return _generate_and_judge(word, read_metadata(settings.prompts), settings, context)


def _judge_folder(folder: Path, settings: EvaluateSettings, context: Context) -> Outcome:
    """The images of a folder, which itself isn't changed."""
    for idle in settings.typed.intersection(_IDLE):
        context.reporter.warn(f"--{idle} has no effect: the images in {folder} are there already")
    samples = read_samples(folder, settings.each)
    tasks = list(dict.fromkeys(sample.task for sample in samples))
    if settings.prompts is not None:
        _check_agreement(folder, tasks, settings.prompts)
    models = find_models(settings.detector, settings.color_model, tasks)
    home = make_folder(settings.out or Path("sanac-out") / f"evaluate-{file_name(folder.resolve().name)}")
    about = {"images_of": folder.resolve().name}
    judged = _judge(samples, models, home, settings, context.reporter)
    return _outcome(judged, about, models, settings, home)


def _check_agreement(folder: Path, tasks: Sequence[GenEvalTask], prompts: Path) -> None:
    """InvalidInput if the images are of other prompts than those of a file."""
    wanted = dict.fromkeys(read_metadata(prompts))
    problems = [f"{task.prompt!r} has no images" for task in wanted if task not in tasks]
    problems += [f"{task.prompt!r} is not in {prompts}" for task in tasks if task not in wanted]
    if problems:
        raise InvalidInput(
            f"the images in {folder} are of other prompts than {prompts}",
            why=problems[0],
            problems=problems,
            hint="leave --prompts out: what each image is to show is in the folder",
        )


def _generate_and_judge(
    word: str, tasks: Sequence[GenEvalTask], settings: EvaluateSettings, context: Context
) -> Outcome:
    """Everything is checked before the first image; those that exist are taken as they are."""
    opened = context.open_any(word)
    check_generates(opened)
    models = find_models(settings.detector, settings.color_model, tasks)
    requests = [Request(task.prompt, task) for task in tasks]
    check_requests([*settings.verifiers, *settings.readers], requests)
    if len(tasks) != PROMPTS:
        context.reporter.note(f"{settings.prompts} has {len(tasks):,} prompts, GenEval {PROMPTS}")
    sampling = any_sampling(opened, settings, context.reporter, batch=settings.batch)
    each, place = settings.each or EACH, _place(opened, word, settings)
    shared = model_metadata(opened, sampling, settings.backend)
    shared["settings"] |= search_about(settings, settings.n)
    samples = samples_of(tasks, each, place)
    planned = plan_pictures(samples, each, settings.seed, shared)
    refuse_replacing(planned)
    make_folder(place)
    write_metadata(tasks, place)
    device = _generate(opened, planned, requests, sampling, settings, place, context.reporter)
    judged = _judge(samples, models, place, settings, context.reporter)
    about = {"model": opened.located.name, "each": each, "sampling": sampling.to_json(), "device": device}
    about |= {"backend": settings.backend} if settings.backend != "torch" else {}
    about |= {"schedule": str(opened.schedule)} if opened.schedule else {}
    about |= search_about(settings, settings.n)
    home = opened.located.path if opened.manifest and not settings.out else place
    return _outcome(judged, about, models, settings, home)


def _place(opened: AnyModel, word: str, settings: EvaluateSettings) -> Path:
    """The folder of the images: beside an artifact, which is sealed."""
    marks: list[str] = [settings.backend] if settings.backend != "torch" else []
    marks += [settings.search, str(settings.n)] if settings.search != "single" else []
    if opened.manifest:
        default = opened.located.path.parent / "-".join(["evaluate", opened.located.path.name, *marks])
    else:
        default = Path("sanac-out") / "-".join(["evaluate", file_name(word), *marks])
    return settings.out or default


def _generate(
    opened: AnyModel,
    planned: Sequence[PlannedPicture],
    requests: Sequence[Request],
    sampling: GenerationSettings,
    settings: EvaluateSettings,
    place: Path,
    reporter: Reporter,
) -> str:
    """Generate the pictures that aren't there yet, and write each batch at once; returns the device."""
    missing = [one for one in planned if not one.path.exists()]
    if len(missing) < len(planned):
        reporter.note(f"{len(planned) - len(missing):,} of {len(planned):,} images are there already")
    if not missing:
        return pick_device(settings.device)
    kept, count = ConfinedPath(place) / "search", len(missing)
    generator = open_suite_generator(opened, settings, sampling, requests, kept, reporter, count, len(planned))
    reporter.begin("generating", count, "images")
    try:
        left = iter(missing)
        prompts, seeds = [one.prompt for one in missing], [one.seed for one in missing]
        for batch in generator.generate(prompts, seeds, sampling, reporter):
            for picture in batch:
                write_picture(next(left), picture)
    finally:
        reporter.end()
    if spent := spent_text(generator, count):
        reporter.note(spent)
    return generator.device


def _judge(
    samples: Sequence[Sample], models: GenEvalModels, place: Path, settings: EvaluateSettings, reporter: Reporter
) -> Judged:
    """The verdict on every image; verdicts of earlier runs are taken, and new ones kept in `place`."""
    kept, judge = KeptVerdicts(ConfinedPath(place), models.id), None
    results = []
    reporter.begin("judging", len(samples), "images")
    try:
        for sample in samples:
            data, name = read_png(sample.file), sample.file.relative
            known = kept.known(data, sample.task)
            if known is None:
                judge = judge or models.open(pick_device(settings.device))
                verdict = judge.verdict(decode_picture(data, str(sample.file)), sample.task)
                known = result_of(name, sample.task, verdict)
                kept.keep(data, known)
            results.append(known.of_file(name))
            reporter.advance(1)
    finally:
        kept.save()
        reporter.end()
    return Judged(tuple(samples), tuple(results), summarise(results, seed=settings.seed))


def _outcome(
    judged: Judged, about: dict[str, Any], models: GenEvalModels, settings: EvaluateSettings, home: Path
) -> Outcome:
    """Write scores, lines and examples."""
    about |= {"schema": SCHEMA, "suite": NAME, "seed": settings.seed, "detector": models.detector.identity}
    about |= {"color_model": models.colors.identity} if models.colors else {}
    data, name = about | judged.summary.to_json(), settings.measurement
    written = write_measurement(home, name, data, score_metrics(judged.scores))
    lines, sheet = measurements_in(home) / f"{name}.jsonl", measurements_in(home) / f"{name}.png"
    write_results(lines, judged.results)
    save_examples(sheet, judged.samples, judged.results)
    return Outcome("ok", data, home, judged, partial(_show, judged, models, (written, lines.path, sheet.path)))


def _show(judged: Judged, models: GenEvalModels, files: tuple[Path, ...]) -> Iterator[Block]:
    """A row per score, what judged, and the files."""
    yield score_table(judged.scores)
    yield f"{judged.summary.pictures:,} images, judged by {models.detector.name}"
    yield f"{NAME}: not comparable with published GenEval scores, which come from other weights"
    yield from map(path_text, files)
