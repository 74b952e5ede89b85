"""How often a judge agrees with the labels of prompts that it wasn't trained on, with intervals."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sanac.judge.intervals import Interval, PromptScore, clustered_share
from sanac.judge.preview_judge import HEADS, PreviewJudge
from sanac.reinforce.judge_task import Examples, logits_of

FINISHED = "finished"  # the final head on finished images alone
MEASURED = (*HEADS, FINISHED)
_TOGETHER = 64  # images per forward pass


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a judge: what it says and what the label says, both as probabilities of yes."""

    head: str
    prompt: str
    said: float
    label: float
    noise: float = 0.0  # of the image; 0: it is finished


@dataclass(frozen=True, slots=True)
class Agreement:
    """A head's agreement with the labels."""

    share: Interval  # of the answers that agree, with prompts as the independent observations
    yes: float  # share of the labels that are yes
    answers: int

    @property
    def constant(self) -> float:
        """The agreement of a judge that always gives the more frequent answer."""
        return max(self.yes, 1 - self.yes)

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        share = {"agreement": self.share.to_json(), "constant": self.constant}
        return {**share, "labels_yes": self.yes, "answers": self.answers}


def kept_back(prompts: Iterable[str], share: float) -> frozenset[str]:
    """The prompts to keep from training, by their digests: a share of them, at least one, and never all."""
    different = sorted(set(prompts), key=lambda text: hashlib.sha256(text.encode()).digest())
    count = min(max(1, math.floor(share * len(different))), len(different) - 1)
    return frozenset(different[:count])


def agreements(answers: Iterable[Answer]) -> dict[str, Agreement]:
    """The agreement of each head that was asked, and of the final head on finished images where there are previews.

    Labels of exactly one half say neither yes nor no.
    """
    by_head: dict[str, dict[str, list[Answer]]] = {}
    for one in answers:
        heads = (one.head, FINISHED) if one.head == "final" and not one.noise else (one.head,)
        for head in heads if one.label != 0.5 else ():
            by_head.setdefault(head, {}).setdefault(one.prompt, []).append(one)
    found = {head: _agreement(by_head[head]) for head in MEASURED if head in by_head}
    if FINISHED in found and found[FINISHED].answers == found["final"].answers:
        del found[FINISHED]
    return found


def _agreement(by_prompt: Mapping[str, Sequence[Answer]]) -> Agreement:
    scores = [
        PromptScore("", prompt, sum((one.said > 0.5) == (one.label > 0.5) for one in some), len(some))
        for prompt, some in by_prompt.items()
    ]
    every = [one for some in by_prompt.values() for one in some]
    return Agreement(clustered_share(scores), sum(one.label > 0.5 for one in every) / len(every), len(every))


def answers_of(network: PreviewJudge, examples: Examples) -> list[Answer]:
    """A preview judge's answers about everything that was kept from training."""
    network.eval()
    found = []
    for batch in examples.held_out(_TOGETHER):
        with torch.no_grad():
            said = logits_of(network, batch).sigmoid().cpu()[:, 0]
        targets, weights = batch.targets[:, 0], batch.weights[:, 0]
        for row, (prompt, *_) in enumerate(batch.prompts):
            for place, head in enumerate(HEADS):
                if weights[row, place] > 0:
                    answer = (float(said[row, place]), float(targets[row, place]), float(batch.noise[row]))
                    found.append(Answer(head, prompt, *answer))
    return found
