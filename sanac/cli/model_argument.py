"""Opens the MODEL word of a command; asks before it downloads, and only on a terminal."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from sanac.cli.options import Common

if TYPE_CHECKING:
    from sanac.core.artifact.token_model import AnyModel


def opener(common: Common) -> "Callable[[str], AnyModel]":
    """A function that opens the model which a word names."""

    def open_word(word: str) -> "AnyModel":
        from sanac.core.artifact.token_model import open_any_model
        from sanac.core.checkpoint.locate import NotDownloaded, download, locate

        try:
            located = locate(word)
        except NotDownloaded as missing:
            question = f"{missing.repo} is not in the local cache. Download it now?"
            if not common.interactive or not click.confirm(question, err=True):
                raise
            located = download(missing.repo, missing.revision)
        return open_any_model(located)

    return open_word
