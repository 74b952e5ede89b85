"""Calibration prompts: the user's file, the bundled list, or the shapes world's for models with its vocabulary."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from sanac.core.errors import InvalidInput, UsageError
from sanac.shapes.prompts import suite

_LARGEST = 10_000_000  # bytes of a prompts file


def read_prompts(path: Path) -> list[str]:
    """The prompts in a UTF-8 file, one per line; empty lines are skipped."""
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
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
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
