"""Settings of `sanac schedule`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sanac.core.settings import Naming, Option, RunSettings
from sanac.core.write.settings import WriteSettings
from sanac.judge.confirm_options import CONFIRM, ConfirmPrompts, ConfirmVerifier, confirm_contradictions
from sanac.judge.words import kind_of
from sanac.nn.calibration.settings import CalibrationSettings, PromptSettings

FRONT = (0.5, 0.33, 0.25, 0.2, 0.125)
STEPS = (20, 12, 10, 8, 6)
UNCONFIRMED_STEPS = 10
_NO_SHARE = ("clip", "shapes")  # verifiers whose scores have no meaningful share: cosines, and 1 + for right images
PROMPTS = 16  # that the velocity's error is measured on


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(PromptSettings, RunSettings, WriteSettings):
    """Find how many blocks and which guidance each sampler step of MODEL needs, and write it with the model.

    The error of the velocity without some blocks proposes a schedule for each number of steps; images decide between
    them, and against the whole model in as few plain steps as cost the same: where those are as good, they are the
    schedule. No weight is changed. Everything that samples the result follows schedule.json.
    """

    TITLE: ClassVar[str] = "Options"
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("budget", "max_loss"),)
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac schedule sanac:tiny --budget 0.2",
        "sanac schedule ./sanac-out/finetune-1a2b3c4d --max-loss 0.01",
        "sanac schedule MODEL --budget 0.25 --confirm none --try-steps 10",
    )

    budget: Annotated[
        float | None,
        Option("Share of the block-forwards of the whole model at its usual steps.", "SHARE", gt=0, le=1),
    ] = None
    max_loss: Annotated[
        float | None,
        Option("Take the cheapest schedule of the front that loses at most this score.", "SCORE", ge=0, le=1),
    ] = None
    confirm: Annotated[
        Literal["shapes", "unseen", "prompts", "none"] | None,
        Option(
            "What decides: the shapes suite, that with unseen contents as tasks, your own prompts, or the velocity's "
            "error alone.",
            "SUITE",
            "shapes where the model has its vocabulary, else none",
            group=CONFIRM,
        ),
    ] = None
    confirm_prompts: ConfirmPrompts = None
    verifier: ConfirmVerifier = None
    images: Annotated[
        int,
        Option(
            "Images per finalist; a quarter of them per candidate.",
            "N",
            "256; of your own prompts: each equally often, 48 or more",
            ge=48,
            le=4096,
            group=CONFIRM,
        ),
    ] = 256
    front: Annotated[
        tuple[float, ...],
        Option("Budgets to search besides --budget.", "SHARE,...", comma=True, gt=0, le=1),
    ] = FRONT
    try_steps: Annotated[
        tuple[int, ...],
        Option(
            "Numbers of sampler steps to try.",
            "N,...",
            "20,12,10,8,6; 10 without confirmation",
            comma=True,
            ge=1,
            le=100,
        ),
    ] = ()
    batch: Annotated[int, Option("Images per batch.", "N", "32; fewer of large images", ge=1, affects_result=False)] = (
        32
    )

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """A loss of score needs scores."""
        if self.max_loss is not None and self.confirm == "none":
            yield (
                "max_loss",
                f"{name('max_loss')} needs scores: leave {name('confirm')} none out, or give {name('budget')}",
            )
        if self.max_loss is not None and self.verifier and kind_of(self.verifier) in _NO_SHARE:
            scale = f"a share of a score from 0 to 1, and scores of {self.verifier} use no such scale"
            yield "max_loss", f"{name('max_loss')} is {scale}: give {name('budget')}, or leave {name('verifier')} out"
        if self.prompts and self.embeddings:
            yield "embeddings", f"{name('prompts')} and {name('embeddings')} contradict each other"
        yield from confirm_contradictions(self.confirm, self.confirm_prompts, self.verifier, name)
        yield from super().contradictions(name)

    def calibration(self) -> CalibrationSettings:
        """The settings of the trajectories that errors are measured on."""
        names = ("prompts", "embeddings", "timesteps", "guidance", "memory_limit", "precision", "yes", "device", "seed")
        found = {name: getattr(self, name) for name in names}
        return CalibrationSettings(
            **found,
            num_prompts=self.num_prompts or (None if self.prompts or self.embeddings else PROMPTS),
            typed=self.typed,
            dry=self.dry_run,
        )
