"""A contact sheet of judged images: a row of examples per task, with what was wrong."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sanac.core.confined import ConfinedPath
from sanac.judge.results import Result
from sanac.runtime.image_files import read_picture, save_sheet
from sanac.verify.geneval_images import Sample

_COLUMNS, _SIDE = 8, 256  # images per task, pixels of each


def save_examples(sheet: ConfinedPath, samples: Sequence[Sample], results: Sequence[Result]) -> None:
    """Write the first image of the first prompts of every task, framed green where right and red where wrong."""
    shown = examples(results)
    captions = [_caption(results[index]) for index in shown]
    pictures = [_thumbnail(read_picture(samples[index].file)) for index in shown]
    save_sheet(sheet, pictures, captions, [results[index].correct for index in shown], columns=_COLUMNS)


def examples(results: Sequence[Result]) -> list[int]:
    """Indices of the first image of the first eight prompts of every task, task by task."""
    first = {result.task: index for index, result in reversed(list(enumerate(results)))}
    by_task: dict[str, list[int]] = {}
    for index in sorted(first.values()):
        by_task.setdefault(results[index].task.tag, []).append(index)
    return [index for indices in by_task.values() for index in indices[:_COLUMNS]]


def _caption(result: Result) -> str:
    reason = result.reason.partition("\n")[0]
    return f"{result.task.prompt} ({reason})" if reason else result.task.prompt


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(ImageOps.pad(Image.fromarray(picture), (_SIDE, _SIDE), color="white"))
