"""The words of `--verifier` and `--previews`, checked before anything is loaded."""

import re

from sanac.core.errors import UsageError

KINDS = ("shapes", "judge", "clip", "vlm", "atoms")


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


def split_words(prompt: str) -> list[str]:
    """The words of a prompt in lower case."""
    return re.findall(r"\w+", prompt.lower())
