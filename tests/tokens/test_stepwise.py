"""Masked prediction step by step: an image depends on its own prompt and noise, whatever leaves the batch."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.nn.noise import drawn
from sanac.nn.stepwise import Noise
from sanac.tokens.generator import TokenGenerator
from sanac.tokens.networks import TokenNetworks, open_networks
from sanac.tokens.sampling import TokenSampling
from sanac.tokens.stepwise import StepwiseTokens
from sanac.tokens.unmasking import ORDERS

PROMPTS = ("a red circle", "two blue squares", "a red circle", "a cross above a square")
NOISES = tuple(map(Noise, (3, 1, 4, 9)))


@pytest.fixture(scope="module")
def model(token_model: Path) -> TokenModel:
    model = open_any_model(locate(str(token_model)))
    assert isinstance(model, TokenModel)
    return model


@pytest.fixture(scope="module")
def networks(model: TokenModel) -> TokenNetworks:
    return open_networks(model)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("guidance", [0.0, 1.75])
def test_a_batch_is_its_images_one_by_one(networks: TokenNetworks, guidance: float, order: str) -> None:
    sampling = TokenSampling(6, guidance, order=order)
    together = StepwiseTokens(networks, sampling).start(PROMPTS, NOISES)
    found = together.finish()
    for row, (prompt, noise) in enumerate(zip(PROMPTS, NOISES, strict=True)):
        alone = StepwiseTokens(networks, sampling).start([prompt], [noise])
        picture = alone.finish()[0]
        assert torch.equal(alone.guesses[0], together.guesses[row])
        assert np.abs(picture.astype(int) - found[row]).max() <= 1
    assert not torch.equal(together.guesses[0], together.guesses[2]), "the same prompt with another noise"


@pytest.mark.parametrize("order", ORDERS)
def test_rows_that_leave_change_nothing_of_those_that_stay(networks: TokenNetworks, order: str) -> None:
    stepwise = StepwiseTokens(networks, TokenSampling(6, order=order))
    whole = stepwise.start(PROMPTS, NOISES)
    whole.finish()
    images = stepwise.start(PROMPTS, NOISES)
    images.advance()
    images.advance()
    images.keep((3, 1))
    images.advance()
    images.keep((1,))
    assert images.rows == (1,)
    images.finish()
    assert torch.equal(images.guesses[0], whole.guesses[1])
    images.keep(())
    assert images.finish().shape[0] == 0


def surest(logits: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A code that follows from the image has a logit about 12 that follows from prompt and image, all others 0.

    It is drawn, and no two places are equally sure.
    """
    best = (image.cumsum(dim=1) + 5 * torch.arange(image.shape[1])) % logits.shape[-1]
    height = 11 + 1.5 * (1000 * logits.amax(dim=-1)).frac().abs()
    return torch.nn.functional.one_hot(best, logits.shape[-1]) * height[..., None]


@pytest.mark.parametrize("scale", [0.0, 1.75])
def test_every_step_is_that_of_amused(networks: TokenNetworks, scale: float) -> None:
    """diffusers' scheduler, fed with u + (s + 1)(c - u) of a model that is sure of its codes, at temperature 0."""
    from diffusers import AmusedScheduler

    sure = copy.deepcopy(networks.transformer)
    sure.forward = lambda text, image: surest(networks.transformer(text, image), image)
    shape = sure.architecture
    stepwise = StepwiseTokens(replace(networks, transformer=sure), TokenSampling(5, scale, temperature=0.0))
    images = stepwise.start(PROMPTS[:2], NOISES[:2])
    scheduler = AmusedScheduler(mask_token_id=shape.codes)
    scheduler.set_timesteps(5, temperature=(0, 0))
    text, theirs = networks.text(PROMPTS[:2]), torch.full((2, shape.image_tokens), shape.codes)
    empty = networks.text([""]).expand_as(text)
    changed = 0
    for step, timestep in enumerate(scheduler.timesteps):
        image = torch.where(theirs == shape.codes, shape.mask, theirs + shape.first_code)
        with torch.no_grad():
            unprompted = sure(empty, image)
            logits = unprompted + (scale + 1) * (sure(text, image) - unprompted)
        rows = logits.permute(0, 2, 1).unflatten(2, (shape.side, shape.side))
        with torch.random.fork_rng():
            torch.manual_seed(step)
            found = scheduler.step(rows, timestep, theirs.view(2, shape.side, shape.side))
        theirs = found.prev_sample.flatten(1)
        images.advance()
        assert torch.equal(found.pred_original_sample.flatten(1), torch.stack(list(images.guesses)))
        if step < 4:  # the last of aMUSEd's steps returns the whole image
            assert torch.equal(theirs == shape.codes, images.masked)
        changed += len(theirs.unique())
    assert changed > 10


