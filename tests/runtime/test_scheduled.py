"""A pipeline that follows a schedule: the laws that tie it to the stock pipeline and to pruned models."""

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline

import sanac as api
from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.schedule import Schedule, plain
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.json_files import pretty
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import noise_levels
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.runtime.scheduled import ScheduledForward, views_of
from tests.conftest import Sanac

ORDER = (0, 5, 2, 1, 4, 3)
PROMPTS = ("a red circle", "two blue squares")


@pytest.fixture(scope="module")
def model(pipeline: Path) -> Model:
    return open_model(locate(str(pipeline)))


@pytest.fixture(scope="module")
def generator(model: Model) -> DiffusionGenerator:
    return open_generator(model)


def pictures(generator: DiffusionGenerator, steps: int = 4, guidance: float = 4.5, batch: int = 16) -> np.ndarray:
    settings = GenerationSettings(steps, guidance, batch=batch)
    return np.concatenate(list(generator.generate(PROMPTS, [0, 1], settings)))


def schedule(model: Model, blocks: Sequence[int], guided: Sequence[bool]) -> Schedule:
    return Schedule(ORDER, noise_levels(model, len(blocks)), tuple(blocks), tuple(guided))


def test_the_whole_model_with_guidance_is_the_stock_pipeline(model: Model, generator: DiffusionGenerator) -> None:
    generator.follow(None)
    stock = pictures(generator)
    generator.follow(plain(6, noise_levels(model, 4)))
    assert (pictures(generator) == stock).all()
    generator.follow(None)
    assert "forward" not in vars(generator.pipeline.transformer)
    assert type(generator.pipeline) is SanaPipeline


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_prefix_is_the_pruned_model(
    sanac: Sanac, pipeline: Path, model: Model, generator: DiffusionGenerator, depth: int
) -> None:
    generator.follow(schedule(model, [depth] * 4, [True] * 4))
    found = pictures(generator)
    kept = ",".join(map(str, sorted(ORDER[:depth])))
    assert sanac("prune", pipeline, "--keep", kept, "--out", "pruned").code == 0
    assert (found == pictures(open_generator(open_model(locate("pruned"))))).all()


def test_an_unguided_step_is_the_prompts_branch_alone(model: Model, generator: DiffusionGenerator) -> None:
    generator.follow(None)
    stock = pictures(generator, guidance=1.0)
    generator.follow(schedule(model, [6] * 4, [False] * 4))
    assert (pictures(generator) == stock).all()


def test_an_unguided_step_of_both_branches_is_the_prompts_half(model: Model, generator: DiffusionGenerator) -> None:
    """In a batch of both branches, the half without the prompt is left out, and both get the prompt's velocity."""
    generator.follow(None)
    transformer, rng = generator.pipeline.transformer, torch.Generator().manual_seed(0)
    latents = torch.randn(4, 16, 4, 4, generator=rng)
    caption = torch.randn(4, 5, 64, generator=rng)
    mask, timestep = torch.tensor([[1, 1, 1, 1, 0]] * 4), torch.full((4,), 500.0)
    how = {"encoder_hidden_states": caption, "encoder_attention_mask": mask, "timestep": timestep}
    with torch.no_grad():
        stock = transformer(latents, **how).sample
        forward = ScheduledForward(schedule(model, [6] * 4, [False] * 4), views_of(transformer, plain(6, (1,))), 1000)
        with forward.batch_of(both_branches=True):
            found = forward(latents, **how).sample
        assert torch.allclose(found[2:], stock[2:], atol=1e-5)
        assert torch.equal(found[:2], found[2:])
        assert not torch.allclose(found[:2], stock[:2], atol=1e-2)
        assert torch.equal(forward(latents, **how).sample, stock), "without guidance all of it is the prompt's"


@pytest.mark.parametrize("guidance", [4.5, 1.0])
def test_blocks_that_run_are_the_schedules_sum(model: Model, generator: DiffusionGenerator, guidance: float) -> None:
    followed = schedule(model, [2, 4, 5, 6], [True, False, True, False])
    generator.follow(followed)
    counted: list[int] = []
    transformer = generator.pipeline.transformer
    hooks = [
        block.register_forward_hook(lambda _block, inputs, _out: counted.append(len(inputs[0])))
        for block in transformer.transformer_blocks
    ]
    pictures(generator, guidance=guidance)
    for hook in hooks:
        hook.remove()
    branches = sum(counted) / len(PROMPTS)  # forwards of one picture on one branch
    assert branches == (2 * followed.forwards if guidance > 1 else sum(followed.blocks))


