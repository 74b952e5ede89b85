"""Trajectories to train and measure judges on: what each step promised, what it became, and what the detector saw.

A trajectory holds the guess of the finished latents at every step, with what the detector finds in its image, and the
generator's states behind some blocks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.judge.detections import Detection
from sanac.judge.geneval import judge
from sanac.judge.metadata import GenEvalTask
from sanac.judge.shapes import SHAPES_RULES, look
from sanac.judge.state_judge import mean_embedding
from sanac.nn.save_tensors import save_tensors
from sanac.nn.stepwise import Noise
from sanac.runtime.stepwise import StepwiseSana
from sanac.shapes.words import COLORS, SHAPES

MOST_SEEN = 12  # detections kept of an image; no prompt asks for more than four items
_SHAPES, _COLORS = tuple(SHAPES), tuple(COLORS)


@dataclass(frozen=True)
class Runs:
    """Images of one generator at some of its steps, the finished image last, and what the detector saw in them."""

    guesses: Tensor  # (runs, steps, channels, height, width): latents in half precision, or pixels as bytes
    seen: Tensor  # (runs, steps, MOST_SEEN, 7): shape, colour, score, box; shape -1: nothing
    noise: Tensor  # (steps,): noise level of the state that a guess was made from; the finished image has 0
    prompts: Tensor  # (runs,): numbers of the prompts

    def detections(self, run: int, step: int) -> list[Detection]:
        """What the detector saw in an image."""
        rows: NDArray[np.float32] = self.seen[run, step].numpy()
        return [_detection(row) for row in rows if row[0] >= 0]

    def correct(self, run: int, step: int, task: GenEvalTask) -> bool:
        """The detector's verdict on an image for a task."""
        return judge(task, self.detections(run, step), SHAPES_RULES).correct


@dataclass(frozen=True)
class Trajectories(Runs):
    """Runs of SANA with its states: the guesses are latents."""

    states: Tensor  # (runs, steps - 1, taps, tokens, width), half precision; as many as there are taps
    caption: Tensor  # (runs, width): mean of the prompt's embeddings


def gather(
    generator: StepwiseSana,
    prompts: Sequence[str],
    numbers: Sequence[int],
    seeds: Sequence[int],
    file: Path,
    reporter: Reporter,
) -> Trajectories:
    """The trajectories of these prompts, known by `numbers`, and seeds; read from `file` if it exists."""
    if not file.exists():
        reporter.begin("generating", len(prompts), "images")
        parts = []
        for start in range(0, len(prompts), generator.sampling.batch):
            some = slice(start, start + generator.sampling.batch)
            parts.append(_gather(generator, prompts[some], numbers[some], seeds[some]))
            reporter.advance(len(prompts[some]))
        reporter.end()
        save_tensors(dict(_joined(parts)), ConfinedPath(file.parent) / file.name)
    return Trajectories(**load_file(file))


def _joined(parts: Sequence[Trajectories]) -> Iterator[tuple[str, Tensor]]:
    for one in fields(Trajectories):
        tensors = [getattr(part, one.name) for part in parts]
        yield one.name, tensors[0] if one.name == "noise" else torch.cat(tensors)


def _gather(
    generator: StepwiseSana, prompts: Sequence[str], numbers: Sequence[int], seeds: Sequence[int]
) -> Trajectories:
    images = generator.start(prompts, [Noise(seed) for seed in seeds])
    guesses, seen, noise, states = [], [], [], []
    while images.done < images.steps:
        noise.append(images.noise)
        images.advance()
        last = images.done == images.steps
        assert images.guess is not None
        guesses.append(images.guess)
        seen.append(seen_in(images.preview()))
        states.append(torch.stack([images.states[block] for block in generator.taps], dim=1).half().cpu())
        if last:
            guesses.append(images.latents)
            seen.append(seen_in(images.finish()))
    noise.append(0.0)
    return Trajectories(
        torch.stack([one.half().cpu() for one in guesses], dim=1),
        torch.stack(seen, dim=1),
        torch.tensor(noise),
        torch.tensor(list(numbers)),
        torch.stack(states, dim=1),
        mean_embedding(*images.embeddings).float().cpu(),
    )


def seen_in(pictures: NDArray[np.uint8]) -> Tensor:
    """What the detector sees in some images, as `Runs.seen` keeps it: (images, MOST_SEEN, 7)."""
    found = torch.full((len(pictures), MOST_SEEN, 7), -1.0)
    for row, picture in enumerate(pictures):
        best = sorted(look(picture), key=lambda one: -one.score)[:MOST_SEEN]
        for place, one in enumerate(best):
            color = _COLORS.index(one.color) if one.color in _COLORS else -1
            found[row, place] = torch.tensor([_SHAPES.index(one.label), color, one.score, *one.box])
    return found


def _detection(row: NDArray[np.float32]) -> Detection:
    shape, color, score, *box = map(float, row)
    left, top, right, bottom = box
    name = _COLORS[int(color)] if color >= 0 else None
    return Detection(_SHAPES[int(shape)], score, (left, top, right, bottom), name)
