"""`sanac evaluate --suite prompts`: the user's own prompts, against a reference's images and by verifiers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core.artifact.measurements import measurements_in, write_measurement
from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.view import Block, Table, path_text
from sanac.judge.image_metrics import EQUAL
from sanac.judge.intervals import FEW_PROMPTS, Interval, mean
from sanac.judge.jsonl import write_lines
from sanac.judge.requests import check_requests, judge_behind, requests_of
from sanac.nn.calibration.prompts import read_judged_prompts
from sanac.nn.device import pick_device
from sanac.nn.generation import ImageGenerator
from sanac.nn.generation_memory import MANY
from sanac.runtime.generate import file_name
from sanac.runtime.image_files import make_folder, save_image
from sanac.search.generators import any_batch, any_sampling, check_generates
from sanac.search.searching_generator import search_about
from sanac.verify.comparison_sheet import draw_sheet
from sanac.verify.evaluate_settings import EvaluateSettings
from sanac.verify.picture_measures import FEATURES, JudgeScores, judged, same_size, similarities
from sanac.verify.prompts_suite import ModelPictures, generate_missing, plan_model_pictures
from sanac.verify.suite_generator import open_suite_generator

SCHEMA = 1  # of the measurement: raised when the same images would be measured differently
PICTURES = "evaluate-prompts"  # the folder of images and scores, in the measurements
ROWS = 32  # of the sheet, at most
_UNITS = {"psnr": ".1f", "ssim": ".3f", "ms_ssim_distance": ".3f", "identical": ".3f"}
Intervals = dict[str, Interval]


def run(word: str, settings: EvaluateSettings, context: Context) -> Outcome:
    """Generate the prompts with both models, measure each image, and write means, lines and a sheet."""
    assert settings.prompts
    prompts, each = read_judged_prompts(settings.prompts), settings.each or 1
    check_requests([*settings.verifier, *settings.verifiers, *settings.readers], requests_of(prompts))
    for verifier in settings.verifier:
        judge_behind(verifier)
    if both := [word for word in settings.search_verifier if word in settings.verifier]:
        context.reporter.warn(f"{both[0]} also chooses the images that it scores: its score doesn't measure the search")
    if len(prompts) < FEW_PROMPTS:
        context.reporter.note(f"{len(prompts)} prompts: intervals are too narrow below some {FEW_PROMPTS}")
    opened = context.open_any(word)
    reference = context.open_any(settings.against) if settings.against else None
    default = opened.located.path if opened.manifest else Path("sanac-out") / f"evaluate-{file_name(word)}"
    for model in (opened, reference):
        if model is not None:
            check_generates(model)
    home = make_folder(settings.out or default)
    kept, device = measurements_in(home) / PICTURES, pick_device(settings.device)
    plan = partial(_plan, context, device, prompts, each, kept)
    ours = plan(settings, opened)
    theirs = plan(replace(settings, search="single", backend="torch"), reference) if reference else None
    for side in (ours, theirs):
        if side:
            generate_missing(side, context.reporter)
    noted = _unlike(ours, theirs, settings) if theirs else ""
    alike = theirs is not None and not noted
    similar = similarities(ours, theirs, context.reporter) if theirs and alike else None
    notes = [noted] if noted else []
    for note in notes:
        context.reporter.warn(note)
    scores = judged(settings.verifier, ours, theirs, device, kept, context.reporter, alike=alike)
    found = _measured(similar, scores, each, settings.seed)
    about = _about(settings, prompts, ours, theirs, scores, notes)
    files = _save(home, settings.measurement, about, found, _lines(ours, theirs, similar, scores, home))
    sheet = measurements_in(home) / f"{settings.measurement}.png"
    _draw(sheet, ours, theirs, similar, scores)
    files = (*files, sheet.path)
    data = about | {name: interval.to_json() for name, interval in found.items()}
    return Outcome("ok", data, home, found, partial(_show, found, scores, ours, theirs, notes, files))


def _plan(
    context: Context,
    device: str,
    prompts: Sequence[str],
    each: int,
    kept: ConfinedPath,
    settings: EvaluateSettings,
    model: AnyModel,
) -> ModelPictures:
    """The images of a model, sampled as it is used: its own steps where none were typed."""
    batch = settings.batch if "batch" in settings.typed else any_batch(model, device, most=MANY)
    sampling = any_sampling(model, settings, context.reporter, batch=batch)

    def opened(images: int) -> ImageGenerator:
        requests, of = requests_of(prompts), each * len(prompts)
        return open_suite_generator(model, settings, sampling, requests, kept, context.reporter, images, of)

    search = search_about(settings, settings.n)
    backend, seed = settings.backend, settings.seed
    return plan_model_pictures(model, sampling, backend, device, prompts, each, seed, kept, opened, search)


def _unlike(ours: ModelPictures, theirs: ModelPictures, settings: EvaluateSettings) -> str:
    """Why the images of both models can't be compared one by one; '' if they can."""
    if settings.search != "single":
        return "the images are winners of a search, of other noises than the reference's: similarity is left out"
    if same_size(ours, theirs):
        return ""
    (one,), (other,) = ours.read(0, 1), theirs.read(0, 1)
    sizes = [f"{picture.shape[1]}x{picture.shape[0]}" for picture in (one, other)]
    return f"images of {sizes[0]} and of {sizes[1]}: similarity is left out, scores are of each size"


