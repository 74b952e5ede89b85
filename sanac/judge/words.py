"""The words of `--verifier`, checked before anything is loaded."""

from sanac.core.errors import UsageError

KINDS = ("shapes", "clip", "vlm", "atoms")


def check_word(word: str) -> None:
    """UsageError for a word that names no verifier."""
    kind, _, model = word.partition(":")
    if kind not in KINDS or (kind == "shapes") == bool(model):
        raise UsageError(f"names {word!r}, not shapes, clip:MODEL, vlm:MODEL or atoms:MODEL")


def kind_of(word: str) -> str:
    """The kind of a word's verifier: shapes, clip, vlm or atoms."""
    return word.partition(":")[0]
