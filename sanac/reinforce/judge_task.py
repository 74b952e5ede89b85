"""Training of a preview judge: on any examples, and on previews of known runs with the detector's verdicts.

Every preview is asked about three prompts: its own, one that differs in a single thing, and one that the finished image
shows or any other. All three train the final head. Potential is trained on the own prompt only, because a generator is
never asked for anything else; clarity where what the detector sees in the preview is what it sees in the end.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sanac.core.json_files import key_of
from sanac.judge.detections import Detection
from sanac.judge.metadata import GenEvalTask, parse_task
from sanac.judge.preview_judge import HEADS, PreviewJudge
from sanac.judge.shapes import SURE
from sanac.reinforce.trajectories import Runs
from sanac.shapes.prompts import Content, Prompt, contents, phrasings, split_of
from sanac.shapes.words import TAGS
from sanac.train.task import WholeBatches

T = TypeVar("T")
_TRIES = 24  # contents that are tried before no prompt is found that an image shows
_CLARITY, _POTENTIAL, _FINAL = range(len(HEADS))
Show = Callable[[Tensor], Tensor]  # kept guesses -> images (count, 3, side, side) in -1..1


@dataclass(frozen=True)
class Batch:
    """Images, what is asked about each, and the right answers."""

    images: Tensor  # (images, 3, side, side) in -1..1
    noise: Tensor  # (images,)
    prompts: Sequence[Sequence[str]]  # of each image, as many of one as of another
    targets: Tensor  # (images, prompts, heads) in 0..1
    weights: Tensor  # of the targets; a weight of 0 leaves a target out


class Examples(Protocol):
    """What a judge is trained and measured on."""

    @property
    def identity(self) -> str:
        """A digest of all that batches depend on."""

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """A random batch to train on."""

    def held_out(self, count: int) -> Iterator[Batch]:
        """Batches of everything that is kept from training, one prompt to an image."""


@dataclass
class PreviewJudgeTask(WholeBatches):
    """Cross-entropy of the three heads on random examples."""

    network: PreviewJudge
    examples: Examples
    batch_size: int = 64
    compiled: bool = False
    shown: str = "previews"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The judge."""
        return {"judge": self.network}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"preview judge {self.examples.identity} {self.batch_size} {self.network.shape}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss of one batch."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        batch = self.examples.draw(self.batch_size, rng)
        logits, weights = logits_of(self.network, batch), batch.weights.to(batch.images.device)
        how = {"weight": weights, "reduction": "sum"}
        lost: Tensor = nn.functional.binary_cross_entropy_with_logits(logits, batch.targets.to(logits), **how)
        return lost / weights.sum()


def logits_of(network: PreviewJudge, batch: Batch) -> Tensor:
    """The answers of a judge to a batch: logits (images, prompts, heads)."""
    device = batch.images.device
    words = torch.stack([network.encode(some) for some in batch.prompts]).to(device)
    found: Tensor = network(batch.images, batch.noise.to(device), words)
    return found