def test_forward_passes_are_counted_where_they_are_computed(networks: TokenNetworks) -> None:
    stepwise = StepwiseTokens(networks, TokenSampling(5))
    images = stepwise.start(PROMPTS, NOISES)
    images.advance()
    images.keep((0, 2))
    images.preview()
    images.finish()
    cost = stepwise.costs[0]
    assert (cost.forwards, cost.block_forwards) == (2, 4), "two branches, two layers"
    assert stepwise.spent.forwards == 2 * (4 + 4 * 2)
    assert stepwise.spent.block_forwards == 2 * stepwise.spent.forwards
    assert stepwise.spent.decodes == 2 + 2
    unguided = StepwiseTokens(networks, TokenSampling(5, guidance=0))
    unguided.start(PROMPTS, NOISES).finish()
    assert unguided.spent.forwards == sum(cost.forwards for cost in unguided.costs) * 4 == 20


def test_guidance_is_written_as_show_os(networks: TokenNetworks) -> None:
    """(1 + s) prompted - s unprompted; aMUSEd's scale is s + 1: u + (s + 1) (c - u)."""
    transformer, scale = networks.transformer, 1.75
    images = StepwiseTokens(networks, TokenSampling(4, scale)).start(PROMPTS[:1], NOISES[:1])
    tokens = torch.full((1, 16), transformer.architecture.mask)
    with torch.no_grad():
        prompted, unprompted = (transformer(networks.text([text]), tokens) for text in (PROMPTS[0], ""))
    found = images._logits()
    torch.testing.assert_close(found, unprompted + (scale + 1) * (prompted - unprompted), atol=1e-4, rtol=1e-4)
    assert (found - prompted).abs().max() > 0.1
    plain = StepwiseTokens(networks, TokenSampling(4, 0.0)).start(PROMPTS[:1], NOISES[:1])
    torch.testing.assert_close(plain._logits(), prompted, atol=1e-4, rtol=1e-4)


def test_codes_are_drawn_from_the_models_probabilities(networks: TokenNetworks) -> None:
    """The first guess of many noises, against the softmax of the first logits."""
    count = 1500
    stepwise = StepwiseTokens(networks, TokenSampling(3))
    images = stepwise.start(["a red circle"] * count, list(map(Noise, range(count))))
    expected = images._logits()[0].softmax(-1)
    images.advance()
    guesses = torch.stack(list(images.guesses))
    shares = torch.nn.functional.one_hot(guesses, expected.shape[-1]).double().mean(0)
    error = (expected * (1 - expected) / count).sqrt()
    assert ((shares - expected).abs() < 5 * error + 1e-3).all()


def test_known_codes_stay_and_the_guess_is_complete(networks: TokenNetworks) -> None:
    images = StepwiseTokens(networks, TokenSampling(6)).start(PROMPTS, NOISES)
    known = torch.zeros_like(images.masked)
    before = images.codes
    while images.done < images.steps:
        images.advance()
        assert torch.equal(images.guess[known], before[known])
        assert not (images.masked & known).any()
        known, before = ~images.masked, images.codes
    assert images.masked.sum(dim=1).tolist() == [1] * 4, "Show-o leaves one masked: the state is never decoded"
    assert images.guess.max() < networks.transformer.architecture.codes


