"""sanac in Python: `sanac.open(MODEL)` and the verbs as its methods; the same settings, artifacts and cache as `sanac`.

model = sanac.open("sanac:tiny")
small = model.prune(target_blocks=6, compensate=True).finetune(steps=100, data_free=True)
report = small.verify(against=model)
small.pipeline()("a red circle")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.api_methods import VerbMethods
from sanac.console import ConsoleReporter, shows_progress
from sanac.core.artifact.token_model import AnyModel
from sanac.core.check import Check
from sanac.core.context import Context, Outcome, open_word
from sanac.core.errors import CheckFailed
from sanac.core.family.showo import ShowoArchitecture
from sanac.core.settings import build, settings_of
from sanac.verbs import Verb, make_context

if TYPE_CHECKING:
    from diffusers import SanaPipeline, SanaTransformer2DModel

__all__ = ["Report", "SanaModel", "open"]

WORKSPACE = Path("sanac-out")


@dataclass(frozen=True)
class Report:
    """The outcome of a verb that looks at a model."""

    verb: str
    outcome: Outcome

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.outcome.passed

    @property
    def status(self) -> str:
        """'ok', 'cached', or 'failed' where a check failed."""
        return self.outcome.status

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every value with its limit; empty where the verb has no limits."""
        view = self.outcome.view
        found = view if isinstance(view, tuple) else getattr(view, "figures", ())
        return tuple(one for one in found if isinstance(one, Check))

    @property
    def out(self) -> Path | None:
        """The folder that was written to."""
        return self.outcome.out

    def to_json(self) -> dict[str, Any]:
        """The object that `sanac VERB --json` prints."""
        out = str(self.out) if self.out is not None else None
        return {"status": self.status, "out": out, **self.outcome.data}

    def __str__(self) -> str:
        """The verdict and a line per check."""
        lines = [f"{'ok' if one.passed else 'NO'}  {one.text}" for one in self.checks]
        return "\n".join([f"{self.verb}: {self.status}", *lines])


class SanaModel(VerbMethods):
    """A model on disk, with the verbs of `sanac` as methods. Nothing is loaded until a verb needs it."""

    def __init__(self, word: str, workspace: Path, context: Context, outcome: Outcome | None = None) -> None:
        self.word = word
        self.workspace = workspace
        self.outcome = outcome  # of the verb that made it
        self._context = context

    @cached_property
    def opened(self) -> AnyModel:
        """The model's headers, configs and manifest."""
        return self._context.open_any(self.word)

    @property
    def path(self) -> str:
        """The folder of an artifact; the word that was opened otherwise."""
        return self.word

    @property
    def blocks(self) -> int:
        """Number of transformer blocks; of a token generator its layers."""
        shape = self.opened.architecture
        return shape.layers if isinstance(shape, ShowoArchitecture) else shape.blocks

    @property
    def size(self) -> int:
        """Bytes of all weights on disk."""
        return sum(part.weights.size for part in self.opened.components if part.weights)

    @property
    def cached(self) -> bool:
        """Whether the verb that made it found its result already there."""
        return self.outcome is not None and self.outcome.status == "cached"

    def pipeline(self, device: str | None = None, backend: str = "torch") -> "SanaPipeline":
        """A stock diffusers pipeline of this model; another backend computes with what was exported."""
        from sanac.runtime.pipeline import load_pipeline

        return load_pipeline(self.word, device, backend)

    def transformer(self, device: str | None = None) -> "SanaTransformer2DModel":
        """The transformer as stock diffusers' class."""
        from sanac.runtime.pipeline import load_transformer

        return load_transformer(self.word, device)

    def call(self, verb: Verb, settings: dict[str, Any], others: Sequence[Any] = ()) -> "SanaModel | Report":
        """Run a verb on this model, and on others where it takes several.

        Raises CheckFailed where what it wrote failed its comparison.
        """
        kind = verb.settings_class()
        if "workspace" in settings_of(kind):
            settings = {"workspace": self.workspace, **settings}
        outcome = verb.call((self.word, *map(_word_of, others)), build(kind, settings), self._context)
        if not verb.writes_artifact or settings.get("dry_run"):
            return Report(verb.name, outcome)
        if not outcome.passed:
            hint = f"sanac verify {outcome.out} --against {self.word}"
            why = f"the comparison after {verb.name} failed"
            raise CheckFailed(f"{outcome.out} doesn't compute the same function", why=why, hint=hint)
        return SanaModel(str(outcome.out), self.workspace, self._context, outcome)

    def __repr__(self) -> str:
        """How it was opened."""
        return f"sanac.open({self.word!r})"

    def _repr_html_(self) -> str:
        """Name, depth and size, for notebooks."""
        size = f"{self.size / 1e6:,.2f} MB"
        return f"<code>{self.opened.located.name}</code>: {self.opened.title}, {size}"


def _word_of(model: str | Path | SanaModel) -> str:
    return model.word if isinstance(model, SanaModel) else str(model)


def open(  # noqa: A001 (as a notebook reads it: sanac.open)
    model: str | Path | SanaModel, *, workspace: str | Path = WORKSPACE, progress: bool | None = None
) -> SanaModel:
    """Open a model: a folder, a file, a hub id in the local cache, an artifact, sanac:tiny or sanac:tokens.

    Args:
        model: the model.
        workspace: where artifacts, scores and caches are written: the same as --workspace.
        progress: whether notes and progress are shown; by default on a terminal and in a notebook. Warnings always are.
    """
    shown = shows_progress() if progress is None else progress
    reporter = ConsoleReporter(0 if shown else -1, color=shown)
    context = make_context(reporter, open_word, reuse_comparisons=True)
    word = _word_of(model)
    found = SanaModel(word, Path(workspace), context)
    _ = found.opened  # a wrong name is an error here, not at the first verb
    return found
