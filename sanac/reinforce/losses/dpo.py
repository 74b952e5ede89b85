"""DPO: of two samples of a prompt, the better one becomes more likely than the worse one, against a reference.

    loss = -log sigmoid(-beta/2 m),   m = (L_w - L_w^ref) - (L_l - L_l^ref)

Left alone, the margin also grows by making both worse. The safeguard (SDPO, 2511.03317) scales the loser's gradient so
that, to first order, a step never raises the winner's error: with g = dL/d output of each,

    lambda = clip((1 - mu) |g_w|^2 / <g_w, g_l>, 0, 1) if <g_w, g_l> > 0, else 1

and L_l is replaced by lambda L_l + (1 - lambda) stopgrad(L_l): the value stays.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sanac.reinforce.losses.prediction import Prediction


def dpo(policy: Prediction, reference: Tensor, beta: float, mu: float | None = 0.5) -> Tensor:
    """The loss of pairs (prompts, 2), the winner first; `reference`: its errors. `mu`: None turns the safeguard off."""
    winner, loser = policy.error.unbind(dim=1)
    if mu is not None:
        share = safeguard(policy.slope, mu)
        loser = share * loser + (1 - share) * loser.detach()
    rewards = implicit_reward(torch.stack([winner, loser], dim=1), reference.detach(), beta)
    return -functional.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()


def safeguard(slope: Tensor, mu: float) -> Tensor:
    """The share of each loser's gradient that is kept (prompts,)."""
    winner, loser = slope.flatten(2).unbind(dim=1)
    along = (winner * loser).sum(dim=1)
    kept = ((1 - mu) * winner.square().sum(dim=1) / along.clamp(min=torch.finfo(along.dtype).tiny)).clamp(0, 1)
    return torch.where(along > 0, kept, torch.ones_like(kept))


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """What the policy pays for each sample, by its errors: beta/2 (L^ref - L); 0 where it equals its reference."""
    return beta / 2 * (reference - policy)
