"""The fine-tuning job: its batches and settings, the teacher's outputs, the training, and the artifact job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.core.quant.layer_rules import QuantPlan
from sanac.core.safetensors_header import read_header
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.finetune.batches import BatchSampler, Sampler, TrajectorySampler, without_captions
from sanac.finetune.data_source import teacher_blocks
from sanac.finetune.distillation import RecoveryTask
from sanac.finetune.encoded_dataset import Prepared
from sanac.finetune.find_teacher import blocks_of
from sanac.finetune.guidance_distillation import caption_dropout, guidance_inside, with_guidance_inside
from sanac.finetune.intervals import STATES, intervals_of, train_intervals
from sanac.finetune.lora import add_lora, merged, save_adapter
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.student import freeze, open_student, save_weights
from sanac.finetune.teacher_cache import TeacherCache, TeacherPass
from sanac.finetune.training_plan import TrainingPlan
from sanac.finetune.trajectories import open_trajectories
from sanac.nn.calibration.memory import default_limit
from sanac.nn.device import pick_device
from sanac.nn.guidance import ClassifierFree, config_of, guidance_of
from sanac.nn.pipeline_config import scheduler_of
from sanac.nn.precision import dtype_of, open_blocks, result_settings
from sanac.nn.quant.layers import simulate
from sanac.nn.streaming import DTYPES, read_tensor
from sanac.train.flow_matching import FewStepTimes, Times
from sanac.train.loop import Callbacks, Settings, train
from sanac.train.memory import out_of_memory
from sanac.train.schedule import Schedule

SCHEMA = 1  # raised when the same settings would train differently
RATE, GENTLE = 0.1, 0.01  # default learning rate times width; GENTLE for fake quantization
WARMUP = 0.1  # default share of the steps
FAKE_QUANT_SCHEMA = 1  # raised when fake quantization would train differently


@dataclass(frozen=True)
class FinetuneJob:
    """A fine-tuning job with all settings resolved and its data encoded."""

    model: Model
    teacher: Model | None
    data: Prepared
    settings: FinetuneSettings
    losses: Mapping[str, float]
    workspace: ConfinedPath
    training: TrainingPlan
    fake_quant_plan: QuantPlan | None = None
    teaching: str = "fp32"  # precision of the teacher's forward passes
    recorded: bool = False  # whether the data holds the teacher's trajectories
    guide: ClassifierFree | None = None  # the guidance that the teacher's two branches give the velocity

    @property
    def batch(self) -> int:
        """Samples per batch."""
        return self.training.batch

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return (
            self.settings.learning_rate
            or (GENTLE if self.settings.fake_quant else RATE) / self.model.architecture.width
        )

    @cached_property
    def sampler(self) -> Sampler:
        """Draws steps of the teacher's trajectories, or noised samples with the flow shift of the model's scheduler."""
        dropout, seed = caption_dropout(self.settings, self.model), self.settings.seed
        found = open_trajectories(self.data.latents, self.model.architecture) if self.recorded else None
        if found:
            guidance = guidance_of(config_of(self.model))
            return TrajectorySampler(self.batch, found, guidance.timesteps, seed, dropout, self.guide)
        scheduler = scheduler_of(self.model)
        shift = scheduler.get("flow_shift", scheduler.get("shift", 3.0))
        times = (FewStepTimes if self.model.architecture.guidance else Times)(shift=float(shift))
        return BatchSampler(self.batch, seed, times, dropout)

    @property
    def train_settings(self) -> Settings:
        """Settings of the training loop."""
        settings = self.settings
        warmup = round(WARMUP * settings.steps) if settings.warmup is None else settings.warmup
        return Settings(
            Schedule(self.rate, settings.steps, warmup=warmup),
            clip=settings.clip,
            average=self.training.average,
            optimizer=settings.optimizer,
            accumulate=settings.accumulate,
            precision=self.training.precision,
            seed=settings.seed,
            save_every=settings.save_every,
            log_every=max(1, min(25, settings.steps // 20)),
            average_on_host=self.training.average_on_host,
        )

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """The teacher's block that each of the student's was; empty where hidden states aren't imitated."""
        if "features" not in self.losses and not self.settings.intervals:
            return ()
        assert self.teacher is not None
        sources = blocks_of(self.teacher, self.model)
        found = [index for index in sources or () if index is not None]
        if sources is None or len(found) != len(sources):
            what = "--intervals" if self.settings.intervals else "--loss features"
            raise UsageError(
                f"{what} can't match the student's blocks to the teacher's",
                why=f"{self.model.located.name} was not pruned from {self.teacher.located.name}",
                hint="use --loss distill, or pass the model that it was pruned from with --teacher",
            )
        return tuple(found)

    @cached_property
    def distinct(self) -> int:
        """Number of distinct batches with cached teacher outputs: all, unless they exceed the cache limit."""
        batches = self.settings.steps * self.settings.accumulate
        height, width = self.data.latents.size
        architecture = self.model.architecture
        sample = architecture.in_channels * height * width
        sample += len(self.feature_blocks) * height * width // architecture.patch_size**2 * architecture.width
        fitting = self.settings.teacher_cache // (2 * sample * self.batch)
        if fitting < 1:
            raise UsageError(
                f"--teacher-cache {self.settings.teacher_cache:,} is too small",
                why=f"the teacher's outputs for one batch take {2 * sample * self.batch:,} bytes",
                hint="a larger --teacher-cache, a smaller --batch, or --loss distill without features",
            )
        return min(batches, fitting)

    @property
    def teacher_cache_key(self) -> str:
        """Content key: equal for jobs with the same teacher outputs."""
        assert self.teacher is not None
        sampler, features = self.sampler.settings, list(self.feature_blocks)
        more = list(result_settings(self.teaching).values())
        more += [f"guided by {self.guide.scale}"] if self.guide else []
        return json_files.key_of(
            ["teach", SCHEMA, self.teacher.identity(), self.data.identity, sampler, features, *more]
        )

    def artifact_job(self, options: WriteOptions) -> ArtifactJob:
        """The artifact job, before training: settings, key and description."""
        settings = self.train_settings.result_settings
        how: dict[str, Any] = {
            "schema": SCHEMA,
            "loop": settings,
            "drawing": self.sampler.settings,
            "losses": dict(self.losses),
            "data": self.data.identity,
            "checkpointing": self.settings.checkpointing,
            "lora": self.training.lora,
        }
        if self.settings.intervals:
            how["intervals"] = list(self.feature_blocks)
        if self.settings.freeze_first:
            how["freeze_first"] = self.settings.freeze_first
        if "features" in self.losses and self.training.micro_batch < self.batch:  # they are normalised per pass
            how["micro_batch"] = self.training.micro_batch
        if self.settings.fake_quant:
            how["fake_quant"] = [FAKE_QUANT_SCHEMA, self.settings.fake_quant]
        if self.teacher:
            how["teacher"] = [self.teacher.identity(), self.distinct if self.taught else 0, list(self.feature_blocks)]
        inside = guidance_inside(self.settings, self.model)
        if inside is not None:
            how["guidance_inside"] = inside
        plan = keep_blocks(self.model.architecture.blocks, list(range(self.model.architecture.blocks)))
        description = f"{self.settings.steps} steps of {' and '.join(self.losses)}"
        description += f", guidance of {inside:g} inside" if inside is not None else ""
        description += f" for {self.settings.fake_quant}" if self.settings.fake_quant else ""
        job = replace(plan_artifact("finetune", self.model, plan, how, options), description=description)
        return job if inside is None else replace(job, new_schedule=with_guidance_inside(self.model, inside))

    @property
    def taught(self) -> bool:
        """Whether the teacher has to run on the batches themselves."""
        recorded = {"distill"} if self.recorded else set()
        if self.settings.intervals:
            return False
        return self.teacher is not None and bool(({"distill", "features"} - recorded) & set(self.losses))

    def folder(self, job: ArtifactJob) -> ConfinedPath:
        """Workspace folder of the training state; kept until the artifact is complete."""
        return self.workspace / f"training-{job.key[:8]}"

    @property
    def plain_settings(self) -> dict[str, object]:
        """Scalar settings for experiment trackers."""
        return asdict(self.train_settings.schedule) | {"batch": self.batch, "optimizer": self.settings.optimizer}

    def trained(self, job: ArtifactJob, reporter: Reporter, callbacks: Callbacks) -> ArtifactJob:
        """The job with the trained weights, from an earlier run or trained now."""
        file = run_step(TrainingRun(self, job, callbacks), reporter, fresh=self.settings.fresh)
        refs = read_header(Path(file)).tensors
        return replace(job, replaced=refs, overrides_digest=digest_file(file))

    def teacher_outputs(self, device: torch.device, reporter: Reporter) -> TeacherCache | None:
        """The teacher's outputs for all batches, cached or computed now; None without a teacher."""
        if self.teacher is None or not self.taught:
            return None
        limit = self.settings.memory_limit or default_limit(str(device))
        config = config_of(self.teacher)
        teacher_pass = TeacherPass(
            teacher_blocks(self.teacher, self.settings, str(device), self.teaching),
            config,
            lambda number: self.sampler.draw(self.data, number),
            self.feature_blocks,
            limit // 4,
            self.workspace / f"teacher-{self.teacher_cache_key[:8]}",
            self.teacher_cache_key,
            self.distinct,
            self.guide,
            lambda batch: without_captions(self.data, batch),
        )
        return run_step(teacher_pass, reporter)


