"""The words of `--verifier` and `--previews`, checked before anything is loaded."""

import re
from collections.abc import Sequence

from sanac.core.errors import UsageError

KINDS = ("shapes", "judge", "clip", "vlm", "atoms")
_ACCEPTED = {"shapes": 1.0, "judge": 0.5, "vlm": 0.5, "atoms": 0.5}


def check_word(word: str) -> None:
    """UsageError for a word that names no verifier."""
    kind, _, model = word.partition(":")
    if kind not in KINDS or (kind == "shapes") == bool(model):
        raise UsageError(f"names {word!r}, not shapes, judge:MODEL, clip:MODEL, vlm:MODEL or atoms:MODEL")


def check_reader(word: str) -> None:
    """UsageError for a word that names nothing that reads previews."""
    kind, _, model = word.partition(":")
    if kind != "states" or not model:
        check_word(word)


def kind_of(word: str) -> str:
    """The kind of a word's verifier: shapes, judge, clip, vlm or atoms; or states."""
    return word.partition(":")[0]


def model_of(word: str) -> str:
    """The model behind a word; empty for shapes."""
    return word.partition(":")[2]


def accepted_from(words: Sequence[str]) -> float | None:
    """The score from which on an image counts as right; None for verifiers that only compare, as ensembles do."""
    return _ACCEPTED.get(kind_of(words[0])) if len(words) == 1 else None


def split_words(prompt: str) -> list[str]:
    """The words of a prompt in lower case."""
    return re.findall(r"\w+", prompt.lower())
