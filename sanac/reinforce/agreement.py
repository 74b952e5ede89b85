"""How often a judge agrees with the labels of prompts that it wasn't trained on, with intervals."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sanac.judge.intervals import LEVEL, Interval, PromptScore, clustered_share
from sanac.judge.preview_judge import HEADS, PreviewJudge
from sanac.reinforce.judge_task import Examples, logits_of

FINISHED = "finished"  # the final head on finished images alone
MEASURED = (*HEADS, FINISHED)
RESAMPLES = 1000  # of the bootstrap
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
    auc: Interval | None  # probability that an image of a yes scores above one of a no; None without both
    yes: float  # share of the labels that are yes
    answers: int

    @property
    def constant(self) -> float:
        """The agreement of a judge that always gives the more frequent answer."""
        return max(self.yes, 1 - self.yes)

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        found = {"agreement": self.share.to_json(), "constant": self.constant}
        found["auc"] = self.auc.to_json() if self.auc else None
        return {**found, "labels_yes": self.yes, "answers": self.answers}


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
    yes = sum(one.label > 0.5 for one in every) / len(every)
    return Agreement(clustered_share(scores), _auc(list(by_prompt.values())), yes, len(every))


def _auc(by_prompt: Sequence[Sequence[Answer]]) -> Interval | None:
    """The area under the ROC curve, with a bootstrap over prompts; None where all labels are yes, or all are no."""
    prompts = np.repeat(np.arange(len(by_prompt)), [len(some) for some in by_prompt])
    yes = np.array([one.label > 0.5 for some in by_prompt for one in some], np.float64)
    if yes.min() == yes.max():
        return None
    _, score = np.unique([one.said for some in by_prompt for one in some], return_inverse=True)
    rng, count = np.random.default_rng(0), len(by_prompt)
    drawn = [np.bincount(rng.integers(0, count, count), minlength=count)[prompts] for _ in range(RESAMPLES)]
    value, *areas = (_area(score, yes, weights) for weights in (np.ones(len(yes)), *drawn))
    low, high = np.nanquantile(areas, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), LEVEL, count)


def _area(score: NDArray[np.intp], yes: NDArray[np.float64], weights: NDArray[Any]) -> float:
    """The weighted area under the ROC curve, scores given as ranks; equal ones count half; NaN if a side is empty."""
    above, below = (np.bincount(score, weights * side) for side in (yes, 1 - yes))
    pairs = above.sum() * below.sum()
    return float((above * (below.cumsum() - below / 2)).sum() / pairs) if pairs else float("nan")


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