@dataclass(frozen=True)
class TrainingRun(CachedStep[ConfinedPath]):
    """The training of a job; its result is the file of the trained weights."""

    plan: FinetuneJob
    job: ArtifactJob
    callbacks: Callbacks

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the training"

    @property
    def key(self) -> str:
        """Content key of the trained weights."""
        return self.job.key

    @property
    def file(self) -> ConfinedPath:
        """Path of the trained weights."""
        return self.plan.folder(self.job) / "trained.safetensors"

    def load(self) -> ConfinedPath | None:
        """The file, if training was completed."""
        return self.file if self.file.is_file() else None

    def forget(self) -> None:
        """Delete checkpoints, metrics and trained weights."""
        self.file.parent.rmtree(ignore_errors=True)

    def compute(self, reporter: Reporter) -> ConfinedPath:
        """Train, continuing from the newest checkpoint, and write the weights in the model's dtypes."""
        plan, settings, training = self.plan, self.plan.settings, self.plan.training
        device = torch.device(pick_device(settings.device))
        if settings.intervals:
            return self._intervals(str(device), reporter)
        teacher_cache = plan.teacher_outputs(device, reporter)
        with out_of_memory(f"--micro-batch {max(1, training.micro_batch // 2)}, or --checkpointing"):
            student = open_student(plan.model, device, dtype_of("bf16" if training.half_weights else "fp32"))
            if training.lora:
                add_lora(student, plan.model.architecture, training.lora, settings.seed)
            freeze(student, settings.freeze_first)
            if plan.fake_quant_plan:
                simulate(student, plan.fake_quant_plan.specs, DTYPES[plan.fake_quant_plan.dtype])
            if training.checkpointing:
                student.enable_gradient_checkpointing()
            task = RecoveryTask(
                student,
                plan.data,
                plan.sampler,
                plan.losses,
                teacher_cache,
                plan.feature_blocks,
                guidance_of(student.config),
                training.micro_batch if training.micro_batch < plan.batch else None,
                compiled=settings.compile,
            )
            weights = train(task, plan.train_settings, self.file.parent, reporter, self.callbacks)["transformer"]
        student.load_state_dict(weights, strict=False)
        if settings.lora_file:
            save_adapter(weights, settings.lora_file)
        save_weights(merged(student) if training.lora else student.state_dict(), plan.model, self.file)
        return self.file

    def _intervals(self, device: str, reporter: Reporter) -> ConfinedPath:
        """Train the blocks before gaps alone, on the teacher's hidden states."""
        plan, precision = self.plan, "fp32"
        assert plan.teacher is not None
        teacher = teacher_blocks(plan.teacher, plan.settings, device, plan.teaching)
        student = open_blocks(plan.model, device, precision)
        height, width = plan.data.latents.size
        tokens = plan.batch * height * width // plan.model.architecture.patch_size**2
        steps = plan.settings.steps * plan.settings.accumulate
        batches = [plan.sampler.draw(plan.data, number) for number in range(max(1, min(steps, STATES // tokens)))]
        intervals = intervals_of(plan.feature_blocks, plan.teacher.architecture.blocks)
        identity = f"{plan.data.identity} {plan.sampler.identity} {len(batches)} {plan.teaching}"
        place = self.file.parent
        trained = train_intervals(intervals, teacher, student, batches, plan.train_settings, identity, place, reporter)
        whole = {ref.name: read_tensor(ref, torch.device("cpu"), DTYPES[ref.dtype]) for ref in plan.model.weights}
        save_weights(whole | trained, plan.model, self.file)
        return self.file
