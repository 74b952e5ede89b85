"""The swept trajectory is stock diffusers' own, and block importance measured on it is that of plain forward hooks."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline
from torch import Tensor

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput
from sanac.nn.calibration.sampling import BlockCall, SamplerSettings, StepSample, SweepProgress, sample, starting_noise
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode
from sanac.nn.streaming import Blocks
from sanac.tiny.build import scheduler

PROMPTS = ["two red circles", "a blue square above a cross", "a triangle"]
CPU = torch.device("cpu")
SAMPLING = SamplerSettings(steps=4, side=4, batch=2, seed=3)


def _run(
    folder: Path, observe=lambda *_: None, sampling: SamplerSettings = SAMPLING, *, resident: bool = False
) -> Tensor:
    model = open_model(locate(str(folder)))
    captions = encode(model, PROMPTS, CPU)
    blocks = Blocks(model, CPU, torch.float32, resident=resident)
    with torch.no_grad():
        *_, (_, last) = sample(blocks, scheduler(), captions, sampling, observe, dict(model.transformer.config))
    return last


def _stock(folder: Path) -> SanaPipeline:
    pipeline = SanaPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stock_latents(pipeline: SanaPipeline, number: int) -> Tensor:
    """One prompt through the whole pipeline, with the noise that the sweep gives it."""
    return pipeline(
        PROMPTS[number],
        latents=starting_noise(len(PROMPTS), 16, SAMPLING)[number : number + 1],
        num_inference_steps=4,
        height=512,
        width=512,
        use_resolution_binning=False,
        output_type="latent",
    ).images


@pytest.mark.parametrize("large", [False, True], ids=["", "with positions"])
def test_it_samples_what_the_pipeline_samples(large: bool, pipeline: Path, large_pictures: Path) -> None:
    folder = large_pictures if large else pipeline
    latents, stock = _run(folder), _stock(folder)
    assert (stock.transformer.config.interpolation_scale is not None) == large
    for number in range(len(PROMPTS)):
        assert torch.allclose(latents[number : number + 1], _stock_latents(stock, number), atol=1e-4)


def test_swept_importance_is_that_of_forward_hooks(pipeline: Path) -> None:
    swept = torch.zeros(2, 6, dtype=torch.float64)

    def observe(place: BlockCall, before: Tensor, after: Tensor) -> None:
        swept[place.branch, place.block] += torch.cosine_similarity(before, after, dim=-1).mean(1).double().sum()

    _run(pipeline, observe)
    stock, hooked = _stock(pipeline), torch.zeros(2, 6, dtype=torch.float64)
    for index, part in enumerate(stock.transformer.transformer_blocks):

        def hook(_module, given, result, index=index) -> None:  # the pipeline stacks both branches, prompts last
            hooked[:, index] += torch.cosine_similarity(given[0], result, dim=-1).mean(1).double()

        part.register_forward_hook(hook)
    for number in range(len(PROMPTS)):
        _stock_latents(stock, number)
    assert torch.allclose(swept / 12, hooked / 12, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(4, 4), (4, 6)])
def test_noised_data_is_what_stock_diffusers_is_shown(size: tuple[int, int], pipeline: Path) -> None:
    """x under s of noise, with the noise of its number, at each timestep; both branches."""
    model, data = open_model(locate(str(pipeline))), torch.randn(3, 16, *size)
    captions, euler = encode(model, PROMPTS, CPU), FlowMatchEulerDiscreteScheduler(shift=3.0)
    blocks = Blocks(model, CPU, torch.float32, resident=True)
    noise = torch.cat([starting_noise(1, 16, SAMPLING, 10 + number, size) for number in range(3)])
    stock = _stock(pipeline).transformer
    for sampler in (scheduler(), euler):
        with torch.no_grad():
            config = dict(model.transformer.config)
            seen = list(sample(blocks, sampler, captions, SAMPLING, lambda *_: None, config, offset=10, data=data))
            for step, (seen_there, state) in enumerate(seen):
                s = sampler.sigmas[step]
                assert abs(1000 * s - sampler.timesteps[step]) < 1, "timesteps are whole numbers"
                assert torch.allclose(state, (1 - s) * data + s * noise, atol=1e-5)
                time = sampler.timesteps[step].expand(3)
                empty, prompted = (
                    stock(state, caption, time, encoder_attention_mask=mask).sample
                    for caption, mask in (
                        (captions.empty.expand(3, -1, -1), captions.empty_mask.expand(3, -1)),
                        (captions.embeddings, captions.mask),
                    )
                )
                assert torch.allclose(seen_there.velocity, empty + 4.5 * (prompted - empty), atol=1e-4)
        assert len(seen) == SAMPLING.steps


def test_batches_and_residence_change_nothing(pipeline: Path) -> None:
    whole = _run(pipeline)
    assert torch.equal(_run(pipeline, resident=True), whole)
    one = _run(pipeline, sampling=SamplerSettings(steps=4, side=4, batch=3, seed=3))
    assert torch.allclose(one, whole, atol=1e-4)


def test_every_block_sees_every_prompt_on_both_branches(pipeline: Path) -> None:
    seen: list[tuple[int, int, int, int]] = []
    _run(pipeline, lambda place, before, after: seen.append((place.step, place.block, place.branch, place.first)))
    assert len(seen) == len(set(seen)) == 4 * 6 * 2 * 2
    assert seen == sorted(seen), "steps outside, blocks inside"


def test_nan_names_block_and_step(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    blocks = Blocks(model, CPU, torch.float32, resident=True)
    blocks.block(2)["ff.conv_point.weight"].fill_(torch.nan)
    captions = encode(model, PROMPTS, CPU)
    config = dict(model.transformer.config)
    named = pytest.raises(InvalidInput, match="block 2 produces NaN or infinity at step 0, timestep 999")
    with torch.no_grad(), named as caught:
        list(sample(blocks, scheduler(), captions, SAMPLING, lambda *_: None, config))
    assert "its last layer produces it" in caught.value.why
    captions.embeddings[1, 0] = torch.inf
    with (
        torch.no_grad(),
        pytest.raises(InvalidInput, match="embedding of the inputs produces NaN or infinity at step 0") as caught,
    ):
        list(sample(blocks, scheduler(), captions, SAMPLING, lambda *_: None, config))
    assert "for one of" in caught.value.why


def test_a_step_that_was_begun_is_continued(pipeline: Path) -> None:
    """From any block of any step, in the same states, bit for bit; with other batches the step starts over."""
    model = open_model(locate(str(pipeline)))
    blocks, captions = Blocks(model, CPU, torch.float32), encode(model, PROMPTS, CPU)

    def run(**options) -> list[Tensor]:
        with torch.no_grad():
            config = dict(model.transformer.config)
            steps = sample(blocks, scheduler(), captions, SAMPLING, lambda *_: None, config, **options)
            return [latents for _, latents in steps]

    places: list[SweepProgress] = []
    whole = run(on_progress=places.append)
    assert [(place.step, place.block) for place in places] == [(step, i) for step in range(4) for i in range(1, 6)]
    velocities = [there.velocity for there, _ in _steps(model, blocks, captions)]
    for place in (places[0], places[8], places[-1]):
        assert torch.equal(run(known_velocities=velocities[: place.step], resume_from=place)[-1], whole[-1])
        assert place.states == [], "taken over, not held twice"
    other = SweepProgress(0, 3, [torch.zeros(1, 16, 96)])
    assert torch.equal(run(resume_from=other)[-1], whole[-1])


def _steps(model: Model, blocks: Blocks, captions: EncodedPrompts) -> list[tuple[StepSample, Tensor]]:
    with torch.no_grad():
        config = dict(model.transformer.config)
        return list(sample(blocks, scheduler(), captions, SAMPLING, lambda *_: None, config))


def test_captions_lose_only_padding(pipeline: Path) -> None:
    captions = encode(open_model(locate(str(pipeline))), PROMPTS, CPU)
    assert captions.mask.sum(1).tolist() == [5, 8, 4], "<bos> twice, then a token per word"
    assert captions.embeddings.shape[:2] == (3, 8)
    assert captions.empty.shape[:2] == (1, 1)
    alone = encode(open_model(locate(str(pipeline))), PROMPTS[:1], CPU)
    assert torch.allclose(alone.embeddings, captions.embeddings[:1, :5], atol=1e-6)
