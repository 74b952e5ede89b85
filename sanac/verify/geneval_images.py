"""GenEval's layout of images: a numbered folder per prompt with its metadata and its samples.

00000/metadata.jsonl    00000/samples/0000.png, 0001.png ...
00001/...
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.metadata import GenEvalTask, read_metadata
from sanac.runtime.generate import PlannedPicture
from sanac.runtime.image_files import read_png

METADATA, SAMPLES = "metadata.jsonl", "samples"
EACH = 4  # images per prompt, as GenEval counts
MOST_EACH = 1000  # more would share noises with the next prompt
_FIRST = f"00000/{METADATA}"


@dataclass(frozen=True, slots=True)
class Sample:
    """An image to judge, and what it is to show."""

    file: ConfinedPath
    task: GenEvalTask


def samples_of(tasks: Sequence[GenEvalTask], each: int, out: Path) -> list[Sample]:
    """`each` samples per prompt in `out`; the files need not exist yet."""
    root = ConfinedPath(out)
    return [
        Sample(root / f"{number:05}" / SAMPLES / f"{sample:04}.png", task)
        for number, task in enumerate(tasks)
        for sample in range(each)
    ]


def plan_pictures(samples: Sequence[Sample], each: int, seed: int, shared: Mapping[str, Any]) -> list[PlannedPicture]:
    """The pictures to generate. A picture's noise depends on the numbers of prompt and sample only, not on `each`."""
    found = []
    for index, (file, task) in enumerate((one.file, one.task) for one in samples):
        noise = seed * 1_000_003 + index // each * MOST_EACH + index % each
        found.append(PlannedPicture(file, task.prompt, noise, {"prompt": task.prompt, "seed": str(noise), **shared}))
    return found


def write_metadata(tasks: Sequence[GenEvalTask], out: Path) -> None:
    """Make the folder of every prompt; UsageError, before anything is written, names those of other prompts."""
    root = ConfinedPath(out)
    files = {root / f"{number:05}" / METADATA: f"{json.dumps(task.to_json())}\n" for number, task in enumerate(tasks)}
    others = [f"{file} is of another prompt" for file, text in files.items() if file.exists() and not _is(file, text)]
    if others:
        raise UsageError(
            f"{out} holds images of other prompts",
            why=others[0],
            problems=others,
            hint="write the new images elsewhere: --out OTHER, or delete the old ones",
        )
    for file, text in files.items():
        (file.parent / SAMPLES).mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_atomically(file, text.encode())


def _is(file: ConfinedPath, text: str) -> bool:
    return file.stat().st_size == len(text.encode()) and file.read_bytes() == text.encode()


def image_folder(word: str) -> Path | None:
    """The folder of images in GenEval's layout that a word names; None if it names something else."""
    try:
        path = Path(word).expanduser()
        return path if (path / _FIRST).exists() or (path / _FIRST).is_symlink() else None
    except (OSError, RuntimeError, ValueError):
        return None


def read_samples(folder: Path, each: int | None) -> list[Sample]:
    """The images of a folder, the first `each` of every prompt, or all; InvalidInput lists everything that is wrong.

    Every prompt has to have as many images as the one with most. Images are read, but not decoded yet.
    """
    root, problems = ConfinedPath(folder), list[str]()
    numbers = sorted(int(entry.name) for entry in root.iterdir() if re.fullmatch("[0-9]{5}", entry.name))
    problems += [f"{number:05} is missing" for number in sorted({*range(numbers[-1] + 1)} - {*numbers})]
    tasks, files = list[GenEvalTask | None](), list[dict[int, ConfinedPath]]()
    for number in numbers:
        place = root / f"{number:05}"
        tasks.append(_task(place / METADATA, problems))
        files.append(_files(place / SAMPLES, problems))
    wanted = each or max(map(len, files), default=0)
    found, present = [], list[ConfinedPath]()
    for number, task, samples in zip(numbers, tasks, files, strict=True):
        here = [samples[sample] for sample in range(wanted) if sample in samples]
        lost = [f"{sample:04}.png" for sample in range(wanted) if sample not in samples]
        problems += [f"{number:05}/{SAMPLES}/{name} is missing" for name in lost]
        present += here
        found += [Sample(file, task) for file in here if task]
    problems += _unreadable(present)
    if problems:
        hint = "generate what is missing again; judge fewer images of each prompt with --each N"
        raise InvalidInput(f"{folder} can't be judged", why=problems[0], problems=problems, hint=hint)
    return found


def _task(file: ConfinedPath, problems: list[str]) -> GenEvalTask | None:
    """The task in a prompt's metadata."""
    try:
        if not file.is_file():
            problems.append(f"{file.relative} is missing")
            return None
        tasks = read_metadata(Path(file))
    except InvalidInput as error:
        problems += [f"{file.relative}: {problem}" for problem in error.problems or [error.message]]
        return None
    if len(tasks) > 1:
        problems.append(f"{file.relative} has {len(tasks)} lines, not one")
        return None
    return tasks[0]


def _files(folder: ConfinedPath, problems: list[str]) -> dict[int, ConfinedPath]:
    """The samples of a prompt by number; GenEval reads file names with any number of digits."""
    found: dict[int, ConfinedPath] = {}
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
    except InvalidInput as error:
        problems.append(error.message)
        return found
    for entry in entries:
        if not re.fullmatch(r"[0-9]{1,9}\.png", entry.name):
            continue
        number = int(entry.name.removesuffix(".png"))
        if number in found:
            problems.append(f"{entry.relative} and {found[number].name} are the same sample")
        found[number] = entry
    return found


def _unreadable(files: Iterable[ConfinedPath]) -> Iterator[str]:
    for file in files:
        try:
            read_png(file)
        except InvalidInput as error:
            yield f"{error.message}: {error.why}" if error.why else error.message