def test_other_steps_follow_by_noise_level(model: Model, generator: DiffusionGenerator) -> None:
    short = schedule(model, [2, 6], [True, True])
    generator.follow(short)
    found = pictures(generator, steps=5)
    nearest = [short.step_at(level) for level in noise_levels(model, 5)]
    generator.follow(schedule(model, [short.blocks[step] for step in nearest], [True] * 5))
    assert (pictures(generator, steps=5) == found).all()


def test_one_image_at_a_time_is_the_same(model: Model, generator: DiffusionGenerator) -> None:
    generator.follow(schedule(model, [2, 4, 6, 6], [True, True, False, False]))
    together, alone = pictures(generator).astype(int), pictures(generator, batch=1).astype(int)
    assert np.abs(together - alone).max() <= 1


def with_schedule(pipeline: Path, folder: Path, made: Schedule) -> Path:
    """A plain folder with a schedule, as sanac schedule writes it."""
    import shutil

    shutil.copytree(pipeline, folder)
    (folder / "schedule.json").write_bytes(pretty(made.to_json()))
    return folder


def test_the_pipeline_of_python_follows_it(pipeline: Path, model: Model, tmp_path: Path) -> None:
    made = schedule(model, [2, 4, 6, 6], [True, True, False, False])
    folder = with_schedule(pipeline, tmp_path / "scheduled", made)
    stock = api.load_pipeline(folder)
    how = {"output_type": "np", "height": 256, "width": 256, "use_resolution_binning": False, "max_sequence_length": 10}
    levels: list[float] = []
    stock.transformer.register_forward_pre_hook(
        lambda _module, _inputs, given: levels.append(float(given["timestep"][0])), with_kwargs=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stock("a red circle", **how)
    assert tuple(map(round, levels)) == made.levels, "the schedule's steps are the default"
    with pytest.warns(UserWarning, match="the schedule has 4 steps: 7 steps take"):
        stock("a red circle", num_inference_steps=7, **how)


def test_threads_do_not_mix_guided_and_unguided_calls(pipeline: Path, model: Model, tmp_path: Path) -> None:
    made = schedule(model, [2, 4, 6, 6], [False] * 3 + [True])
    stock = api.load_pipeline(with_schedule(pipeline, tmp_path / "scheduled", made))
    how = {"output_type": "np", "height": 256, "width": 256, "use_resolution_binning": False, "max_sequence_length": 10}

    def call(scale: float) -> np.ndarray:
        import torch

        return stock("a red circle", guidance_scale=scale, generator=torch.Generator().manual_seed(0), **how).images

    expected = {scale: call(scale) for scale in (1.0, 4.5)}
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda number=number: found.update({number: call((1.0, 4.5)[number % 2])}))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, images in found.items():
        assert np.abs(images - expected[(1.0, 4.5)[number % 2]]).max() < 1e-3
    assert len(found) == 4


def test_guidance_inside_is_not_guided_again(sanac: Sanac, pipeline: Path, model: Model, tmp_path: Path) -> None:
    made = Schedule(ORDER, noise_levels(model, 4), (6,) * 4, (False,) * 4, guidance_inside=3.0)
    folder = with_schedule(pipeline, tmp_path / "inside", made)
    ran = sanac("generate", folder, "a red circle", "--guidance", "4.5", "--out", "pictures")
    assert ran.code == 2
    assert "4.5 can't be had from this model" in ran.err
    assert not (tmp_path / "pictures").exists()
    assert sanac("generate", folder, "a red circle", "--out", "pictures").code == 0
    assert sanac("generate", folder, "a red circle", "--guidance", "3", "--out", "pictures").code == 0
    stock = api.load_pipeline(folder)
    with pytest.raises(UsageError, match="7 can't be had"):
        stock("a red circle", guidance_scale=7.0)
    assert open_model(locate(str(folder))).schedule == made
