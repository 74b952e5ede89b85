"""The teacher's trajectories as examples: what is recorded is what stock diffusers says, and each step comes once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import split_block
from sanac.core.progress import NULL_REPORTER
from sanac.finetune.batches import BatchSampler
from sanac.finetune.defaults import FEWEST, usual_samples
from sanac.finetune.distillation import RecoveryTask
from sanac.finetune.plan import resolve_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.student import freeze, open_student
from sanac.finetune.training_job import FinetuneJob
from sanac.finetune.trajectories import open_trajectories
from sanac.nn.guidance import guidance_of
from sanac.train.loop import generator_for
from tests.conftest import Sanac
from tests.finetune.test_teacher_cache import write_part

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
STEPS, PICTURES = 3, 4
SETTINGS = FinetuneSettings(
    targets="trajectories", samples=PICTURES, teacher_steps=STEPS, batch=5, steps=4, caption_dropout=0.4
)


def job_of(model: Model, folder: Path, settings: FinetuneSettings = SETTINGS) -> FinetuneJob:
    return resolve_finetune(model, settings, ConfinedPath(folder), model).prepare(NULL_REPORTER)


@pytest.mark.parametrize("which", ["pipeline", "sprint"])
def test_targets_are_what_stock_diffusers_says(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = open_model(locate(str(request.getfixturevalue(which))))
    job = job_of(model, tmp_path)
    assert not job.taught, "the teacher never runs again"
    stock, guidance = open_student(model, CPU, torch.float32).eval(), guidance_of(model.transformer.config)
    for number in range(3):
        batch = job.sampler.draw(job.data, number)
        assert batch.noise is None
        with torch.no_grad():
            found = stock(
                batch.states,
                batch.samples.embeddings,
                batch.levels * guidance.timesteps,
                guidance=guidance.embedded(len(batch.picked), CPU),
                encoder_attention_mask=batch.samples.mask,
            ).sample
        assert batch.targets is not None
        assert torch.allclose(found, batch.targets, atol=5e-3, rtol=5e-3), "up to fp16, in which both are stored"


def test_each_step_comes_once_before_any_comes_again(pipeline: Path, tmp_path: Path) -> None:
    job = job_of(open_model(locate(str(pipeline))), tmp_path)
    total = PICTURES * STEPS
    places = [job.sampler._place(position, total) for position in range(3 * total)]
    for epoch in range(3):
        assert sorted(places[epoch * total : (epoch + 1) * total]) == list(range(total))
    assert places[:total] != places[total : 2 * total]
    pictures = Counter(picture for number in range(12) for picture in job.sampler.draw(job.data, number).picked)
    assert set(pictures.values()) == {15}, "60 examples of 4 pictures"


def test_micro_batches_add_up_to_the_batch(pipeline: Path, tmp_path: Path) -> None:
    model = open_model(locate(str(pipeline)))
    job = job_of(model, tmp_path)

    def gradients(micro_batch: int | None) -> tuple[float, dict[str, torch.Tensor]]:
        student = open_student(model, CPU, torch.float32)
        with torch.no_grad():
            student.proj_out.weight.mul_(1.3)
        task = RecoveryTask(student, job.data, job.sampler, {"distill": 1.0}, micro_batch=micro_batch)
        losses = list(task.losses(generator_for(0, 0), 0))
        assert len(losses) == (1 if micro_batch is None else -(-5 // micro_batch))
        for loss in losses:
            loss.backward()
        return float(sum(losses)), {name: weight.grad for name, weight in student.named_parameters()}

    whole, parts = gradients(None), gradients(2)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    for name, gradient in whole[1].items():
        assert torch.allclose(gradient, parts[1][name], atol=1e-6, rtol=1e-3), name


def test_frozen_blocks_and_what_comes_before_them_stay(pipeline: Path) -> None:
    student = open_student(open_model(locate(str(pipeline))), CPU, torch.float32)
    freeze(student, 2)
    trained = {name for name, weight in student.named_parameters() if weight.requires_grad}
    assert {split[0] for name in trained if (split := split_block(name))} == {2, 3, 4, 5}
    assert not any(name.startswith(("patch_embed", "time_embed", "caption")) for name in trained)
    assert "proj_out.weight" in trained


def test_as_many_pictures_as_the_steps_need() -> None:
    assert usual_samples(6400, 20, 2, trajectories=False) == 60
    assert usual_samples(64_000, 20, 2, trajectories=False) == 600
    assert usual_samples(6400, 20, 2, trajectories=True) == 160
    assert usual_samples(10, 20, 2, trajectories=True) == FEWEST


def test_data_without_trajectories_has_none(pipeline: Path, tmp_path: Path) -> None:
    model = open_model(locate(str(pipeline)))
    write_part(tmp_path / "data", "a", 5)
    plain = FinetuneSettings(data=str(tmp_path / "data"), batch=2, steps=1, loss=("flow",))
    job = resolve_finetune(model, plain, ConfinedPath(tmp_path)).prepare(NULL_REPORTER)
    assert isinstance(job.sampler, BatchSampler)
    assert open_trajectories(job.data.latents, model.architecture) is None


def test_damaged_trajectories_are_refused(pipeline: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = open_model(locate(str(pipeline)))
    job = job_of(model, tmp_path)
    (part,) = Path(job.data.folder).glob("part-*.safetensors")
    whole = load_file(part)
    for name, broken in (("outputs", whole["outputs"][:, :1]), ("timesteps", whole["timesteps"][:, :2])):
        save_file(whole | {name: broken.contiguous()}, part)
        with pytest.raises(InvalidInput, match="trajectories"):
            open_trajectories(replace(job).data.latents, model.architecture)
    save_file({name: tensor for name, tensor in whole.items() if name != "timesteps"}, part)
    with pytest.raises(InvalidInput, match="trajectories"):
        open_trajectories(job.data.latents, model.architecture)


def test_a_recovery_on_trajectories(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0,1,3,5", "--out", "small").code == 0
    few = ("--samples", "6", "--teacher-steps", "4", "--steps", "30", "--batch", "8", "--learning-rate", "0.003")
    ran = sanac("finetune", "small", *few, "--targets", "trajectories", "--out", "out", "--json")
    assert ran.code == 0, ran.err
    assert "48 forward passes of the teacher" in ran.err
    assert "running the teacher" not in ran.err
    measured = sanac("finetune", "small", *few, "--targets", "trajectories", "--out", "out", "--json")
    assert measured.json["status"] == "cached"
    for wrong in (("--loss", "flow"), ("--data", "shapes")):
        assert sanac("finetune", "small", *few, "--targets", "trajectories", *wrong, "--out", "x").code == 2
