"""Images step by step: those of the pipeline's own call, whatever leaves the batch on the way, at an exact cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.schedule import Schedule
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.nn.stepwise import Noise
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.runtime.stepwise import StepwiseSana

PROMPTS = ("a red circle", "two blue squares", "a red circle", "a cross above a square")
SEEDS = (3, 1, 4, 9)
NOISES = tuple(map(Noise, SEEDS))


@pytest.fixture(scope="module")
def model(pipeline: Path) -> Model:
    return open_model(locate(str(pipeline)))


@pytest.fixture(scope="module")
def generator(model: Model) -> DiffusionGenerator:
    return open_generator(model)


def stock(generator: DiffusionGenerator, sampling: GenerationSettings) -> np.ndarray:
    return np.concatenate(list(generator.generate(PROMPTS, SEEDS, sampling)))


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (2,), (3, 1)])
def test_the_images_are_the_pipelines(generator: DiffusionGenerator, guidance: float, kept: Sequence[int]) -> None:
    sampling = GenerationSettings(5, guidance)
    images = StepwiseSana(generator, sampling).start(PROMPTS, NOISES)
    images.advance()
    images.advance()
    images.keep(kept)
    assert images.rows == tuple(kept)
    found = images.finish()
    expected = stock(generator, sampling)[list(kept)]
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_sprint_too(sprint: Path) -> None:
    """Its sampler adds noise between steps, from a generator per image that leaves with the image."""
    generator = open_generator(open_model(locate(str(sprint))))
    sampling = GenerationSettings(3)
    images = StepwiseSana(generator, sampling).start(PROMPTS, NOISES)
    images.advance()
    images.keep((1, 3))
    assert np.abs(images.finish().astype(int) - stock(generator, sampling)[[1, 3]]).max() <= 1


@pytest.mark.parametrize("scheduler", ["FlowMatchEulerDiscreteScheduler"])
def test_other_schedulers(generator: DiffusionGenerator, scheduler: str) -> None:
    import diffusers

    sampling, before = GenerationSettings(4), generator.pipeline.scheduler
    generator.pipeline.scheduler = getattr(diffusers, scheduler)(shift=3.0)
    try:
        images = StepwiseSana(generator, sampling).start(PROMPTS, NOISES)
        images.advance()
        images.keep((0, 3))
        assert np.abs(images.finish().astype(int) - stock(generator, sampling)[[0, 3]]).max() <= 1
    finally:
        generator.pipeline.scheduler = before


def test_a_schedule_is_followed_and_counted(model: Model, generator: DiffusionGenerator) -> None:
    followed = Schedule((0, 5, 2, 1, 4, 3), noise_levels(model, 4), (2, 4, 6, 6), (True, False, True, False))
    generator.follow(followed)
    try:
        counted = {"transformer": 0, "blocks": 0}
        transformer = generator.pipeline.transformer
        hooks = [
            block.register_forward_hook(
                lambda _block, inputs, _out: counted.update(blocks=counted["blocks"] + len(inputs[0]))
            )
            for block in transformer.transformer_blocks
        ]
        stepwise = StepwiseSana(generator, GenerationSettings(4))
        images = stepwise.start(PROMPTS, NOISES)
        images.advance()
        images.keep((0, 2, 3))
        images.advance()
        images.preview()
        images.keep((0,))
        found = images.finish()
        for hook in hooks:
            hook.remove()
        spent = stepwise.spent
        assert [cost.forwards for cost in stepwise.costs] == [2, 1, 2, 1]
        assert [cost.block_forwards for cost in stepwise.costs] == [4, 4, 12, 6]
        assert spent.forwards == 2 * 4 + 3 + 2 + 1
        assert spent.block_forwards == counted["blocks"] == 2 * 4 * 2 + 3 * 4 + 2 * 6 + 6
        assert spent.decodes == 3 + 1
        assert np.abs(found.astype(int) - stock(generator, GenerationSettings(4))[:1]).max() <= 1
    finally:
        generator.follow(None)


def test_guidance_inside_takes_one_branch(model: Model, generator: DiffusionGenerator) -> None:
    generator.follow(Schedule((0, 5, 2, 1, 4, 3), noise_levels(model, 4), (6,) * 4, (False,) * 4, guidance_inside=3.0))
    try:
        stepwise = StepwiseSana(generator, GenerationSettings(4, 3.0))
        found = stepwise.start(PROMPTS, NOISES).finish()
        assert stepwise.spent.forwards == 4 * 4 == 4 * sum(cost.forwards for cost in stepwise.costs)
        assert np.abs(found.astype(int) - stock(generator, GenerationSettings(4, 3.0))).max() <= 1
    finally:
        generator.follow(None)


def test_the_last_preview_is_the_image(generator: DiffusionGenerator) -> None:
    images = StepwiseSana(generator, GenerationSettings(6)).start(PROMPTS, NOISES)
    noises = [images.noise]
    while images.done < images.steps:
        images.advance()
        noises.append(images.noise)
    assert noises == sorted(noises, reverse=True)
    assert noises[0] == pytest.approx(1, abs=0.01)
    assert noises[-1] == 0
    assert np.abs(images.preview().astype(int) - images.finish()).max() <= 1


def test_states_are_the_prompts_branch_behind_the_block(generator: DiffusionGenerator) -> None:
    """With guidance, the states of the prompt's branch are those of a run without it, from the same latents."""
    guided = StepwiseSana(generator, GenerationSettings(3, 4.5), (1, 4)).start(PROMPTS, NOISES)
    alone = StepwiseSana(generator, GenerationSettings(3, 1.0), (1, 4)).start(PROMPTS, NOISES)
    guided.advance()
    alone.advance()
    assert set(guided.states) == {1, 4}
    for block, states in guided.states.items():
        assert torch.allclose(states, alone.states[block], atol=1e-4)
    assert not torch.allclose(guided.states[1], guided.states[4], atol=1e-2)
    guided.keep((2, 0))
    assert torch.allclose(guided.states[4], alone.states[4][[2, 0]], atol=1e-4)
    assert guided.embeddings[0].shape[0] == 2


