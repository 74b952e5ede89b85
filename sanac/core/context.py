"""What a verb is called with besides its settings, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.staging import origin_of
from sanac.core.artifact.workspace import newest_artifact, read_workspace, starting_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.view import Show, nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished verb."""

    status: str  # ok, cached, failed (the verdict is no), error
    data: Mapping[str, Any] = field(default_factory=dict)  # for --json
    out: Path | None = None
    view: Any = None  # the verb's own result: a report, scores, a plan
    show: Show = nothing  # lines and tables for people
    annotations: tuple[str, ...] = ()  # lines for a CI system, printed as they are

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.status in {"ok", "cached"}


def open_word(word: str) -> Model:
    """The model that a word names; it is never downloaded here."""
    return open_model(locate(word))


@dataclass(frozen=True)
class Context:
    """Who is told of progress, and how models are opened."""

    reporter: Reporter = NULL_REPORTER
    open_model: Callable[[str], Model] = open_word
    training_samples: Callable[..., Any] | None = None  # generates images during training
    reuse_comparisons: bool = False  # whether a comparison of the very same files need not be repeated

    def open(self, word: str) -> Model:
        """The model that a word names, with the notes on its weights."""
        opened = self.open_model(word)
        for note in opened.transformer.weights.notes if opened.transformer.weights else ():
            self.reporter.note(note)
        return opened

    def open_source(self, word: str | None, workspace: Path) -> tuple[str, Model]:
        """The word and its model; without a word the workspace's source."""
        if word is None:
            word, reason = starting_model(read_workspace(workspace))
            self.reporter.note(f"model: {word} ({reason})")
        return word, self.open(word)

    def open_newest(
        self, word: str | None, workspace: Path, stage: str, again: Callable[[Model], bool] | None
    ) -> tuple[str, Model]:
        """The word and its model; without a word the workspace's newest artifact.

        Where `again` says that `stage` would run on its own output, the model that it was made from: a rerun as typed.
        """
        if word is not None:
            return word, self.open(word)
        word = newest_artifact(read_workspace(workspace))
        self.reporter.note(f"model: {word} (the newest artifact in {workspace})")
        opened = self.open(word)
        while again and opened.manifest and opened.manifest.stage == stage and again(opened):
            before = origin_of(opened.located.path)
            if not before or not Path(before).exists():
                break
            self.reporter.note(f"{word} is an output of {stage}: using {before}, which it was made from")
            word, opened = before, self.open(before)
        return word, opened
