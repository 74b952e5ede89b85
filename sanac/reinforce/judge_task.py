"""Training of a preview judge: previews of known trajectories, with the detector's verdicts as targets.

Every preview is asked about three prompts: its own, one that differs in a single thing, and one that the finished image
shows or any other. All three train the final head. Potential is trained on the own prompt only, because a generator is
never asked for anything else; clarity where what the detector sees in the preview is what it sees in the end.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sanac.judge.detections import Detection
from sanac.judge.metadata import GenEvalTask, parse_task
from sanac.judge.preview_judge import HEADS, PreviewJudge
from sanac.judge.shapes import SURE
from sanac.reinforce.trajectories import Trajectories
from sanac.shapes.prompts import Content, Prompt, contents, phrasings, split_of
from sanac.shapes.words import TAGS
from sanac.train.task import WholeBatches

T = TypeVar("T")
_TRIES = 24  # contents that are tried before no prompt is found that an image shows
_CLARITY, _POTENTIAL, _FINAL = range(len(HEADS))


@dataclass
class PreviewJudgeTask(WholeBatches):
    """Cross-entropy of the three heads on random previews of all trajectories."""

    network: PreviewJudge
    vae: nn.Module
    trajectories: Sequence[Trajectories]
    prompts: Sequence[Prompt]  # that the trajectories' numbers name
    batch_size: int = 64
    compiled: bool = False
    shown: str = "previews"
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Number all runs."""
        counts = [len(one.prompts) for one in self.trajectories]
        self._starts = [0, *map(int, np.cumsum(counts))]

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The judge."""
        return {"judge": self.network}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"preview judge {data_identity(self.trajectories)} {self.batch_size} {self._starts} {self.network.shape}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss of one batch."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        drawn = [self._draw(rng) for _ in range(self.batch_size)]
        device = next(self.network.parameters()).device
        latents = torch.stack([one.guesses[run, step].float() for one, run, step in drawn]).to(device)
        noise = torch.tensor([float(one.noise[step]) for one, _, step in drawn], device=device)
        asked = [self._asked(one, run, rng) for one, run, _ in drawn]
        words = torch.stack([self.network.encode([prompt.text for prompt in three]) for three in asked]).to(device)
        targets, weights = self._targets(drawn, asked)
        with torch.no_grad():
            images = as_bytes(self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0])
        logits = self.network(images, noise, words)
        how = {"weight": weights.to(device), "reduction": "sum"}
        lost: Tensor = nn.functional.binary_cross_entropy_with_logits(logits, targets.to(device), **how)
        return lost / weights.sum()

    def _draw(self, rng: np.random.Generator) -> tuple[Trajectories, int, int]:
        """A random run at a random step, the finished image among them."""
        number = int(rng.integers(self._starts[-1]))
        place = int(np.searchsorted(self._starts, number, side="right")) - 1
        one = self.trajectories[place]
        return one, number - self._starts[place], int(rng.integers(len(one.noise)))

    def _asked(self, one: Trajectories, run: int, rng: np.random.Generator) -> list[Prompt]:
        """The prompts to ask about: the own one, one that differs in a single thing, one that is shown or any other."""
        own = self.prompts[int(one.prompts[run])]
        near = _choice(neighbours(own.content), rng)
        other = self._true(one, run, rng) or _choice(familiar(str(rng.choice(TAGS))), rng)
        return [own, phrased(near, rng), phrased(other, rng)]

    def _true(self, one: Trajectories, run: int, rng: np.random.Generator) -> Content | None:
        """A content that the finished image shows; None if none was found soon enough, and for half of the images."""
        shown = {seen.label for seen in sure(one.detections(run, -1))}
        if rng.random() < 0.5 or not shown:
            return None
        for _ in range(_TRIES):
            content = _choice(familiar(str(rng.choice(TAGS))), rng)
            if {item.shape for item in content.wanted} <= shown and one.correct(run, -1, task_of(content)):
                return content
        return None

    def _targets(
        self, drawn: Sequence[tuple[Trajectories, int, int]], asked: Sequence[Sequence[Prompt]]
    ) -> tuple[Tensor, Tensor]:
        """(targets, weights), each (previews, prompts, heads); a weight of 0 leaves a target out."""
        targets = torch.zeros(len(drawn), 3, len(HEADS))
        weights = torch.zeros_like(targets)
        for row, ((one, run, step), three) in enumerate(zip(drawn, asked, strict=True)):
            targets[row, 0, _CLARITY] = float(settled(one, run, step))
            targets[row, 0, _POTENTIAL] = float(one.correct(run, -1, task_of(three[0].content)))
            for place, prompt in enumerate(three):
                targets[row, place, _FINAL] = float(one.correct(run, step, task_of(prompt.content)))
        weights[:, 0, _CLARITY], weights[:, 0, _POTENTIAL], weights[:, :, _FINAL] = 0.5, 1.0, 0.5
        return targets, weights


def data_identity(trajectories: Sequence[Trajectories]) -> str:
    """A digest of the finished latents of some trajectories."""
    found = hashlib.sha256()
    for one in trajectories:
        found.update(one.guesses[:, -1].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def settled(one: Trajectories, run: int, step: int) -> bool:
    """Whether a preview shows the same things as the finished image: as many of each shape and colour."""
    first, last = (Counter((seen.label, seen.color) for seen in sure(one.detections(run, at))) for at in (step, -1))
    return first == last


def sure(detections: Sequence[Detection]) -> list[Detection]:
    """The detections that count."""
    return [one for one in detections if one.score > SURE]


def as_bytes(images: Tensor) -> Tensor:
    """Decoded images in -1..1 as they are once they were stored: in 256 steps."""
    bytes_: Tensor = ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
    return bytes_


@cache
def task_of(content: Content) -> GenEvalTask:
    """What a content asks for; its wording doesn't matter."""
    return parse_task(phrasings(content)[0].metadata)


@cache
def familiar(tag: str) -> tuple[Content, ...]:
    """The contents of a task that training may show."""
    return tuple(content for content in contents(tag) if not content.held_out)


@cache
def neighbours(content: Content) -> tuple[Content, ...]:
    """The contents of the same task that differ in one thing, or have their two items' colours or places swapped."""
    return tuple(other for other in familiar(content.tag) if other != content and _distance(content, other) <= 1)


def _distance(one: Content, other: Content) -> int:
    """The number of things that differ."""
    pairs = list(zip(one.wanted, other.wanted, strict=True))
    differ: int = sum(
        getattr(mine, name) != getattr(theirs, name) for mine, theirs in pairs for name in ("shape", "color", "count")
    )
    colors = [item.color for item in one.wanted]
    swapped = [item.color for item in other.wanted] == colors[::-1] and all(a.shape == b.shape for a, b in pairs)
    differ = min(differ, 1 if swapped and len(colors) == 2 and None not in colors else differ)
    return differ + (one.relation != other.relation)


def phrased(content: Content, rng: np.random.Generator) -> Prompt:
    """One of the content's training prompts."""
    return _choice(_training_prompts(content), rng)


@cache
def _training_prompts(content: Content) -> tuple[Prompt, ...]:
    return tuple(prompt for prompt in phrasings(content) if split_of(prompt) == "train")


def _choice(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
