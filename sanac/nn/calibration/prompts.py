"""Reads files of prompts, and chooses those of a calibration: a file's, bundled ones, or those of the shapes world."""

import unicodedata
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

from sanac.core.errors import InvalidInput, UsageError
from sanac.shapes.prompts import suite

LONGEST = 2_000  # characters of a prompt that is judged; SANA reads 300 tokens, some 1,200 characters
_LARGEST = 10_000_000  # bytes of a prompts file
_INVISIBLE = {"Cc": "the control character", "Zl": "the line separator", "Zp": "the paragraph separator"}


def read_prompts(path: Path) -> list[str]:
    """The prompts in a UTF-8 file, one per line; empty lines are skipped."""
    return [prompt for _, prompt in _numbered_prompts(path)]


def read_judged_prompts(path: Path) -> tuple[str, ...]:
    """The prompts in a file that pictures are judged by: each once, and each one line of text.

    InvalidInput names every line that repeats another, is longer than 2,000 characters or has a control character: a
    repeated prompt would count twice, and make intervals too narrow.
    """
    numbered = _numbered_prompts(path)
    if problems := list(_line_problems(numbered)):
        raise InvalidInput(
            f"{path} has lines that are not prompts to judge by",
            why=problems[0],
            problems=problems,
            hint="write each prompt once, on a line of its own",
        )
    return tuple(prompt for _, prompt in numbered)


def _line_problems(numbered: Sequence[tuple[int, str]]) -> Iterator[str]:
    """What is wrong with each line."""
    first: dict[str, int] = {}
    for number, prompt in numbered:
        if prompt in first:
            yield f"line {number} repeats line {first[prompt]}: {_cut(prompt)!r}"
        first.setdefault(prompt, number)
        if len(prompt) > LONGEST:
            yield f"line {number} has {len(prompt):,} characters, the most are {LONGEST:,}: {_cut(prompt)!r}"
        hidden = {one for one in prompt if unicodedata.category(one) in _INVISIBLE}
        for one in sorted(hidden):
            yield f"line {number} has {_INVISIBLE[unicodedata.category(one)]} U+{ord(one):04X}: {_cut(prompt)!r}"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _numbered_prompts(path: Path) -> list[tuple[int, str]]:
    """(line number, prompt) of every line that isn't empty."""
    try:
        if path.stat().st_size > _LARGEST:
            raise InvalidInput(f"{path} is too large for a list of prompts", why=f"it has more than {_LARGEST:,} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{path} is not UTF-8", why=str(error), hint="save it as UTF-8, one prompt per line"
        ) from error
    prompts = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not prompts:
        raise InvalidInput(f"{path} has no prompts", hint="write one prompt per line")
    return prompts


def bundled_prompts() -> list[str]:
    """The 100 bundled prompts, of varied subjects."""
    text = resources.files("sanac").joinpath("data/prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def is_shapes_vocabulary(vocabulary: Sequence[str]) -> bool:
    """Whether a tokenizer's vocabulary is that of the shapes world, as sanac:tiny's is."""
    return "cross" in vocabulary and len(vocabulary) < 1000


def default_prompts(count: int, vocabulary: Sequence[str] = ()) -> tuple[list[str], str]:
    """(`count` default prompts, their origin). Models with the shapes world's vocabulary get prompts of that world."""
    if is_shapes_vocabulary(vocabulary):
        return [prompt.text for prompt in suite("train", count)], "training prompts of the shapes world"
    found = bundled_prompts()
    if count > len(found):
        raise UsageError(
            f"--num-prompts {count}: only {len(found)} are bundled", hint="pass your own with --prompts FILE"
        )
    return found[:count], "bundled prompts"


def choose_prompts(file: Path | None, count: int | None, vocabulary: Sequence[str]) -> tuple[list[str], str]:
    """(prompts, their origin): the first `count` of the user's `file`, or the defaults."""
    if file is None:
        return default_prompts(count or 100, vocabulary)
    found = read_prompts(file)
    if count is not None and count > len(found):
        raise UsageError(f"--num-prompts {count}: {file} has only {len(found)}")
    return found[:count], str(file)