def test_nan_is_refused(generator: DiffusionGenerator) -> None:
    images = StepwiseSana(generator, GenerationSettings(2)).start(PROMPTS, NOISES)
    images.advance()
    images.latents = torch.full_like(images.latents, float("nan"))
    with pytest.raises(InvalidInput, match="generates NaN"):
        images.finish()


def test_an_empty_batch_costs_nothing(generator: DiffusionGenerator) -> None:
    stepwise = StepwiseSana(generator, GenerationSettings(3))
    images = stepwise.start(PROMPTS, NOISES)
    images.advance()
    images.keep(())
    before = stepwise.spent.forwards
    assert len(images.finish()) == 0
    assert stepwise.spent.forwards == before


def test_a_turned_noise_keeps_its_length_and_has_the_cosine(generator: DiffusionGenerator) -> None:
    stepwise = StepwiseSana(generator, GenerationSettings(3))
    noises = [Noise(3), Noise(3).turned(8, 0.95), Noise(3).turned(9, 0.95), Noise(3).turned(8, 1.0)]
    pivot, one, other, same = stepwise.start(PROMPTS, noises).latents.flatten(1).double()
    assert one.norm().item() == pytest.approx(pivot.norm().item(), rel=1e-6)
    assert torch.cosine_similarity(pivot, one, dim=0).item() == pytest.approx(0.95, abs=1e-6)
    assert torch.cosine_similarity(one, other, dim=0).item() == pytest.approx(0.9025, abs=0.05)
    assert torch.allclose(pivot, same, atol=1e-5)


@pytest.mark.parametrize("step", [0, 2])
def test_a_restart_is_the_guess_with_new_noise(generator: DiffusionGenerator, step: int) -> None:
    """From noise alone it is the plain start; later, the guess shines through, and only the steps left are paid."""
    sampling = GenerationSettings(6)
    stepwise = StepwiseSana(generator, sampling)
    first = stepwise.start(PROMPTS, NOISES)
    for _ in range(4):
        first.advance()
    before = stepwise.spent.forwards
    again = stepwise.restart(PROMPTS, first.guesses, NOISES, step)
    assert again.done == step
    level, guess = again.noise, torch.stack(list(first.guesses))
    noise = stepwise.start(PROMPTS, NOISES).latents
    assert torch.allclose(again.latents, (1 - level) * guess + level * noise, atol=1e-2)
    found = again.finish()
    assert stepwise.spent.forwards - before == 2 * 4 * (6 - step)
    assert len(found) == 4
