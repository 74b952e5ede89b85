"""NFT: the policy moves towards good samples and away from bad ones on the forward process alone (2509.16117).

    r = clip(A, -5, 5)/10 + 1/2,   o+ = b o + (1 - b) o^old,   o- = (1 + b) o^old - b o
    loss = r |o+ - target|^2 / w+ + (1 - r) |o- - target|^2 / w-,   w = mean |o - target| without gradient

`o` is the network's output; only for generators whose error is a squared distance of it to a target.
"""

import torch
from torch import Tensor

from sanac.reinforce.losses.dgpo import LARGEST
from sanac.reinforce.losses.prediction import Prediction


def nft(policy: Prediction, old: Prediction, target: Tensor, advantage: Tensor, mix: float = 1.0) -> Tensor:
    """The loss of groups (prompts, samples) with targets of the network's output."""
    better = advantage.clamp(-LARGEST, LARGEST) / (2 * LARGEST) + 0.5
    fixed = old.output.detach()
    towards = mix * policy.output + (1 - mix) * fixed
    away = (1 + mix) * fixed - mix * policy.output
    return (better * _weighted(towards, target) + (1 - better) * _weighted(away, target)).mean() / mix


def _weighted(output: Tensor, target: Tensor) -> Tensor:
    """Squared distances (prompts, samples), each by its own mean absolute distance."""
    missed = (output - target).flatten(2)
    weight = missed.detach().abs().mean(dim=2).clamp(min=torch.finfo(missed.dtype).eps)
    return missed.square().mean(dim=2) / weight
