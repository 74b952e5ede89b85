"""Settings of `sanac analyze` and `sanac prune`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.errors import UsageError
from sanac.core.settings import Naming, Option
from sanac.core.units import parse_count
from sanac.core.write.settings import StageSettings, WriteSettings
from sanac.judge.confirm_options import CONFIRM, ConfirmPrompts, ConfirmVerifier, confirm_contradictions
from sanac.nn.calibration.settings import CalibrationSettings

_SELECTION = "Selection options"
_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", re.ASCII)


def block_ranges(text: str) -> tuple[list[tuple[int, int]], list[str]]:
    """'0-9,50' -> [(0, 9), (50, 50)], and what is wrong with the other words."""
    ranges, problems = [], []
    for word in text.split(","):
        match = _RANGE.fullmatch(word)
        if match is None:
            problems.append(f"{word!r} is not a block or a range")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            problems.append(f"{word.strip()!r} runs backwards")
        else:
            ranges.append((first, last))
    return ranges, problems


def repeated_blocks(ranges: Sequence[tuple[int, int]]) -> list[str]:
    """The complaint about blocks that are in more than one range; none where there are none."""
    pairs = [(one, other) for number, one in enumerate(ranges) for other in ranges[:number]]
    shared = {(max(one[0], other[0]), min(one[1], other[1])) for one, other in pairs}
    found = [f"{first}-{last}" if first < last else f"{first}" for first, last in sorted(shared) if first <= last]
    return [f"block {', '.join(found)} is named more than once"] if found else []


def _check_blocks(text: str) -> None:
    ranges, problems = block_ranges(text)
    if problems:  # without any, the job reports repeated blocks with those that the model doesn't have
        raise UsageError(f"is {text!r}: {'; '.join(problems + repeated_blocks(ranges))}")


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(CalibrationSettings, StageSettings):
    """Watch the stream between MODEL's blocks while it samples, and score each block by how much it changes it.

    The model need not fit in memory: per sampler step its blocks are read one after the other, and the states of all
    prompts are pushed through. A stopped run continues where it was.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac analyze ./SANA1.5_4.8B_1024px_diffusers --num-prompts 20 --timesteps 10",
        "sanac analyze sanac:tiny --metric norm",
        "sanac analyze ./transformer --embeddings captions.safetensors",
        "sanac analyze MODEL --inputs noised --data ./latents",
        "sanac prune MODEL --target-blocks 20 --scores sanac-out/analyze-1a2b3c4d/scores.json",
    )

    metric: Annotated[
        Literal["bi", "norm", "velocity"],
        Option(
            "The metric to show. bi and norm are always measured; velocity leaves out each block in turn.", "METRIC"
        ),
    ] = "bi"
    save_embeddings: Annotated[
        Path | None, Option("Keep the encoded prompts, for --embeddings.", "FILE", recipe=False)
    ] = None


@dataclass(frozen=True, kw_only=True)
class PruneSettings(CalibrationSettings, WriteSettings):
    """Drop blocks of MODEL's transformer and write the rest as a model that stock diffusers loads.

    With --target-blocks, the blocks that matter most stay: found by a search and repaired where that is quick, else
    ranked by --scores or by scores measured on the spot as `sanac analyze` does. Weights are copied tensor by tensor,
    nothing is loaded; the input is not touched. Without MODEL it takes the workspace's source, else $SANAC_MODEL, else
    the released 4.8B model.
    """

    TITLE: ClassVar[str] = "Options"
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("target_blocks", "target_params", "keep"),)
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac prune --target-blocks 20",
        "sanac prune MODEL --target-params 1.6B --scores scores.json",
        "sanac prune sanac:tiny --target-blocks 8 --select search --compensate",
        "sanac prune ./SANA1.5_4.8B_1024px_diffusers --keep 0-9,50-59",
        "sanac prune --keep 0-29 --dry-run",
        "sanac prune MODEL --keep 0,2,4 --transformer-only --out small",
    )

    target_blocks: Annotated[int | None, Option("Number of blocks to keep: the most important ones.", "N", ge=1)] = None
    target_params: Annotated[
        str | None,
        Option("Keep the depth whose parameter count is nearest: 1.6B, 900M.", "COUNT", check=parse_count),
    ] = None
    keep: Annotated[
        str | None,
        Option("Blocks to keep, counted from 0, ends included: 0-9,50-59.", "LIST", check=_check_blocks),
    ] = None
    scores: Annotated[Path | None, Option("Scores that `sanac analyze` wrote.", "FILE", group=_SELECTION)] = None
    select: Annotated[
        Literal["bi", "norm", "velocity", "search"] | None,
        Option(
            "Rank blocks by a score each, or search over subsets.",
            "METHOD",
            "search and --compensate if they take under five minutes, else bi",
            group=_SELECTION,
        ),
    ] = None
    compensate: Annotated[
        bool,
        Option("Repair the remaining blocks in closed form, without training, for the dropped ones.", group=_SELECTION),
    ] = False
    confirm: Annotated[
        Literal["shapes", "prompts"] | None,
        Option(
            "Let images decide between subsets that the search finds nearly equal: of the shapes suite, or of your own "
            "prompts.",
            "SUITE",
            group=CONFIRM,
        ),
    ] = None
    confirm_prompts: ConfirmPrompts = None
    verifier: ConfirmVerifier = None
    images: Annotated[
        int,
        Option(
            "Images per finalist of --confirm; a quarter of them per subset.",
            "N",
            "256; of your own prompts: each equally often, 48 or more",
            ge=48,
            le=4096,
            group=CONFIRM,
        ),
    ] = 256
    protect_first: Annotated[int, Option("Always keep the first K blocks.", "K", ge=0, group=_SELECTION)] = 0
    protect_last: Annotated[int, Option("Always keep the last K blocks.", "K", ge=0, group=_SELECTION)] = 0

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """A search takes no scores."""
        if self.select == "search" and self.scores is not None:
            yield "scores", f"{name('select')} search measures subsets itself: leave {name('scores')} out"
        if self.confirm and (self.keep or self.select not in {None, "search"}):
            yield "confirm", f"{name('confirm')} decides between the subsets of {name('select')} search"
        if not self.confirm and "images" in self.typed:
            yield "images", f"{name('images')} requires {name('confirm')}"
        yield from confirm_contradictions(self.confirm, self.confirm_prompts, self.verifier, name)
        yield from super().contradictions(name)
