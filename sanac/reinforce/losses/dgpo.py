"""DGPO: DPO for groups (2510.08425). All samples of a prompt count, by how much better they are than its mean.

    w = sigmoid(beta/K sum_i A_i (L_i - L_i^ref)),  without gradient, one per prompt
    loss = mean_i w A_i L_i + kl mean |output - output^ref|^2

With two samples and advantages 1 and -1 its gradient is DPO's, divided by beta.
"""

import torch
from torch import Tensor

from sanac.reinforce.losses.prediction import Prediction

LARGEST = 5.0  # advantage


def advantages(scores: Tensor) -> Tensor:
    """Scores (prompts, samples) by their group's mean and deviation; 0 for groups whose scores are equal."""
    centred = scores - scores.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    scaled = centred / deviation.clamp(min=torch.finfo(scores.dtype).eps)
    return torch.where(deviation > 1e-6, scaled, torch.zeros_like(scaled)).clamp(-LARGEST, LARGEST)


def dgpo(policy: Prediction, reference: Prediction, advantage: Tensor, beta: float, kl: float = 0.0) -> Tensor:
    """The loss of groups (prompts, samples) with these advantages."""
    gained = (advantage * (policy.error - reference.error)).mean(dim=1, keepdim=True)
    weight = torch.sigmoid(beta * gained).detach()
    loss = (weight * advantage * policy.error).mean()
    return loss + kl * policy.distance(reference) if kl else loss
