"""The order in which image tokens become known: counts, temperature, monotony, and an implementation not of ours."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.errors import UsageError
from sanac.tokens.unmasking import ORDERS, Unmasking


def test_show_o_masks_so_many_tokens() -> None:
    """256 tokens in 18 steps: floor(256 cos(pi/2 (i + 1) / 18)) as its code rounds it, and one at the end."""
    assert Unmasking(16, 18).masked == (
        256, 255, 252, 247, 240, 232, 221, 209, 196, 181, 164, 146, 127, 108, 87, 66, 44, 22, 1,
    )  # fmt: skip


@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from(ORDERS))
def test_every_step_makes_a_token_known_until_one_is_left(side: int, steps: int, order: str) -> None:
    if order == "halton" and steps > side**2:
        with pytest.raises(UsageError, match=f"--steps {steps} is more than the {side**2} tokens"):
            Unmasking(side, steps, order)
        return
    counts = Unmasking(side, steps, order).masked
    assert len(counts) == steps + 1
    assert counts[0] == side**2
    assert all(later < earlier or later == earlier == 1 for earlier, later in pairwise(counts))
    assert counts[-1] == (0 if order == "halton" else 1)


def test_the_temperature_is_a_product_that_begins_again() -> None:
    order = Unmasking(16, 18)
    assert order.temperature_at(0) == pytest.approx(17 / 18)
    assert order.temperature_at(1) == pytest.approx(17 / 18 * 16 / 18)
    assert order.temperature_at(17) == 0
    assert order.temperature_at(0) == pytest.approx(17 / 18), "asking changes nothing"
    assert Unmasking(16, 18, temperature=3.0).temperature_at(4) == pytest.approx(3 * order.temperature_at(4))


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_known_stays_known(order: str) -> None:
    unmasking, generator = Unmasking(5, 9, order), torch.Generator().manual_seed(1)
    masked = torch.ones(3, 25, dtype=torch.bool)
    for step in range(9):
        log = torch.rand(3, 25, generator=generator, dtype=torch.float64).log()
        after = unmasking.after(step, masked, log, torch.rand(3, 25, generator=generator))
        assert not (after & ~masked).any()
        assert after.sum(dim=1).tolist() == [unmasking.masked[step + 1]] * 3
        masked = after


def test_the_least_sure_tokens_are_masked_again() -> None:
    order = Unmasking(2, 2, temperature=0.0)
    log = torch.tensor([[0.9, 0.2, 0.5, 0.7]]).log()
    after = order.after(0, torch.ones(1, 4, dtype=torch.bool), log, torch.full((1, 4), 0.5))
    assert after.tolist() == [[False, True, True, False]], "floor(4 cos(pi / 4)) = 2"
    known = torch.tensor([[True, False, True, True]])
    assert order.after(0, known, log, torch.full((1, 4), 0.5)).tolist() == [[False, False, True, True]]


def test_gumbel_noise_shakes_the_confidence() -> None:
    """Of two equally sure tokens, the one with the larger noise becomes known."""
    order, log = Unmasking(2, 2, temperature=5.0), torch.full((1, 4), math.log(0.5))
    noise = torch.tensor([[0.99, 0.01, 0.02, 0.98]])
    after = order.after(0, torch.ones(1, 4, dtype=torch.bool), log, noise)
    assert after.tolist() == [[False, True, True, False]]


def test_haltons_places() -> None:
    """Bases 2 and 3: (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), of a grid of 4 x 4."""
    places = Unmasking(4, 4, "halton").places
    assert places[:4] == (2 * 4 + 1, 1 * 4 + 2, 3 * 4 + 0, 0 * 4 + 1)
    assert sorted(places) == list(range(16))
    quarters = {(place // 4 // 2, place % 4 // 2) for place in places[:5]}
    assert len(quarters) == 4, "the first places are in all quarters"


def test_haltons_counts() -> None:
    """1 - arccos((i + 1) / T) / (pi / 2) of the tokens are known after step i."""
    counts = Unmasking(16, 12, "halton").masked
    known = [256 - count for count in counts[1:]]
    assert known == [round(256 * math.asin((step + 1) / 12) / (math.pi / 2)) for step in range(12)]


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_amused_masks_the_same_tokens(steps: int) -> None:
    """diffusers' aMUSEd at temperature 0, with a model that is sure of every code and surer of some."""
    from diffusers import AmusedScheduler

    side, codes = 4, 8
    generator = torch.Generator().manual_seed(2)
    best = torch.randint(codes, (2, side**2), generator=generator)
    sure = 20 + 10 * torch.rand(2, side**2, generator=generator)  # no other code is ever drawn
    logits = torch.nn.functional.one_hot(best, codes) * sure[..., None].double()
    scheduler = AmusedScheduler(mask_token_id=codes)
    scheduler.set_timesteps(steps, temperature=(0, 0))
    order = Unmasking(side, steps, temperature=0.0)
    masked, theirs = torch.ones(2, side**2, dtype=torch.bool), torch.full((2, side**2), codes)
    for step, timestep in enumerate(scheduler.timesteps):
        found = scheduler.step(logits.permute(0, 2, 1).unflatten(2, (side, side)), timestep, theirs.view(2, side, side))
        theirs = found.prev_sample.flatten(1)
        log = logits.log_softmax(-1).gather(-1, best[..., None])[..., 0]
        masked = order.after(step, masked, log, torch.full((2, side**2), 0.5))
        if step + 1 < steps:  # the last of aMUSEd's steps returns the whole image
            assert torch.equal(theirs == codes, masked)
        assert torch.equal(found.pred_original_sample.flatten(1), best)