@dataclass
class RunExamples:
    """Previews of runs with the detector's verdicts; prompts in `kept_back` are for measuring only."""

    show: Show
    runs: Sequence[Runs]
    prompts: Sequence[Prompt]  # that the runs' numbers name
    device: str = "cpu"
    kept_back: frozenset[str] = frozenset()

    @cached_property
    def _places(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(number of the runs, run) of everything to train on, and of everything that is kept back."""
        found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        for place, one in enumerate(self.runs):
            for run, prompt in enumerate(one.prompts.tolist()):
                found[self.prompts[prompt].text in self.kept_back].append((place, run))
        return found

    @cached_property
    def identity(self) -> str:
        """A digest of the finished images, and of what is kept back."""
        return f"{data_identity(self.runs)} {len(self._places[0])} {key_of(sorted(self.kept_back))[:16]}"

    @property
    def right(self) -> float:
        """Share of the finished images that show their own prompts."""
        every = [(self.runs[place], run) for part in self._places for place, run in part]
        tasks = [task_of(self.prompts[int(one.prompts[run])].content) for one, run in every]
        verdicts = [one.correct(run, -1, task) for (one, run), task in zip(every, tasks, strict=True)]
        return sum(verdicts) / len(verdicts)

    def draw(self, count: int, rng: np.random.Generator) -> Batch:
        """A random batch: previews, and three prompts to ask about each."""
        drawn = [self._draw(rng) for _ in range(count)]
        asked = [self._asked(one, run, rng) for one, run, _ in drawn]
        return self._batch(drawn, asked)

    def held_out(self, count: int) -> Iterator[Batch]:
        """Every step of the runs that are kept back, asked about their own prompts."""
        places = ((self.runs[place], run) for place, run in self._places[1])
        every = [(one, run, step) for one, run in places for step in range(len(one.noise))]
        for start in range(0, len(every), count):
            some = every[start : start + count]
            yield self._batch(some, [[self.prompts[int(one.prompts[run])]] for one, run, _ in some])

    def _batch(self, drawn: Sequence[tuple[Runs, int, int]], asked: Sequence[Sequence[Prompt]]) -> Batch:
        guesses = torch.stack([one.guesses[run, step].float() for one, run, step in drawn]).to(self.device)
        noise = torch.tensor([float(one.noise[step]) for one, _, step in drawn])
        targets, weights = self._targets(drawn, asked)
        with torch.no_grad():
            images = self.show(guesses)
        return Batch(images, noise, [[prompt.text for prompt in some] for some in asked], targets, weights)

    def _draw(self, rng: np.random.Generator) -> tuple[Runs, int, int]:
        """A random run at a random step, the finished image among them."""
        place, run = _choice(self._places[0], rng)
        one = self.runs[place]
        return one, run, int(rng.integers(len(one.noise)))

    def _asked(self, one: Runs, run: int, rng: np.random.Generator) -> list[Prompt]:
        """The prompts to ask about: the own one, one that differs in a single thing, one that is shown or any other."""
        own = self.prompts[int(one.prompts[run])]
        near = _choice(neighbours(own.content) or familiar(own.content.tag), rng)
        other = self._true(one, run, rng) or _choice(familiar(str(rng.choice(TAGS))), rng)
        return [own, self._phrased(near, rng) or own, self._phrased(other, rng) or own]

    def _phrased(self, content: Content, rng: np.random.Generator) -> Prompt | None:
        """One of the content's training prompts; None if all of them are kept back."""
        options = [one for one in _training_prompts(content) if one.text not in self.kept_back]
        return _choice(options, rng) if options else None

    def _true(self, one: Runs, run: int, rng: np.random.Generator) -> Content | None:
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
        self, drawn: Sequence[tuple[Runs, int, int]], asked: Sequence[Sequence[Prompt]]
    ) -> tuple[Tensor, Tensor]:
        """(targets, weights), each (previews, prompts, heads); a weight of 0 leaves a target out."""
        targets = torch.zeros(len(drawn), len(asked[0]), len(HEADS))
        weights = torch.zeros_like(targets)
        for row, ((one, run, step), three) in enumerate(zip(drawn, asked, strict=True)):
            targets[row, 0, _CLARITY] = float(settled(one, run, step))
            targets[row, 0, _POTENTIAL] = float(one.correct(run, -1, task_of(three[0].content)))
            for place, prompt in enumerate(three):
                targets[row, place, _FINAL] = float(one.correct(run, step, task_of(prompt.content)))
        weights[:, 0, _CLARITY], weights[:, 0, _POTENTIAL], weights[:, :, _FINAL] = 0.5, 1.0, 0.5
        return targets, weights


def data_identity(runs: Sequence[Runs]) -> str:
    """A digest of the finished images of some runs."""
    found = hashlib.sha256()
    for one in runs:
        found.update(one.guesses[:, -1].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def settled(one: Runs, run: int, step: int) -> bool:
    """Whether a preview shows the same things as the finished image: as many of each shape and colour."""
    first, last = (Counter((seen.label, seen.color) for seen in sure(one.detections(run, at))) for at in (step, -1))
    return first == last


def sure(detections: Sequence[Detection]) -> list[Detection]:
    """The detections that count."""
    return [one for one in detections if one.score > SURE]


def decoded(vae: nn.Module) -> Show:
    """Shows latents: the images that an autoencoder decodes."""
    return lambda latents: as_bytes(vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0])


def from_bytes(pixels: Tensor) -> Tensor:
    """Shows pixels that were kept as bytes."""
    return pixels / 127.5 - 1


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


@cache
def _training_prompts(content: Content) -> tuple[Prompt, ...]:
    return tuple(prompt for prompt in phrasings(content) if split_of(prompt) == "train")


def _choice(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