def test_the_picture_is_the_decoded_guess_and_not_the_state(networks: TokenNetworks) -> None:
    images = StepwiseTokens(networks, TokenSampling(6)).start(PROMPTS, NOISES)
    images.advance()
    seen = images.preview()
    with torch.no_grad():
        decoded = networks.images.decode(images.guess, 4)
        state = networks.images.decode(images.codes, 4)
    expected = ((decoded.permute(0, 2, 3, 1) + 1) / 2).clamp(0, 1).numpy() * 255
    assert np.abs(seen - expected).max() <= 0.51
    assert (decoded - state).abs().max() > 0.01
    assert images.guess_noise == 1
    assert images.noise == pytest.approx(math.floor(16 * math.cos(math.pi / 12)) / 16)


@pytest.mark.parametrize("order", ORDERS)
def test_a_restart_masks_as_many_tokens_as_that_step_has(networks: TokenNetworks, order: str) -> None:
    stepwise = StepwiseTokens(networks, TokenSampling(6, order=order))
    whole = stepwise.start(PROMPTS, NOISES)
    whole.finish()
    again = stepwise.restart(PROMPTS, whole.guesses, [Noise(50 + row) for row in range(4)], 4)
    assert again.done == 4
    assert again.masked.sum(dim=1).tolist() == [stepwise.unmasking.masked[4]] * 4
    kept = ~again.masked
    again.finish()
    for row in range(4):
        assert torch.equal(again.guesses[row][kept[row]], whole.guesses[row][kept[row]])
    assert any(not torch.equal(a, b) for a, b in zip(again.guesses, whole.guesses, strict=True))


def test_a_neighbour_shares_most_of_its_noise(networks: TokenNetworks) -> None:
    shape = (6, 2, 16)
    noise = Noise(3)
    near, far = drawn(noise.turned(7, 0.99), shape), drawn(noise.turned(7, 0.1), shape)
    own = drawn(noise, shape)
    assert torch.nn.functional.cosine_similarity(own.flatten(), near.flatten(), dim=0) == pytest.approx(0.99, abs=1e-4)
    stepwise = StepwiseTokens(networks, TokenSampling(6))
    uniform = stepwise._uniform(noise)
    assert uniform.min() > 0
    assert uniform.max() < 1
    same = [float((stepwise._uniform(noise.turned(7, cosine)) - uniform).abs().mean()) for cosine in (0.99, 0.1)]
    assert same[0] < 0.06
    assert same[1] > 0.2
    assert not torch.equal(near, far)


def test_the_generator_yields_batches(networks: TokenNetworks) -> None:
    generator, sampling = TokenGenerator(networks), TokenSampling(4, batch=3)
    batches = list(generator.generate(PROMPTS, [noise.seed for noise in NOISES], sampling))
    assert [len(batch) for batch in batches] == [3, 1]
    whole = StepwiseTokens(networks, sampling).start(PROMPTS, NOISES).finish()
    assert np.abs(np.concatenate(batches).astype(int) - whole).max() <= 1
    assert generator.unknown_words(["a lighthouse above a circle"]) == ["lighthouse"]
    with pytest.raises(UsageError, match="a prompt is empty"):
        list(generator.generate([" "], [0], sampling))


def test_settings_that_have_no_meaning_here_are_refused() -> None:
    with pytest.raises(UsageError, match="--size can't be used with a token generator"):
        TokenSampling(size=(64, 64))
    with pytest.raises(UsageError, match="no order 'spiral'"):
        TokenSampling(order="spiral")
    assert TokenSampling(4, batch=3).to_json() == TokenSampling(4, batch=9).to_json()
    assert TokenSampling(4, temperature=2.0).to_json() != TokenSampling(4).to_json()
    halton = TokenSampling(4, order="halton")
    assert halton.to_json() == replace(halton, temperature=2.0).to_json(), "it has no effect there"


def test_nan_is_refused_while_generating(model: TokenModel) -> None:
    networks = open_networks(model)
    generator = TokenGenerator(networks)
    name = "showo.model.layers.0.mlp.fc1.weight"
    weight = networks.transformer.state_dict()[name]
    generator.load_weights({name: torch.full_like(weight, torch.nan)})
    with pytest.raises(InvalidInput, match="generates NaN"):
        StepwiseTokens(networks, TokenSampling(2)).start(PROMPTS[:1], NOISES[:1]).finish()