def _measured(
    similar: Sequence[Mapping[str, float]] | None, scores: Sequence[JudgeScores], each: int, seed: int
) -> Intervals:
    """The mean of every measure, by its name in metrics.json."""
    values: dict[str, Sequence[float]] = {}
    if similar:
        values |= {name: [one[name] for one in similar] for name in similar[0]}
    for judge in scores:
        values[judge.name] = judge.scores
        if judge.reference:
            differences = [one - other for one, other in zip(judge.scores, judge.reference, strict=True)]
            values |= {f"{judge.name}_reference": judge.reference, f"{judge.name}_difference": differences}
        if judge.distances:
            values[f"{judge.name}_{FEATURES}"] = judge.distances
    return {name: mean(_by_prompt(numbers, each), seed=seed) for name, numbers in values.items()}


def _by_prompt(values: Sequence[float], each: int) -> list[float]:
    """The mean of each prompt's images: the bootstrap draws prompts."""
    return [sum(values[start : start + each]) / each for start in range(0, len(values), each)]


def _about(
    settings: EvaluateSettings,
    prompts: Sequence[str],
    ours: ModelPictures,
    theirs: ModelPictures | None,
    scores: Sequence[JudgeScores],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What was evaluated, and how."""
    found: dict[str, Any] = {"schema": SCHEMA, "model": ours.name, "suite": settings.suite}
    found |= {"prompts": len(prompts), "each": settings.each or 1, "seed": settings.seed, "backend": ours.backend}
    found |= {"sampling": ours.sampling.to_json(), "device": ours.device, "verifiers": {s.name: s.id for s in scores}}
    found |= {"schedule": str(ours.model.schedule)} if ours.model.schedule else {}
    found |= search_about(settings, settings.n)
    if theirs:
        found |= {"against": theirs.name, "against_sampling": theirs.sampling.to_json()}
    return found | ({"notes": [*notes]} if notes else {})


def _lines(
    ours: ModelPictures,
    theirs: ModelPictures | None,
    similar: Sequence[Mapping[str, float]] | None,
    scores: Sequence[JudgeScores],
    home: Path,
) -> Iterator[dict[str, Any]]:
    """A line per image: prompt, seed, files, and every measure of it."""
    place = measurements_in(home).path

    def named(side: ModelPictures, number: int) -> str:
        return Path(side.planned[number].path).relative_to(place).as_posix()

    for number, planned in enumerate(ours.planned):
        line: dict[str, Any] = {"prompt": planned.prompt, "seed": planned.seed, "picture": named(ours, number)}
        line |= {"reference": named(theirs, number)} if theirs else {}
        line |= dict(similar[number]) if similar else {}
        for judge in scores:
            line[judge.name] = judge.scores[number]
            line |= {f"{judge.name}_reference": judge.reference[number]} if judge.reference else {}
            line |= {f"{judge.name}_{FEATURES}": judge.distances[number]} if judge.distances else {}
        yield line


def _save(
    home: Path, name: str, about: Mapping[str, Any], found: Intervals, lines: Iterator[dict[str, Any]]
) -> tuple[Path, ...]:
    metrics: dict[str, float] = {}
    for key, interval in found.items():
        metrics |= {key: interval.value, f"{key}.low": interval.low, f"{key}.high": interval.high}
    means = {key: interval.to_json() for key, interval in found.items()}
    written = write_measurement(home, name, {**about, "means": means}, metrics)
    every = measurements_in(home) / f"{name}.jsonl"
    write_lines(every, lines)
    return written, every.path


def _draw(
    path: ConfinedPath,
    ours: ModelPictures,
    theirs: ModelPictures | None,
    similar: Sequence[Mapping[str, float]] | None,
    scores: Sequence[JudgeScores],
) -> None:
    """The sheet for people: the reference on the left, the model on the right; the images that differ most if many."""
    shown = [*range(len(ours.planned))]
    if similar:
        shown = sorted(sorted(shown, key=lambda one: -similar[one]["ms_ssim_distance"])[:ROWS])
    shown = shown[:ROWS]
    left_out = f"{len(shown)} of {len(ours.planned)} images" + (", those that differ most" if similar else "")
    about = [left_out] if len(shown) < len(ours.planned) else []
    texts = [[_caption(number, similar, scores) for number in shown]]
    columns, headers = [[ours.read(number, number + 1)[0] for number in shown]], [[ours.name, *about]]
    if theirs:
        columns.insert(0, [theirs.read(number, number + 1)[0] for number in shown])
        headers.insert(0, [theirs.name, "the reference"])
        texts.insert(0, [_scores_text({one.name: one.reference[number] for one in scores}) for number in shown])
    prompts = [f"{ours.planned[number].prompt} ({ours.planned[number].seed})" for number in shown]
    save_image(draw_sheet(columns, headers, prompts, texts), path, {"software": f"sanac {__version__}"})


def _caption(number: int, similar: Sequence[Mapping[str, float]] | None, scores: Sequence[JudgeScores]) -> str:
    """The measures of an image, a line for similarity and one for scores."""
    found = similar[number] if similar else None
    alike = f"PSNR {found['psnr']:.1f} dB, distance {found['ms_ssim_distance']:.3f}" if found else ""
    return "\n".join(filter(None, (alike, _scores_text({one.name: one.scores[number] for one in scores}))))


def _scores_text(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())


def _show(
    found: Intervals,
    scores: Sequence[JudgeScores],
    ours: ModelPictures,
    theirs: ModelPictures | None,
    notes: Sequence[str],
    files: Sequence[Path],
) -> Iterator[Block]:
    """Similarity to the reference, then the scores of both models, then the files."""
    distances = [f"{judge.name}_{FEATURES}" for judge in scores if judge.distances]
    rows = [(name, *_cells(found[name], _UNITS.get(name, ".3f"))) for name in (*_UNITS, *distances) if name in found]
    count = f"{len(ours.planned)} images of {next(iter(found.values())).n} prompts"
    if theirs and rows:
        yield f"{ours.name} against {theirs.name}, {count}, the same noises:"
        yield Table(("similarity",), ("mean", "from", "to"), tuple(rows))
        if found["identical"].value:
            yield f"identical images count as {EQUAL:g} dB"
    else:
        yield f"{ours.name}{f' against {theirs.name}' if theirs else ''}, {count}:"
    columns = ("mean", "from", "to", *(("reference", "difference", "from", "to") if theirs else ()))
    if scores:
        yield Table(("score",), columns, tuple(_score_row(judge.name, found) for judge in scores))
    yield "95 % intervals, by prompt"
    yield from notes
    yield from map(path_text, files)


def _score_row(name: str, found: Intervals) -> tuple[str, ...]:
    row = (name, *_cells(found[name], ".3f"))
    if f"{name}_difference" not in found:
        return row
    return (*row, f"{found[f'{name}_reference'].value:.3f}", *_cells(found[f"{name}_difference"], "+.3f"))


def _cells(interval: Interval, form: str) -> tuple[str, str, str]:
    return (f"{interval.value:{form}}", f"{interval.low:{form}}", f"{interval.high:{form}}")
