"""Settings of `sanac judge samples` and `sanac reinforce`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance, Order, Steps, Temperature
from sanac.core.settings import Naming, Option, RunSettings
from sanac.core.training_options import MEMORY, TRAINING, Checkpointing, Ema, Optimizer, Precision
from sanac.core.write.settings import StageSettings
from sanac.judge.words import check_word

_SAMPLES, _LOSS = "Sampling options", "Loss options"


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(RunSettings):
    """How images are sampled and judged before a generator learns from them."""

    TITLE: ClassVar[str] = _SAMPLES

    prompts: Annotated[
        Path | None,
        Option("A text file with a prompt per line.", "FILE", "the bundled 100; of the shapes world 256"),
    ] = None
    num_prompts: Annotated[int | None, Option("How many of the prompts.", "N", "all", ge=1)] = None
    verifier: Annotated[
        str | None,
        Option("What scores the images: shapes, or judge:, clip:, vlm: or atoms:MODEL.", "NAME", check=check_word),
    ] = None
    each: Annotated[int, Option("Images per prompt.", "K", ge=2, le=256)] = 8
    steps: Steps = None
    guidance: Guidance = 4.5
    order: Order = "confidence"
    temperature: Temperature = 1.0
    batch: Annotated[int | None, Option("Images per sampling batch.", "N", "as many as fit, at most 16", ge=1)] = None
    backend: ClassVar[str] = "torch"


@dataclass(frozen=True, kw_only=True)
class JudgeSamplesSettings(SamplingSettings):
    """Sample each prompt several times with MODEL, score the images, and keep both for `sanac reinforce`.

    A prompt whose images all score alike teaches nothing: such prompts are counted. A stopped run goes on where it was;
    --part lets several processes share the prompts of one folder.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac judge samples sanac:tokens --verifier judge:sanac:tiny --out samples",
        "sanac judge samples ./pruned --prompts mine.txt --verifier vlm:VLM --each 8 --out samples",
        "sanac judge samples ./pruned --verifier judge:sanac:tiny --part 2/4 --out samples",
    )

    out: Annotated[Path, Option("Where the samples go.", "DIR", recipe=False)] = Path("samples")
    part: Annotated[
        str, Option("This process takes every N-th prompt: I/N.", "I/N", recipe=False, affects_result=False)
    ] = "1/1"
    fresh: Annotated[bool, Option("Discard what is in --out.", recipe=False)] = False

    @property
    def share(self) -> tuple[int, int]:
        """Which part this process takes, from 0, and of how many."""
        first, _, count = self.part.partition("/")
        return int(first) - 1, int(count)

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """A missing verifier, and a part that is none."""
        if self.verifier is None:
            yield "verifier", f"{name('verifier')} is missing: what is to score the images?"
        first, _, count = self.part.partition("/")
        if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count) <= 10_000):
            yield "part", f"{name('part')} is {self.part!r}, not one such as 2/4"
        yield from super().contradictions(name)


@dataclass(frozen=True, kw_only=True)
class ReinforceSettings(StageSettings, SamplingSettings):
    """Train MODEL on its own images, by what a verifier says of them; no labelled data is needed.

    rft trains on accepted images. dpo makes the best image of a prompt likelier than its worst, dgpo and nft use all
    images of a prompt. Each further round samples with the model that the round before made. MODEL is a SANA model or a
    token generator. Ctrl-C saves the state; the same command continues.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac reinforce ./pruned --loss dpo --verifier judge:sanac:tiny",
        "sanac reinforce ./pruned --loss dgpo --samples samples --rounds 2 --verifier vlm:VLM",
        "sanac reinforce sanac:tokens --loss rft --verifier judge:sanac:tiny --out taught",
    )

    loss: Annotated[Literal["rft", "dpo", "dgpo", "nft"], Option("The loss.", "NAME")]
    samples: Annotated[
        Path | None, Option("Samples of `sanac judge samples`, for the first round.", "DIR", "sampled now")
    ] = None
    rounds: Annotated[int, Option("Rounds of sampling and training.", "N", ge=1, le=100)] = 1
    updates: Annotated[int, Option("Optimizer steps of a round.", "N", ge=1, group=TRAINING)] = 100
    prompts_per_step: Annotated[int, Option("Prompts per optimizer step.", "N", ge=1, group=TRAINING)] = 16
    learning_rate: Annotated[
        float | None, Option("Peak learning rate.", "RATE", "0.01 / width", gt=0, group=TRAINING)
    ] = None
    beta: Annotated[
        float | None,
        Option(
            "How far the model may leave its reference: less is further.",
            "BETA",
            "by model and loss",
            gt=0,
            group=_LOSS,
        ),
    ] = None
    accept: Annotated[
        float | None,
        Option("rft: the score from which on an image is accepted.", "SCORE", "the verifier's verdict", group=_LOSS),
    ] = None
    accepted: Annotated[int, Option("rft: accepted images per prompt, at most.", "N", ge=1, group=_LOSS)] = 2
    safeguard: Annotated[
        float,
        Option(
            "dpo: least share of a step that lowers the winner's error; 0 turns it off.",
            "MU",
            ge=0,
            lt=1,
            group=_LOSS,
        ),
    ] = 0.5
    kl: Annotated[float, Option("dgpo: weight of the distance to the reference.", "WEIGHT", ge=0, group=_LOSS)] = 0.0
    reward: Annotated[
        float,
        Option("Weight of the judge's own gradient (judge:MODEL only); 0: none.", "WEIGHT", ge=0, group=_LOSS),
    ] = 0.0
    lora: Annotated[
        int | None, Option("Train low-rank adapters only, then merge them.", "RANK", ge=1, group=TRAINING)
    ] = None
    optimizer: Optimizer = "adamw"
    ema: Ema = 0.95
    precision: Precision = None
    micro_batch: Annotated[
        int | None,
        Option("Prompts per pass; a step takes as many passes as it needs.", "N", "as many as fit", ge=1, group=MEMORY),
    ] = None
    checkpointing: Checkpointing = False
    save_every: Annotated[int, Option("Steps between two checkpoints.", "N", ge=1, group=TRAINING)] = 50

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Constants of another loss, and rounds that can't be judged."""
        for option, loss in (("accept", "rft"), ("accepted", "rft"), ("safeguard", "dpo"), ("kl", "dgpo")):
            if option in self.typed and self.loss != loss:
                yield option, f"{name(option)} requires {name('loss')} {loss}"
        if self.verifier is None and (self.samples is None or self.rounds > 1 or self.reward):
            yield "verifier", f"{name('verifier')} is missing: what is to score the images?"
        if self.reward and self.verifier and not self.verifier.startswith("judge:"):
            yield "reward", f"{name('reward')} requires {name('verifier')} judge:MODEL, which has a gradient"
        yield from super().contradictions(name)
