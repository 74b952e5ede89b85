"""Laws of the losses: what they are at the start, what swapped pairs do, and how one follows from another."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sanac.reinforce.losses.dgpo import LARGEST, advantages, dgpo
from sanac.reinforce.losses.dpo import dpo, implicit_reward, safeguard
from sanac.reinforce.losses.nft import nft
from sanac.reinforce.losses.prediction import Prediction
from sanac.reinforce.losses.rft import rft

PROMPTS, WIDTH = 5, 6


def targets(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(PROMPTS, samples, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted(weight: Tensor, target: Tensor) -> Prediction:
    """A network whose output is one vector per prompt: errors are squared distances to the samples' targets."""
    output = weight[:, None].expand_as(target)
    missed = output - target
    return Prediction(missed.square().mean(dim=2), 2 * missed.detach() / WIDTH, output)


def start(seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(PROMPTS, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()


def gradient(loss: Callable[[Prediction], Tensor], weight: Tensor, target: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(predicted(weight, target)), weight)
    return found


def test_dpo_begins_at_log_2_with_the_difference_of_the_flow_losses() -> None:
    weight, target, beta = start(), targets(2), 3.0
    policy = predicted(weight, target)
    reference = policy.error.detach()
    assert float(dpo(policy, reference, beta, mu=None).detach()) == pytest.approx(math.log(2))
    found = gradient(lambda one: dpo(one, reference, beta, mu=None), weight, target)
    better, worse = (gradient(lambda one, at=at: one.error[:, at].mean(), weight, target) for at in (0, 1))
    torch.testing.assert_close(found, beta / 4 * (better - worse))
    assert ((weight - found - target[:, 0]).square().sum() < (weight - target[:, 0]).square().sum()).item()


def test_a_step_of_dpo_favours_the_winner() -> None:
    weight, target = start(), targets(2)
    reference = predicted(weight, target).error.detach()
    moved = weight - 0.1 * gradient(lambda one: dpo(one, reference, 3.0, mu=None), weight, target)
    after = predicted(moved, target).error
    margin = (after - reference)[:, 0] - (after - reference)[:, 1]
    assert (margin < 0).all()


def test_swapped_pairs_negate_the_gradient_at_the_start() -> None:
    weight, target = start(), targets(2)
    reference = predicted(weight, target).error.detach()
    found = gradient(lambda one: dpo(one, reference, 2.0, mu=None), weight, target)
    swapped = gradient(lambda one: dpo(one, reference.flip(1), 2.0, mu=None), weight, target.flip(1))
    torch.testing.assert_close(swapped, -found)


def test_a_policy_that_is_its_reference_pays_nothing() -> None:
    error = predicted(start(), targets(4)).error.detach()
    assert torch.equal(implicit_reward(error, error, 5.0), torch.zeros_like(error))
    paid = implicit_reward(error, error + 1, 5.0)
    torch.testing.assert_close(paid, torch.full_like(paid, 2.5))  # a smaller error than the reference's is a reward


@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_the_safeguard_never_lets_a_step_raise_the_winners_error(seed: int, mu: float) -> None:
    """To first order: along the negative gradient, the winner's error falls or stays."""
    weight, target = start(seed), targets(2, seed + 1)
    policy = predicted(weight, target)
    reference = policy.error.detach()
    guarded = gradient(lambda one: dpo(one, reference, 4.0, mu), weight, target)
    winner = gradient(lambda one: one.error[:, 0].sum(), weight, target)
    assert ((guarded * winner).sum(dim=1) >= -1e-12).all()
    share = safeguard(policy.slope, mu)
    assert ((share >= 0) & (share <= 1)).all()


def test_the_safeguard_leaves_the_value_and_what_does_no_harm() -> None:
    weight, target = start(), targets(2)
    policy = predicted(weight, target)
    reference = policy.error.detach() + 0.3
    plain, guarded = (dpo(policy, reference, 4.0, mu) for mu in (None, 0.5))
    assert float(plain.detach()) == float(guarded.detach())
    against = torch.stack([policy.slope[:, 0], -policy.slope[:, 0]], dim=1)
    assert torch.equal(safeguard(against, 0.5), torch.ones(PROMPTS, dtype=torch.float64)), "no common direction"
    alike = torch.stack([policy.slope[:, 0]] * 2, dim=1)
    assert safeguard(alike, 0.25).tolist() == pytest.approx([0.75] * PROMPTS)


@pytest.mark.parametrize("moved", [0.0, 0.4])
def test_dgpo_of_two_is_dpo_up_to_beta(moved: float) -> None:
    """Not only at the start: also where the policy has left its reference."""
    weight, target, beta = start(), targets(2), 3.0
    reference = predicted(weight + moved, target)
    scores = torch.tensor([[1.0, 0.0]] * PROMPTS, dtype=torch.float64)
    assert advantages(scores).tolist() == [[1.0, -1.0]] * PROMPTS
    one = gradient(lambda policy: dgpo(policy, reference, advantages(scores), beta), weight, target)
    other = gradient(lambda policy: dpo(policy, reference.error.detach(), beta, mu=None), weight, target)
    torch.testing.assert_close(one * beta, other)


def test_groups_with_equal_scores_move_nothing() -> None:
    weight, target = start(), targets(4)
    reference = predicted(weight + 0.2, target)
    advantage = advantages(torch.full((PROMPTS, 4), 0.7, dtype=torch.float64))
    assert not advantage.any()
    assert not gradient(lambda policy: dgpo(policy, reference, advantage, 3.0), weight, target).any()


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_advantages_have_no_sum_and_one_deviation(scores: list[float]) -> None:
    found = advantages(torch.tensor([scores], dtype=torch.float64))
    assert found.abs().max() <= LARGEST
    assert float(found.sum()) == pytest.approx(0, abs=1e-6)
    if found.any():
        assert float(found.square().mean()) == pytest.approx(1, abs=1e-6)


def test_a_step_of_dgpo_favours_what_scored_better() -> None:
    weight, target = start(), targets(4)
    reference = predicted(weight.detach(), target)
    advantage = advantages(torch.rand(PROMPTS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = weight - 0.5 * gradient(lambda one: dgpo(one, reference, advantage, 3.0), weight, target)
    gained = (advantage * (predicted(moved, target).error - reference.error)).sum(dim=1)
    assert (gained < 0).all()


def test_the_distance_to_the_reference_holds_back() -> None:
    weight, target = start(), targets(2)
    reference = predicted(weight.detach() + 1, target)
    advantage = torch.zeros(PROMPTS, 2, dtype=torch.float64)
    found = gradient(lambda one: dgpo(one, reference, advantage, 3.0, kl=1.0), weight, target)
    assert ((weight - 0.1 * found - reference.output[:, 0]).square().sum() < PROMPTS * WIDTH).item()


def test_nft_of_middling_samples_pulls_to_the_reference_and_no_sample_wins() -> None:
    """At the start, an advantage of 0 weighs both directions alike: they cancel."""
    weight, target = start(), targets(3)
    old = predicted(weight.detach(), target)
    none = torch.zeros(PROMPTS, 3, dtype=torch.float64)
    assert gradient(lambda one: nft(one, old, target, none), weight, target).abs().max() < 1e-12


def test_a_step_of_nft_favours_what_scored_better() -> None:
    weight, target = start(), targets(4)
    old = predicted(weight.detach(), target)
    advantage = advantages(torch.rand(PROMPTS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = weight - 0.2 * gradient(lambda one: nft(one, old, target, advantage), weight, target)
    gained = (advantage * (predicted(moved, target).error - old.error)).sum(dim=1)
    assert (gained < 0).all()


def test_nft_at_full_advantage_is_the_weighted_error() -> None:
    weight, target = start(), targets(2)
    policy, old = predicted(weight, target), predicted(weight.detach() + 5, target)
    full = torch.full((PROMPTS, 2), LARGEST, dtype=torch.float64)
    expected = (policy.error / (policy.output - target).abs().mean(dim=2).detach()).mean()
    torch.testing.assert_close(nft(policy, old, target, full), expected)


def test_rft_is_the_plain_error() -> None:
    policy = predicted(start(), targets(1))
    assert torch.equal(rft(policy), policy.error.mean())
