"""What a verb is called with besides its settings, and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core.artifact.model import Model, not_sana
from sanac.core.artifact.staging import origin_of
from sanac.core.artifact.token_model import AnyModel, open_any_model
from sanac.core.artifact.workspace import newest_artifact, read_workspace, starting_model
from sanac.core.checkpoint.locate import TINY, NotDownloaded, locate
from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.view import Show, nothing

ORDER = (
    "convert",
    "prune",
    "grow",
    "finetune",
    "reinforce",
    "quantize",
    "schedule",
    "export",
)  # of the stages that write artifacts


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


def open_word(word: str) -> AnyModel:
    """The model that a word names; it is never downloaded here."""
    return open_any_model(locate(word))


@dataclass(frozen=True)
class Context:
    """Who is told of progress, and how models are opened."""

    reporter: Reporter = NULL_REPORTER
    open_model: Callable[[str], AnyModel] = open_word
    training_samples: Callable[..., Any] | None = None  # generates images during training
    subset_scorer: Callable[..., Any] | None = None  # judges a model without some of its blocks by its images
    reuse_comparisons: bool = False  # whether a comparison of the very same files need not be repeated

    def open(self, word: str) -> Model:
        """The SANA model that a word names, with the notes on its weights; UsageError for a token generator."""
        opened = self.open_any(word)
        if not isinstance(opened, Model):
            raise not_sana(opened.located)
        return opened

    def open_any(self, word: str) -> AnyModel:
        """The model that a word names, SANA or a token generator, with the notes on its weights."""
        opened = self.open_model(word)
        for note in opened.transformer.weights.notes if opened.transformer.weights else ():
            self.reporter.note(note)
        return opened

    def open_source(self, word: str | None, workspace: Path) -> tuple[str, Model]:
        """The word and its model; without a word the workspace's source."""
        if word is None:
            word, reason = starting_model(read_workspace(workspace))
            self.reporter.note(f"model: {word} ({reason})")
            try:
                return word, self.open(word)
            except NotDownloaded as error:
                hint = f"name a MODEL, such as {TINY}; or {error.hint.partition(';')[0].strip()}"
                message = f"no MODEL was given, and {word} is not on this machine"
                raise MissingResource(message, why=f"{word} is {reason}", hint=hint) from error
            except UsageError as error:
                hint = f"name a MODEL, such as {TINY}"
                raise UsageError(f"no MODEL was given: {error.message}", why=f"it is {reason}", hint=hint) from error
        return word, self.open(word)

    def open_newest(
        self, word: str | None, workspace: Path, stage: str, again: Callable[[Model], bool] = lambda _: True
    ) -> tuple[str, Model]:
        """The word and its model; without a word the newest artifact that `stage` can start from.

        That is HEAD, or the nearest artifact before it that neither `stage` nor a later one in `ORDER` made: a stage
        that is typed twice never runs on its own output. `again` is asked about HEAD's own outputs of `stage`: False
        lets `stage` run on one of them, because that one has something left to do.
        """
        if word is not None:
            return word, self.open(word)
        head = word = newest_artifact(read_workspace(workspace))
        opened = self.open(word)
        while _made_later(opened, stage) or (_stage_of(opened) == stage and again(opened)):
            before = origin_of(opened.located.path)
            if not before or not Path(before).exists():
                raise UsageError(
                    f"{word} is an output of {_stage_of(opened)}, which {stage} doesn't start from",
                    why=f"it was made from {before}, which is gone"
                    if before
                    else "it doesn't say what it was made from",
                    hint=f"name the model: sanac {stage} MODEL",
                )
            word, opened = before, self.open(before)
        if word == head:
            self.reporter.note(f"model: {word} (the newest artifact in {workspace})")
        else:
            self.reporter.note(f"model: {word} (the newest artifact before {stage}; {head} was made from it)")
        return word, opened


def _stage_of(opened: Model) -> str:
    return opened.manifest.stage if opened.manifest else ""


def _made_later(opened: Model, stage: str) -> bool:
    """Whether a stage that comes after `stage` made this model."""
    made = _stage_of(opened)
    return made in ORDER and ORDER.index(made) > ORDER.index(stage)
