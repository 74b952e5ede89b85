"""Judged images: GenEval's results file, reading and writing it, and its scores."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput
from sanac.judge.detections import is_plain_text
from sanac.judge.geneval import GenEvalResult
from sanac.judge.intervals import LEVEL, RESAMPLES, Interval, PromptScore, clustered_share, overall, wilson
from sanac.judge.jsonl import read_lines, write_lines
from sanac.judge.metadata import TAGS, GenEvalTask, parse_task

Boxes = Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Result:
    """One image's line of the results; `details` maps classes to boxes with the score as fifth number."""

    filename: str
    task: GenEvalTask
    correct: bool
    reason: str
    details: Boxes

    def to_json(self) -> dict[str, Any]:
        """The line with GenEval's columns; metadata and details are JSON strings."""
        return {
            "filename": self.filename,
            "tag": self.task.tag,
            "prompt": self.task.prompt,
            "correct": self.correct,
            "reason": self.reason,
            "metadata": json.dumps(self.task.to_json()),
            "details": json.dumps(self.details, allow_nan=False),
        }

    def of_file(self, filename: str) -> "Result":
        """The same verdict on an equal file of another name."""
        return replace(self, filename=filename)


def result_of(filename: str, task: GenEvalTask, verdict: GenEvalResult) -> Result:
    """The results line of an image's verdict."""
    return Result(filename, task, verdict.correct, "\n".join(verdict.reasons), verdict.details)


def write_results(path: AnyPath, results: Iterable[Result]) -> None:
    """Write one line per image, in the format that GenEval's own tools read."""
    write_lines(path, (result.to_json() for result in results))


def read_results(path: Path, *, tags: Collection[str] = TAGS) -> list[Result]:
    """The results in a file written by sanac or GenEval; InvalidInput lists every malformed line."""
    return read_lines(path, partial(parse_result, tags=tags))


def parse_result(value: dict[str, Any], *, tags: Collection[str] = TAGS) -> Result:
    """The result in one parsed line; InvalidInput lists its problems."""
    problems = list(_problems(value))
    if problems:
        raise InvalidInput("it is not a result", problems=problems)
    task = parse_task(json_files.parse(value["metadata"].encode(), "its metadata"), tags=tags)
    details = json_files.parse_object(value["details"].encode(), "its details")
    problems = [
        f"its {key} differs from its metadata's" for key in ("tag", "prompt") if value[key] != getattr(task, key)
    ]
    problems += [f"the boxes of {label!r} are malformed" for label, boxes in details.items() if not _are_boxes(boxes)]
    if problems:
        raise InvalidInput("it contradicts itself", problems=problems)
    boxes = {label: tuple(tuple(map(float, box)) for box in listed) for label, listed in details.items()}
    return Result(value["filename"], task, value["correct"], value["reason"], boxes)


def _problems(value: dict[str, Any]) -> Iterator[str]:
    for key in ("filename", "tag", "prompt"):
        if not is_plain_text(value.get(key)):
            yield f"{key} is not a line of text"
    for key in ("reason", "metadata", "details"):
        text = value.get(key)
        if not isinstance(text, str) or _has_half_characters(text):
            yield f"{key} is not a text"
    if not isinstance(value.get("correct"), bool):
        yield "correct is neither true nor false"


def _has_half_characters(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _are_boxes(boxes: Any) -> bool:
    return isinstance(boxes, list) and all(
        isinstance(box, list)
        and len(box) in {4, 5}
        and all(type(number) in {int, float} and abs(number) < 1e9 for number in box)
        for box in boxes
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """GenEval's scores: accuracy per task and their mean; shares of correct images and of prompts with a correct one.

    Bounds treat prompts, not images, as the independent observations.
    """

    tasks: Mapping[str, Interval]
    overall: Interval
    images: Interval
    prompts: Interval
    pictures: int

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        return {
            "tasks": {tag: interval.to_json() for tag, interval in self.tasks.items()},
            "overall": self.overall.to_json(),
            "images": self.images.to_json(),
            "prompts": self.prompts.to_json(),
            "pictures": self.pictures,
        }


def prompt_scores(results: Iterable[Result]) -> list[PromptScore]:
    """Per prompt, the number of correct images and of all images; prompts are identified by their whole metadata."""
    scores: dict[GenEvalTask, PromptScore] = {}
    for result in results:
        task = result.task
        score = scores.get(task) or PromptScore(task.tag, json.dumps(task.to_json()), 0, 0)
        scores[task] = replace(score, right=score.right + result.correct, images=score.images + 1)
    return list(scores.values())


def summarise(results: Sequence[Result], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Summary:
    """The scores of all results; tasks without results are left out of the mean."""
    scores = prompt_scores(results)
    if not scores:
        raise InvalidInput("there are no results to summarise", hint="judge some images first")
    tasks = {tag: [score for score in scores if score.task == tag] for tag in dict.fromkeys(s.task for s in scores)}
    return Summary(
        {tag: clustered_share(members, level) for tag, members in tasks.items()},
        overall(scores, level, resamples, seed),
        clustered_share(scores, level),
        wilson(sum(score.right > 0 for score in scores), len(scores), level),
        len(results),
    )
