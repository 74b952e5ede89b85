"""The fine-tuning job: resolves teacher, data and losses, checks memory, trains, and builds the artifact job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.confined import ConfinedPath
from sanac.core.errors import MissingResource, UsageError
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.core.quant.layer_rules import QuantPlan, QuantRequest, plan_quantization
from sanac.core.quant.schemes import scheme_of
from sanac.core.safetensors_header import read_header
from sanac.core.units import bytes_text
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact, refuse_quantized
from sanac.finetune import image_text_data
from sanac.finetune.batches import BatchSampler
from sanac.finetune.distillation import RecoveryTask
from sanac.finetune.encode_dataset import EncodingJob
from sanac.finetune.encoded_dataset import Prepared, open_prepared
from sanac.finetune.find_teacher import blocks_of, check_teacher, parent_of
from sanac.finetune.lora import add_lora, merged, save_adapter
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.student import open_student, save_weights
from sanac.finetune.synthetic_data import SyntheticLatents
from sanac.finetune.teacher_cache import TeacherCache, TeacherPass
from sanac.nn.calibration.prompts import choose_prompts
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.device import free_memory, pick_device
from sanac.nn.guidance import guidance_of, usual_steps
from sanac.nn.pipeline_config import check_computable, latent_side, scheduler_of, vocabulary_of
from sanac.nn.quant.layers import simulate
from sanac.nn.streaming import DTYPES, Blocks
from sanac.train.flow_matching import FewStepTimes, Times
from sanac.train.loop import Callbacks, Settings, train
from sanac.train.memory import Load, Memory, estimate_memory
from sanac.train.schedule import Schedule

SCHEMA = 1  # raised when the same settings would train differently
TOKENS = 16_384  # tokens per batch that the default batch size aims at
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

    @property
    def batch(self) -> int:
        """Samples per batch."""
        height, width = self.data.latents.size
        tokens = height * width // self.model.architecture.patch_size**2
        return self.settings.batch or max(1, min(64, TOKENS // tokens))

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return (
            self.settings.learning_rate
            or (GENTLE if self.settings.fake_quant else RATE) / self.model.architecture.width
        )

    @property
    def sampler(self) -> BatchSampler:
        """Batch sampler; noise levels use the flow shift of the model's scheduler."""
        scheduler = scheduler_of(self.model)
        shift = scheduler.get("flow_shift", scheduler.get("shift", 3.0))
        times = (FewStepTimes if self.model.architecture.guidance else Times)(shift=float(shift))
        return BatchSampler(self.batch, self.settings.seed, times, self.settings.caption_dropout)

    @property
    def train_settings(self) -> Settings:
        """Settings of the training loop."""
        settings = self.settings
        warmup = round(WARMUP * settings.steps) if settings.warmup is None else settings.warmup
        return Settings(
            Schedule(self.rate, settings.steps, warmup=warmup),
            clip=settings.clip,
            average=settings.ema,
            optimizer=settings.optimizer,
            accumulate=settings.accumulate,
            precision=settings.precision,
            seed=settings.seed,
            save_every=settings.save_every,
            log_every=max(1, min(25, settings.steps // 20)),
        )

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Teacher block whose hidden states each student block imitates; empty without the feature loss."""
        if "features" not in self.losses:
            return ()
        assert self.teacher is not None
        sources = blocks_of(self.teacher, self.model)
        found = [index for index in sources or () if index is not None]
        if sources is None or len(found) != len(sources):
            raise UsageError(
                "--loss features can't match the student's blocks to the teacher's",
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
        sampler = asdict(self.sampler)
        return json_files.key_of(
            ["teach", SCHEMA, self.teacher.identity(), self.data.identity, sampler, list(self.feature_blocks)]
        )

    def artifact_job(self, options: WriteOptions) -> ArtifactJob:
        """The artifact job, before training: settings, key and description."""
        settings = asdict(self.train_settings) | {"save_every": 0, "log_every": 0}
        how: dict[str, Any] = {
            "schema": SCHEMA,
            "loop": settings,
            "drawing": asdict(self.sampler),
            "losses": dict(self.losses),
            "data": self.data.identity,
            "checkpointing": self.settings.checkpointing,
            "lora": self.settings.lora,
        }
        if self.settings.fake_quant:
            how["fake_quant"] = [FAKE_QUANT_SCHEMA, self.settings.fake_quant]
        if self.teacher:
            how["teacher"] = [self.teacher.identity(), self.distinct, list(self.feature_blocks)]
        plan = keep_blocks(self.model.architecture.blocks, list(range(self.model.architecture.blocks)))
        description = f"{self.settings.steps} steps of {' and '.join(self.losses)}"
        description += f" for {self.settings.fake_quant}" if self.settings.fake_quant else ""
        return replace(plan_artifact("finetune", self.model, plan, how, options), description=description)

    def folder(self, job: ArtifactJob) -> ConfinedPath:
        """Workspace folder of the training state; kept until the artifact is complete."""
        return self.workspace / f"training-{job.key[:8]}"

    def memory(self) -> Memory:
        """Estimated memory of training."""
        height, width = self.data.latents.size
        caption = int(self.data.longest)
        settings = self.settings
        load = Load(self.batch, height, width, caption, settings.checkpointing, settings.precision, settings.lora)
        config = self.model.transformer.config or self.model.architecture.config()
        found = estimate_memory(config, load, settings.optimizer, average=bool(settings.ema))
        specs = self.fake_quant_plan.specs.values() if self.fake_quant_plan else ()
        kept = sum(4 * how.shape[0] * how.columns for how in specs)  # fake-quantized copies for backward
        return replace(found, activations=found.activations + kept)

    def check_room(self, memory: Memory) -> None:
        """Raise MissingResource if training would not fit into memory; the hint lists what each option saves."""
        free = free_memory(pick_device(self.settings.device))
        if memory.total <= free:
            return
        settings = self.settings
        half = max(1, self.batch // 2)
        ways = {
            f"--batch {half} --accumulate {2 * settings.accumulate}": replace(settings, batch=half),
            "--checkpointing": replace(settings, checkpointing=True),
            "--optimizer came8bit": replace(settings, optimizer="came8bit"),
            "--ema 0": replace(settings, ema=0.0),
            "--lora 16": replace(settings, lora=settings.lora or 16),
        }
        saved = {way: memory.total - replace(self, settings=other).memory().total for way, other in ways.items()}
        helpful = sorted((way for way in ways if saved[way] > 0), key=lambda way: -saved[way])
        raise MissingResource(
            f"training needs about {bytes_text(memory.total)} of memory, but only {bytes_text(free)} are free",
            why=str(memory),
            hint="; ".join(f"{way} saves {bytes_text(saved[way])}" for way in helpful),
        )

    @property
    def plain_settings(self) -> dict[str, object]:
        """Scalar settings for experiment trackers."""
        return asdict(self.train_settings.schedule) | {"batch": self.batch, "optimizer": self.settings.optimizer}

    def trained(self, job: ArtifactJob, reporter: Reporter, callbacks: Callbacks) -> ArtifactJob:
        """The job with the trained weights, from an earlier run or trained now."""
        file = run_step(TrainingRun(self, job, callbacks), reporter, fresh=self.settings.fresh)
        refs = read_header(Path(file)).tensors
        return replace(job, replaced=refs, overrides_digest=digest_file(file))

    @property
    def fake_quant_plan(self) -> QuantPlan | None:
        """Quantization plan for fake quantization; None without --fake-quant."""
        name = self.settings.fake_quant
        return (
            plan_quantization("transformer", self.model.weights.tensors, QuantRequest(scheme_of(name)))
            if name
            else None
        )

    def teacher_outputs(self, device: torch.device, reporter: Reporter) -> TeacherCache | None:
        """The teacher's outputs for all batches, cached or computed now; None without a teacher."""
        if self.teacher is None:
            return None
        config = self.teacher.transformer.config or self.teacher.architecture.config()
        teacher_pass = TeacherPass(
            _weights(self.teacher, self.settings, device),
            config,
            lambda number: self.sampler.draw(self.data, number),
            self.feature_blocks,
            self.settings.memory_limit // 4,
            self.workspace / f"teacher-{self.teacher_cache_key[:8]}",
            self.teacher_cache_key,
            self.distinct,
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
        plan, settings = self.plan, self.plan.settings
        device = torch.device(pick_device(settings.device))
        teacher_cache = plan.teacher_outputs(device, reporter)
        try:
            student = open_student(plan.model, device, torch.float32)
            if settings.lora:
                add_lora(student, plan.model.architecture, settings.lora, settings.seed)
            if plan.fake_quant_plan:
                simulate(student, plan.fake_quant_plan.specs, DTYPES[plan.fake_quant_plan.dtype])
            if settings.checkpointing:
                student.enable_gradient_checkpointing()
            task = RecoveryTask(
                student,
                plan.data,
                plan.sampler,
                plan.losses,
                teacher_cache,
                plan.feature_blocks,
                guidance_of(student.config),
                compiled=settings.compile,
            )
            weights = train(task, plan.train_settings, self.file.parent, reporter, self.callbacks)["transformer"]
        except torch.cuda.OutOfMemoryError as error:
            smaller = f"--batch {max(1, plan.batch // 2)} --accumulate {settings.accumulate * 2}"
            raise MissingResource(
                "the GPU ran out of memory during training",
                why=str(error).splitlines()[0][:200],
                hint=f"{smaller}, or --checkpointing",
            ) from error
        student.load_state_dict(weights, strict=False)
        if settings.lora_file:
            save_adapter(weights, settings.lora_file)
        save_weights(merged(student) if settings.lora else student.state_dict(), plan.model, self.file)
        return self.file


def plan_finetune(
    model: Model, settings: FinetuneSettings, workspace: ConfinedPath, reporter: Reporter, teacher: Model | None = None
) -> FinetuneJob:
    """Resolve teacher, losses and data. Encodes or generates the data, as its digest is part of the artifact's key."""
    settings.check()
    refuse_quantized(model, "finetune")
    needed = settings.data is None or settings.losses is None or bool({"distill", "features"} & set(settings.losses))
    if teacher is None and needed:
        teacher = _usual_teacher(model, settings)
    losses = settings.losses or ({"distill": 1.0} if teacher else {"flow": 1.0})
    if teacher is None and {"distill", "features"} & set(losses):
        raise UsageError(
            f"--loss {','.join(losses)} requires a teacher",
            why=f"{model.located.name} was not pruned from another model",
            hint="--teacher MODEL, or --loss flow",
        )
    if model.architecture.guidance and "flow" in losses:
        raise UsageError(
            f"--loss flow doesn't fit {model.located.name}",
            why="SANA-Sprint is distilled to few steps: it predicts where a step ends, not the velocity of the flow",
            hint="--loss distill, with --teacher MODEL unless it was pruned",
        )
    if teacher is not None:
        check_computable(teacher)
        check_teacher(teacher, model)
    check_computable(model)
    data = _data(model, teacher, settings, workspace, reporter)
    taught = teacher if {"distill", "features"} & set(losses) else None
    return FinetuneJob(model, taught, data, settings, losses, workspace)


def _usual_teacher(model: Model, settings: FinetuneSettings) -> Model | None:
    """Default teacher: the unpruned ancestor, or the model itself for quantization-aware training."""
    recovered = model.manifest is not None and model.manifest.stage == "finetune"
    if settings.fake_quant and recovered:
        return model
    return parent_of(model) or (model if settings.fake_quant else None)


def _data(
    model: Model, teacher: Model | None, settings: FinetuneSettings, workspace: ConfinedPath, reporter: Reporter
) -> Prepared:
    """The training data: already encoded, encoded now or before, or sampled from the teacher."""
    device = torch.device(pick_device(settings.device))
    if settings.data is None:
        if teacher is None:
            raise UsageError(
                "there is no training data",
                why="--data is not set, and there is no teacher to generate data",
                hint="--data DIR, --data shapes or --teacher MODEL",
            )
        return open_prepared(_synthetic_data(teacher, settings, workspace, device, reporter), model.architecture)
    place = Path(settings.data)
    if settings.data != "shapes" and place.is_dir() and any(place.glob("*.safetensors")):
        return open_prepared(place, model.architecture)
    source = image_text_data.open_source(settings.data, scene_count=settings.samples, seed=settings.seed)
    side = latent_side(model)
    job = EncodingJob(model, source, side, workspace, device)
    return open_prepared(run_step(job, reporter, dry=settings.dry_run), model.architecture)


def _synthetic_data(
    teacher: Model, settings: FinetuneSettings, workspace: ConfinedPath, device: torch.device, reporter: Reporter
) -> Path:
    vocabulary = vocabulary_of(teacher)
    closed = bool(vocabulary) and settings.prompts is None
    prompts, source = choose_prompts(settings.prompts, settings.samples if closed else None, vocabulary)
    sampling = SamplerSettings(usual_steps(teacher), seed=settings.seed + 1, side=latent_side(teacher))
    opened = partial(_weights, teacher, settings, device)
    job = SyntheticLatents(teacher, prompts, settings.samples, sampling, workspace, opened, source)
    return run_step(job, reporter, dry=settings.dry_run)


def _weights(teacher: Model, settings: FinetuneSettings, device: torch.device) -> Blocks:
    """The teacher's blocks; its weights stay in memory if they fit into half of the memory limit."""
    size = sum(ref.count * 4 for ref in teacher.weights)
    return Blocks(teacher, device, torch.float32, resident=size < settings.memory_limit // 2)
