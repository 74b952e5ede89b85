"""Reward guidance: a judge's -log P(yes) of the image that a prediction points at, with a real gradient.

The gradient runs from the judge through the decoder and the predicted sample into the network. The judge knows how
noisy what it sees is, and is asked for the potential of a preview.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sanac.judge.preview_judge import HEADS, PreviewJudge
from sanac.reinforce.learner import Learner, Noising
from sanac.reinforce.losses.prediction import Prediction

_POTENTIAL = HEADS.index("potential")


@dataclass(frozen=True)
class RewardGuidance:
    """A judge, and the weight of what it says in the loss."""

    judge: PreviewJudge
    weight: float

    def loss(
        self, learner: Learner, prediction: Prediction, samples: Tensor, prompts: Sequence[str], noising: Noising
    ) -> Tensor:
        """The weighted mean of -log P(yes) over all samples."""
        side, count = self.judge.shape.side, samples.shape[1]
        images = learner.images(prediction, samples, noising)
        if images.shape[2:] != (side, side):
            images = nn.functional.interpolate(images, (side, side), mode="bilinear", antialias=True)
        words = self.judge.encode(prompts).repeat_interleave(count, dim=0).to(images.device)[:, None]
        levels = noising.level.repeat_interleave(count).to(images)
        logits = self.judge(images.clamp(-1, 1), levels, words)[:, 0, _POTENTIAL]
        return -self.weight * nn.functional.logsigmoid(logits).mean()


def frozen(judge: PreviewJudge, device: torch.device) -> PreviewJudge:
    """A judge that passes gradients and isn't trained."""
    judge.to(device).eval().requires_grad_(requires_grad=False)
    return judge
