"""Turns the MODEL word into an opened model; asks before it downloads, and only on a terminal."""

from typing import TYPE_CHECKING

import click

from sanac.cli.options import Common, StageOptions, interactive

if TYPE_CHECKING:
    from collections.abc import Callable

    from sanac.core.artifact.model import Model


def open_word(word: str, common: Common) -> "Model":
    """The model that `word` names."""
    from sanac.core.artifact.model import open_model
    from sanac.core.checkpoint.locate import NotDownloaded, download, locate

    try:
        located = locate(word)
    except NotDownloaded as missing:
        if not interactive(common) or not click.confirm(f"{missing.repo} is not here. Download it now?", err=True):
            raise
        located = download(missing.repo, missing.revision)
    opened = open_model(located)
    for note in opened.transformer.weights.notes if opened.transformer.weights else ():
        common.reporter.note(note)
    return opened


def starting_word(options: StageOptions, common: Common) -> str:
    """MODEL for a verb that starts from the source and was given none."""
    from sanac.core.artifact.workspace import read_workspace, starting_model

    word, reason = starting_model(read_workspace(options.workspace))
    common.reporter.note(f"model: {word} ({reason})")
    return word


def before_rerun(
    word: str, opened: "Model", stage: str, common: Common, again: "Callable[[Model], bool]" = lambda _: True
) -> "tuple[str, Model]":
    """The newest artifact; or what it was made from by this very stage, if it would be done again: a rerun as typed."""
    from pathlib import Path

    from sanac.core.artifact.staging import origin_of

    while opened.manifest and opened.manifest.stage == stage and again(opened):
        before = origin_of(opened.located.path)
        if not before or not Path(before).exists():
            break
        common.reporter.note(f"{word} is what {stage} made: going on from {before}, which it was made from")
        word, opened = before, open_word(before, common)
    return word, opened


def newest_word(options: StageOptions, common: Common) -> str:
    """MODEL for a verb that goes on from the newest artifact and was given none."""
    from sanac.core.artifact.workspace import newest_artifact, read_workspace

    word = newest_artifact(read_workspace(options.workspace))
    common.reporter.note(f"model: {word} (the newest artifact in {options.workspace})")
    return word
