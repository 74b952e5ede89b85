"""What a step of recovery asks for: the data's velocity, the teacher's, the teacher's stream."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanac.core.artifact.cached_step import run_step
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.finetune.distillation import RecoveryTask, feature_loss
from sanac.finetune.encoded_dataset import Prepared, open_prepared
from sanac.finetune.student import open_student
from sanac.finetune.teacher_cache import TeacherCache
from sanac.nn.guidance import guidance_of
from sanac.train.loop import Settings, generator_for, train
from sanac.train.schedule import Schedule
from tests.finetune.test_teacher_cache import DRAWING, teaching, write_part

CPU = torch.device("cpu")
ANY = generator_for(0, 0)


@pytest.fixture
def data(tmp_path: Path, pipeline: Path) -> Prepared:
    write_part(tmp_path / "data", "a", 9)
    return open_prepared(tmp_path / "data", open_model(locate(str(pipeline))).architecture)


@pytest.fixture
def lessons(pipeline: Path, data: Prepared, tmp_path: Path) -> TeacherCache:
    return run_step(teaching(pipeline, data, tmp_path / "said", exits=tuple(range(6)), count=3), NULL_REPORTER)


def task(pipeline: Path, data: Prepared, weights: dict[str, float], lessons: TeacherCache | None) -> RecoveryTask:
    student = open_student(open_model(locate(str(pipeline))), CPU, torch.float32)
    return RecoveryTask(student, data, DRAWING, weights, lessons, tuple(range(6)))


def test_the_student_is_the_stored_model(pipeline: Path, data: Prepared, lessons: TeacherCache) -> None:
    """So it says what its teacher, the same model, says: up to the bf16 that this is stored in."""
    for name in ("distill", "features"):
        assert float(task(pipeline, data, {name: 1.0}, lessons).loss(ANY, 1).detach()) < 1e-4
    assert float(task(pipeline, data, {"flow": 1.0}, None).loss(ANY, 1).detach()) > 0.5


def test_sprint_is_passed_guidance_and_timesteps_up_to_one(sprint: Path, data: Prepared, tmp_path: Path) -> None:
    """The teacher's outputs are what stock diffusers says, and the student, the same model, says the same."""
    lessons = run_step(teaching(sprint, data, tmp_path / "sprint", exits=tuple(range(3)), count=2), NULL_REPORTER)
    student = open_student(open_model(locate(str(sprint))), CPU, torch.float32)
    batch = DRAWING.draw(data, 1)
    with torch.no_grad():
        inputs = (batch.states, batch.samples.embeddings, batch.levels, torch.full((len(batch.levels),), 0.45))
        stock = student.eval()(*inputs, encoder_attention_mask=batch.samples.mask).sample
    assert torch.equal(lessons.velocity(1), stock.bfloat16().float())
    job = RecoveryTask(
        student, data, DRAWING, {"distill": 1.0}, lessons, (0, 1, 2), guidance=guidance_of(student.config)
    )
    for name in ("distill", "features"):
        assert float(replace(job, weights={name: 1.0}).loss(ANY, 1).detach()) < 1e-4


def test_losses_are_weighed_and_added(pipeline: Path, data: Prepared, lessons: TeacherCache) -> None:
    def loss(weights: dict[str, float]) -> float:
        job = task(pipeline, data, weights, lessons)
        with torch.no_grad():
            job.transformer.proj_out.weight.mul_(1.5)
            job.transformer.transformer_blocks[2].attn1.to_out[0].weight.mul_(-9)
        return float(job.loss(ANY, 0).detach())

    flow, distill, features = (loss({name: 1.0}) for name in ("flow", "distill", "features"))
    assert min(flow, distill, features) > 1e-4
    weighed = loss({"flow": 0.5, "distill": 2.0, "features": 3.0})
    assert weighed == pytest.approx(0.5 * flow + 2 * distill + 3 * features, rel=1e-5)


def test_batches_come_round_again(pipeline: Path, data: Prepared, lessons: TeacherCache) -> None:
    job = task(pipeline, data, {"distill": 1.0}, lessons)
    with torch.no_grad():
        job.transformer.proj_out.weight.mul_(1.5)
        found = [float(job.loss(ANY, number)) for number in (0, 1, 2, 3)]
    assert found[3] == found[0]
    assert len(set(found[:3])) == 3
    assert job.shown.startswith("batch 0: samples ")


def test_outliers_don_t_count() -> None:
    taught = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    mine = taught + 0.1
    plain = feature_loss([mine], [taught])
    wild = taught.clone()
    wild[0, 0, 0] = 1e4
    assert float(feature_loss([mine], [wild])) < 2 * float(plain)
    assert float(feature_loss([taught], [taught])) == 0
    assert float(feature_loss([mine * 2, taught], [taught * 2, taught])) == pytest.approx(float(plain) / 2, rel=0.2)


def test_features_with_checkpointing_are_the_same(pipeline: Path, data: Prepared, lessons: TeacherCache) -> None:
    def gradients(*, checkpointing: bool) -> list[Tensor]:
        job = task(pipeline, data, {"features": 1.0, "distill": 1.0}, lessons)
        with torch.no_grad():
            job.transformer.transformer_blocks[0].ff.conv_point.weight.mul_(1.5)
        if checkpointing:
            job.transformer.enable_gradient_checkpointing()
        job.loss(ANY, 0).backward()
        return [weight.grad for weight in job.transformer.parameters() if weight.grad is not None]

    for one, other in zip(gradients(checkpointing=False), gradients(checkpointing=True), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_what_was_broken_is_learned_again(
    pipeline: Path, data: Prepared, lessons: TeacherCache, tmp_path: Path
) -> None:
    job = task(pipeline, data, {"distill": 1.0, "features": 0.1}, lessons)
    with torch.no_grad():
        job.transformer.proj_out.weight.mul_(-1)
    before = float(job.loss(ANY, 0).detach())
    train(
        job, Settings(Schedule(3e-3, 60, warmup=5), optimizer="came8bit", log_every=60), tmp_path / "run", NULL_REPORTER
    )
    assert float(job.loss(ANY, 0).detach()) < 0.5 * before
