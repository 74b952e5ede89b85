"""Flow matching: the line between data and noise, its velocity, and how noise levels and captions are drawn."""

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from sanac.train.flow_matching import Times, drop_captions, flow_loss, noised, velocity
from sanac.train.schedule import Schedule


def test_the_line_starts_at_data_and_ends_at_noise() -> None:
    data, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert torch.equal(noised(data, noise, torch.zeros(2)), data)
    assert torch.equal(noised(data, noise, torch.ones(2)), noise)
    one, other = (noised(data, noise, torch.full((2,), level, dtype=torch.float32)) for level in (0.25, 0.75))
    assert torch.allclose((other - one) / 0.5, velocity(data, noise), atol=1e-5)


def test_the_sampler_that_ships_agrees_on_sign_and_scale() -> None:
    """Fed with the true velocity, diffusers' scheduler walks from the noise to the data."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    scheduler.set_timesteps(20)
    data, noise = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    state = noise.clone()
    for timestep in scheduler.timesteps:
        state = scheduler.step(velocity(data, noise), timestep, state).prev_sample
    assert torch.allclose(state, data, atol=0.01)


def test_shift_moves_levels_towards_noise() -> None:
    levels = Times(shift=3.0).draw(20_000, torch.Generator().manual_seed(0))
    assert levels.min() > 0
    assert levels.max() < 1
    assert float(levels.median()) == pytest.approx(0.75, abs=0.01), "3 x 1/2 / (1 + 2 x 1/2)"
    plain = Times(shift=1.0).draw(20_000, torch.Generator().manual_seed(0))
    assert float(torch.logit(plain).mean()) == pytest.approx(0, abs=0.03)
    assert float(torch.logit(plain).std()) == pytest.approx(1, abs=0.03)
    moved = Times(mean=-1.0, deviation=0.5, shift=1.0).draw(20_000, torch.Generator().manual_seed(0))
    assert float(torch.logit(moved).mean()) == pytest.approx(-1, abs=0.03)


def test_captions_are_dropped_as_often_as_asked() -> None:
    assert not drop_captions(1000, 0.0, torch.Generator().manual_seed(0)).any()
    assert drop_captions(1000, 1.0, torch.Generator().manual_seed(0)).all()
    share = drop_captions(20_000, 0.1, torch.Generator().manual_seed(0)).float().mean()
    assert float(share) == pytest.approx(0.1, abs=0.01)


def test_the_loss_of_the_truth_is_nothing() -> None:
    data, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert flow_loss(velocity(data, noise), data, noise) == 0
    assert flow_loss(-velocity(data, noise), data, noise) > 1


def test_the_rate_warms_up_then_falls_to_its_floor() -> None:
    schedule = Schedule(peak=1.0, steps=110, warmup=10, floor=0.1)
    assert [schedule.at(step) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert schedule.at(10) == 1.0
    assert schedule.at(109) == pytest.approx(0.1)
    middle = 10 + 99 / 2
    assert schedule.at(int(middle)) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * (int(middle) - 10) / 99)) / 2)
    assert Schedule(2.0, 100, shape="constant").at(99) == 2.0
    rates = [schedule.at(step) for step in range(10, 110)]
    assert rates == sorted(rates, reverse=True)
