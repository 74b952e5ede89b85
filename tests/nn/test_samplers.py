"""SANA-Sprint is sampled as stock diffusers does, noise between steps included, and trains on the states it meets."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SanaSprintPipeline, SCMScheduler
from torch import Tensor

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.sampling import SamplerSettings, StepSample, SweepProgress, sample
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.text_encoding import encode
from sanac.nn.pipeline_config import check_computable, sampler, scheduler_of
from sanac.nn.samplers import sampler_of
from sanac.nn.streaming import Blocks
from sanac.train.flow_matching import FewStepTimes, Times, noised, velocity

PROMPTS = ["two red circles", "a blue square above a cross", "a triangle"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(sprint: Path) -> Model:
    return open_model(locate(str(sprint)))


def _steps(model: Model, steps: int, **options) -> list[tuple[StepSample, Tensor]]:
    sampling = SamplerSettings(steps, guidance=3.0, seed=3, side=4, batch=2)
    captions, scheduler = encode(model, PROMPTS, CPU), sampler(scheduler_of(model))
    blocks = Blocks(model, CPU, torch.float32, resident=True)
    with torch.no_grad():
        config = dict(model.transformer.config)
        return list(sample(blocks, scheduler, captions, sampling, lambda *_: None, config, **options))


def _stock(sprint: Path, steps: int, offset: int = 0) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Final latents, and the transformer's inputs and output at each step."""
    pipeline, seen = SanaSprintPipeline.from_pretrained(sprint), []
    pipeline.set_progress_bar_config(disable=True)

    def hook(_module, given, named, found) -> None:
        seen.append((*given, named["timestep"], named["guidance"], found[0]))

    pipeline.transformer.register_forward_hook(hook, with_kwargs=True)
    seeds = [torch.Generator().manual_seed(3 * 1_000_003 + offset + number) for number in range(len(PROMPTS))]
    how = {"height": 512, "width": 512, "use_resolution_binning": False, "output_type": "latent"}
    how |= {} if steps == 2 else {"intermediate_timesteps": None}
    found = pipeline(PROMPTS, num_inference_steps=steps, guidance_scale=3.0, generator=seeds, **how).images
    return found, seen


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_it_samples_what_the_pipeline_samples(steps: int, model: Model, sprint: Path) -> None:
    """The same inputs, guidance and output of the model at each step, and the same latents at the end."""
    found, (latents, seen) = _steps(model, steps, offset=7), _stock(sprint, steps, offset=7)
    assert len(found) == len(seen) == steps
    for (moment, _), (inputs, timesteps, guidance, output) in zip(found, seen, strict=True):
        assert torch.allclose(moment.latents, inputs, atol=1e-5)
        assert torch.allclose(moment.timestep.expand(3), timesteps)
        assert torch.allclose(guidance, torch.full((3,), 0.3))
        assert torch.allclose(moment.velocity, output, atol=1e-5)
    assert torch.allclose(found[-1][1], latents, atol=1e-5)
    assert latents.std() > 0.1


def test_a_stopped_run_continues_with_the_same_noise(model: Model) -> None:
    places: list[SweepProgress] = []
    whole = _steps(model, 4, on_progress=places.append)
    known = [moment.velocity for moment, _ in whole]
    place = places[-1]
    again = _steps(model, 4, known_velocities=known[: place.step], resume_from=place)
    assert place.step == 3
    for (moment, latents), (other, same) in zip(whole, again, strict=True):
        assert torch.equal(moment.velocity, other.velocity)
        assert torch.equal(latents, same)


def test_noise_is_that_of_the_prompt_alone(model: Model) -> None:
    """Adding prompts changes neither the starting noise of the others nor what is added between steps."""
    whole = _steps(model, 4)
    few = _steps(model, 4, offset=1)
    assert not torch.equal(whole[0][0].latents[0], few[0][0].latents[0])
    assert torch.equal(whole[0][0].latents[1:], few[0][0].latents[:-1])


@pytest.mark.parametrize("sigma", [0.5, 0.7])
def test_the_model_sees_flow_matching_states(sigma: float) -> None:
    """Trigflow states become (1 - s) x + s e, and the velocity e - x leads back to x: training states are the same."""
    torch.manual_seed(0)
    data, noise = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    seeds = [torch.Generator().manual_seed(number) for number in range(2)]
    for steps in (1, 2, 3):
        found = sampler_of(SCMScheduler(sigma_data=sigma), {}, steps, seeds, CPU)
        assert len(found) == steps
        for step in range(steps):
            latents, s = found.noised(step, data, noise), found.timestep(step)
            assert torch.allclose(found.model_input(step, latents), noised(data, noise, s.expand(2)), atol=1e-5)
            after = found.advance(step, velocity(data, noise), latents)
            assert torch.allclose(after, data, atol=1e-5) == (step == steps - 1), "then noise is added again"
    angle = torch.tensor(1.3)
    found = sampler_of(SCMScheduler(), {}, 2, seeds, CPU)
    assert torch.allclose(found.timestep(1), angle.sin() / (angle.sin() + angle.cos()))


def test_half_of_the_training_starts_from_pure_noise() -> None:
    levels = FewStepTimes().draw(20_000, torch.Generator().manual_seed(0))
    assert abs(float((levels == 1).float().mean()) - 0.5) < 0.02
    plain = Times().draw(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(levels[levels < 1], plain[levels < 1])


def test_recorded_steps_have_one_branch(model: Model) -> None:
    """Both steps are recorded unless told otherwise; memory is that of one branch; the whole model has no error."""
    job = calibration(model, CalibrationSettings(num_prompts=4), every=4)
    assert (job.sampling.steps, job.moments, job.tokens) == (2, 2, job.sampling.side**2)
    with torch.no_grad():
        states = job.sample()
        assert [len(states.starts(moment)) for moment in states.moments] == [1, 1]
        whole = states.errors([(0, 1, 2), (0, 2)])
    assert float(whole[0, 1, 2].max()) < 1e-9
    assert float(whole[0, 2].min()) > 1e-6


def test_a_transformer_alone_has_sprints_scheduler(model: Model, sprint: Path) -> None:
    check_computable(model)
    alone = open_model(locate(str(sprint / "transformer")))
    check_computable(alone)
    assert scheduler_of(alone)["_class_name"] == "SCMScheduler", "as there is no other"
    with pytest.raises(InvalidInput, match="scheduler can't be built"):
        sampler({"_class_name": "SCMScheduler", "prediction_type": "epsilon"})


def test_another_models_scheduler_is_refused(sprint: Path, pipeline: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(sprint, tmp_path / "mixed"))
    shutil.copy(pipeline / "scheduler" / "scheduler_config.json", mixed / "scheduler" / "scheduler_config.json")
    with pytest.raises(UsageError, match="can't be sampled with DPMSolverMultistepScheduler"):
        check_computable(open_model(locate(str(mixed))))
