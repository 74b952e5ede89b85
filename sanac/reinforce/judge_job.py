"""`sanac judge train`: a judge of images and previews, trained on generated images or on a user's labels."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.context import Context, Outcome
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.view import Block, Table, path_text
from sanac.finetune.lora import check_peft
from sanac.judge.intervals import Interval
from sanac.judge.model_folder import YES_NO, open_judge
from sanac.judge.preview_judge import JudgeShape
from sanac.nn.calibration.prompts import read_judged_prompts
from sanac.nn.device import pick_device
from sanac.reinforce.agreement import FINISHED, MEASURED, agreements, kept_back
from sanac.reinforce.judge_output import JudgeOutput
from sanac.reinforce.judge_settings import JudgeTrainSettings
from sanac.reinforce.judge_training import GeneratedTraining, JudgeTraining, LabelledTraining, YesNoTraining
from sanac.reinforce.labels import check_prompts, check_varied, read_labels
from sanac.reinforce.previews import plan_previews
from sanac.shapes.prompts import Prompt, prompts_of, split_of, suite
from sanac.shapes.words import TAGS, VOCABULARY
from sanac.train.memory import out_of_memory

_TITLES = {FINISHED: "final, finished images"}


def run(words: Sequence[str], settings: JudgeTrainSettings, context: Context) -> Outcome:
    """Train a judge and write it, or show the same training that was done before."""
    _check_sources(words, settings)
    training = _planned(words, settings, context)
    output = JudgeOutput(settings.out, training.key)
    known = output.known(force=settings.force)
    if known:
        return _outcome("cached", known, settings.out)
    with output.begun(fresh=settings.fresh):
        with out_of_memory(f"--batch {max(1, settings.batch_size // 2)}"):
            answers = training.train(output.partial, output.result, context.reporter)
        found = agreements(answers)
        report = {
            "judge": training.kind,
            "steps": settings.training_steps,
            "learning_rate": settings.peak_rate,
            "held_out": {"prompts": len(training.back), "of": len(training.prompts)},
            "heads": {head: one.to_json() for head, one in found.items()},
        }
        whole = output.finish(report, force=settings.force)
    return _outcome("ok", whole, settings.out)


def _check_sources(words: Sequence[str], settings: JudgeTrainSettings) -> None:
    """UsageError unless there are either models or labels."""
    if words and settings.labels:
        raise UsageError(
            f"{words[0]!r} was taken as MODEL, which contradicts --labels",
            why="a judge is trained on images that a MODEL generates, or on labelled images",
            hint="leave out one of them",
        )
    if not words and not settings.labels:
        raise UsageError(
            "MODEL or --labels is missing",
            why="a judge is trained on images that a MODEL generates, or on labelled images",
            hint=f"{settings.EXAMPLES[0]}   (all options: sanac judge train --help)",
        )
    if twice := [word for word in words if words.count(word) > 1]:
        raise UsageError(f"{twice[0]} is named twice")


def _planned(words: Sequence[str], settings: JudgeTrainSettings, context: Context) -> JudgeTraining:
    """The training, with everything decided and checked before time is spent."""
    device = pick_device(settings.device)
    if not settings.labels:
        return _on_models(words, settings, device, context)
    labels = read_labels(settings.labels)
    if settings.base and not labels.has_previews:  # what it says of previews stays what it was
        labels = labels.final_only
    check_prompts(labels, settings.labels)
    back = kept_back(labels.prompts, settings.hold_out)
    check_varied(labels.split(back)[0], settings.labels)
    if not settings.base:
        return LabelledTraining(settings, device, back, labels)
    check_peft("--base")
    return YesNoTraining(settings, device, back, labels, open_judge(settings.base, YES_NO))


def _on_models(words: Sequence[str], settings: JudgeTrainSettings, device: str, context: Context) -> JudgeTraining:
    models = [context.open_any(word) for word in words]
    prompts = _read_prompts(settings.prompts) if settings.prompts else suite("train", settings.images * len(models))
    if tested := [one.text for one in prompts if split_of(one) in {"test", "held-out"}]:
        context.reporter.warn(
            f"{len(tested)} prompts are those that sanac evaluate tests with, such as {tested[0]!r}: "
            "the judge will be biased there"
        )
    texts, side = [prompt.text for prompt in prompts], JudgeShape(VOCABULARY).side
    sources = tuple(
        plan_previews(model, number, texts, settings, side, context.reporter) for number, model in enumerate(models)
    )
    used = {text for source in sources for text in source.prompts}
    if len(used) < 2:
        raise UsageError("one prompt is too few", why="a share of the prompts is kept from training, to measure with")
    back = kept_back(used, settings.hold_out)
    return GeneratedTraining(settings, device, back, sources, tuple(prompts), VOCABULARY)


def _read_prompts(file: Path) -> list[Prompt]:
    """The prompts of a file; InvalidInput unless all are of the shapes world, whose detector gives the labels."""
    splits = ("train", "tune", "test", "held-out")
    every = {one.text: one for split in splits for tag in TAGS for one in prompts_of(tag, split)}
    texts = read_judged_prompts(file)
    if strangers := [text for text in texts if text not in every]:
        raise InvalidInput(
            f"{file} has prompts that the detector can't judge",
            why="it only knows prompts of the shapes world, such as 'a red circle above a blue square'",
            problems=[repr(text) for text in strangers],
            hint="label images of other prompts yourself: --labels FILE",
        )
    return [every[text] for text in texts]


def _outcome(status: str, report: Mapping[str, Any], out: Path) -> Outcome:
    data = {name: value for name, value in report.items() if name not in {"key", "kind", "files"}}
    data["heads"] = _heads(report)
    return Outcome(status, data, out, report, partial(_show, status, report, out))


def _heads(report: Mapping[str, Any]) -> dict[str, Any]:
    """The agreements by head, in their usual order: files sort their keys."""
    return {head: report["heads"][head] for head in MEASURED if head in report["heads"]}


def _show(status: str, report: Mapping[str, Any], out: Path) -> Iterator[Block]:
    """The agreement of each head, and how to use the judge."""
    held, kind = report["held_out"], report["judge"]
    yield f"agreement with the labels of {held['prompts']} of {held['of']} prompts, kept from training:"
    rows = []
    for head, one in _heads(report).items():
        numbers = (_bounds(one["agreement"]), f"{one['constant']:.3f}", _bounds(one["auc"]), f"{one['answers']:,}")
        rows.append((_TITLES.get(head, head), *numbers))
    yield Table(("head",), ("agreement", "constant", "AUC", "answers"), tuple(rows))
    shown = path_text(out)
    done = " (cached)" if status == "cached" else ""
    yield f"wrote {shown}{done}: use it with --verifier {kind}:{shown}, and for previews with --previews {kind}:{shown}"


def _bounds(interval: Mapping[str, Any] | None) -> str:
    """An interval as text; a dash where there is none."""
    return str(Interval(**interval)) if interval else "-"
