"""What `sanac finetune` will do, decided before anything is spent: teacher, losses, data, memory, time."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.progress import Reporter
from sanac.core.quant.layer_rules import QuantPlan, QuantRequest, plan_quantization
from sanac.core.quant.schemes import scheme_of
from sanac.core.units import duration_text
from sanac.core.write.job import refuse_quantized
from sanac.finetune.data_source import DataSource, choose_data, stays_in_memory
from sanac.finetune.defaults import batch_size
from sanac.finetune.find_teacher import check_teacher, parent_of
from sanac.finetune.guidance_distillation import check_distillable, guide_of
from sanac.finetune.intervals import STATES
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.training_job import FinetuneJob
from sanac.finetune.training_plan import TrainingPlan, fitting
from sanac.nn.calibration.memory import default_limit
from sanac.nn.device import free_memory, pick_device
from sanac.nn.device_speed import update_seconds
from sanac.nn.guidance import ClassifierFree
from sanac.nn.pipeline_config import check_computable, forward_seconds
from sanac.nn.precision import bytes_of, choose_precision, training_precision

_SAVED = 400e6  # bytes per second of a checkpoint


@dataclass(frozen=True)
class FinetunePlan:
    """A fine-tuning with everything decided and nothing made: no data, no teacher's outputs."""

    model: Model
    teacher: Model | None  # that data is sampled from, or whose outputs are imitated
    losses: Mapping[str, float]
    settings: FinetuneSettings
    workspace: ConfinedPath
    device: str
    teaching: str  # precision of the teacher's forward passes
    source: DataSource

    @property
    def tokens(self) -> int:
        """Tokens of a picture."""
        height, width = self.source.size
        return int(height * width) // self.model.architecture.patch_size**2

    @property
    def batch(self) -> int:
        """Samples per batch."""
        return batch_size(self.settings, self.tokens)

    @property
    def examples(self) -> int:
        """Samples that are trained on, counted as often as they are."""
        return self.settings.steps * self.settings.accumulate * self.batch

    @property
    def on_gpu(self) -> bool:
        """Whether the training runs on a GPU."""
        return self.device.startswith("cuda")

    @cached_property
    def first(self) -> TrainingPlan:
        """The training as the settings say, before anything is changed to make it fit."""
        settings = self.settings
        height, width = self.source.size
        precision = training_precision(settings.precision, self.device)
        specs = self.fake_quant_plan.specs.values() if self.fake_quant_plan else ()
        config = dict(self.model.transformer.config or self.model.architecture.config())
        more = sum(4 * spec.shape[0] * spec.columns for spec in specs)  # fake-quantized copies for backward
        if settings.intervals:  # one block, and the teacher's hidden states at both ends of its interval
            config["num_layers"] = 1
            more = 2 * self.kept * self.tokens * self.model.architecture.width * bytes_of(self.teaching)
        return TrainingPlan(
            config,
            self.batch,
            height,
            width,
            self.source.longest,
            settings.optimizer,
            precision,
            settings.ema,
            min(self.batch, settings.micro_batch or self.batch),
            settings.accumulate,
            settings.checkpointing,
            lora=settings.lora,
            frozen=settings.freeze_first,
            more=more,
        )

    @cached_property
    def training(self) -> TrainingPlan:
        """The training, changed where it takes that to fit into the device's memory."""
        named = set(self.settings.typed) | {name for name in ("micro_batch", "lora") if getattr(self.settings, name)}
        named |= {"fake_quant"} if self.settings.fake_quant else set()
        named |= {"freeze_first"} if self.settings.freeze_first else set()
        if self.settings.intervals:
            return fitting(self.first, free_memory(self.device), frozenset(), on_gpu=self.on_gpu, changeable=False)
        return fitting(self.first, free_memory(self.device), named, on_gpu=self.on_gpu)

    @property
    def fake_quant_plan(self) -> QuantPlan | None:
        """Quantization plan for fake quantization; None without --fake-quant."""
        name = self.settings.fake_quant
        if not name:
            return None
        return plan_quantization("transformer", self.model.weights.tensors, QuantRequest(scheme_of(name)))

    @property
    def teacher_forwards(self) -> int:
        """Forward passes of the teacher, of one picture on one branch of guidance."""
        sampled = self.source.sampling.forwards if self.source.sampling else 0
        branches = 2 if self.guide else 1
        return sampled + (self.kept if self.settings.intervals else branches * self.examples if self.taught else 0)

    @property
    def guide(self) -> ClassifierFree | None:
        """The guidance that the teacher's two branches give the velocity; None where one of them is imitated."""
        return guide_of(self.settings, self.model, self.teacher) if self.teacher else None

    @property
    def kept(self) -> int:
        """Samples whose hidden states are kept at once by an interval training."""
        return min(self.examples, max(self.batch, STATES // self.tokens))

    @property
    def taught(self) -> bool:
        """Whether the teacher has to run on the batches themselves."""
        recorded = {"distill"} if self.source.trajectories else set()
        if self.settings.intervals:
            return False
        return bool(({"distill", "features"} - recorded) & set(self.losses))

    @cached_property
    def seconds(self) -> tuple[float, float]:
        """Estimated seconds of the teacher's forward passes, and of training with its last checkpoint."""
        teaching = 0.0
        if self.teacher and self.teacher_forwards:
            tokens = float(self.teacher_forwards * self.tokens)
            teaching = forward_seconds(
                self.teacher, tokens, self.device, self.teaching, readings=self._readings(self.teacher)
            )
        plan = self.training
        tokens = plan.passes * self.examples * self.tokens
        memory = plan.memory
        stepping = self.settings.steps * update_seconds(memory.gradients, self.device)
        saving = (memory.weights + memory.optimizer + memory.average) / _SAVED
        computing = forward_seconds(self.model, tokens, self.device, plan.precision, readings=0)
        return teaching, computing + stepping + saving

    def _readings(self, teacher: Model) -> float:
        """How often the teacher's weights are read: once if they stay in memory, else for each sweep."""
        if stays_in_memory(teacher, self.settings, self.device, self.teaching):
            return 1.0
        sampled = self.source.sampling.sweeps if self.source.sampling else 0
        limit = self.settings.memory_limit or default_limit(self.device)
        together = max(1, limit // 4 // (12 * self.batch * self.tokens * teacher.architecture.width))
        batches = self.settings.steps * self.settings.accumulate
        return sampled + (-(-batches // together) if self.taught or self.settings.intervals else 0)

    def describe(self) -> list[str]:
        """What was decided, and what it costs, in lines."""
        settings, plan = self.settings, self.training
        teaching, training = self.seconds
        batches = f"{settings.steps:,} steps of {self.batch * settings.accumulate} in {plan.precision}"
        found = [f"losses: {', '.join(self.losses)}; {batches}", f"training takes about {plan.memory}"]
        if changes := plan.changes(self.first):
            found.append(f"to fit: {'; '.join(changes)}")
        forwards = f"{self.teacher_forwards:,} forward passes of the teacher"
        parts = [f"{duration_text(teaching)} for {forwards}"] if teaching else []
        parts.append(f"{duration_text(training)} for training")
        return [*found, f"about {' and '.join(parts)}"]

    def prepare(self, reporter: Reporter) -> FinetuneJob:
        """The job, with its data encoded or sampled: the data's digest is part of the artifact's key."""
        data = self.source.open(reporter)
        taught = self.teacher if {"distill", "features"} & set(self.losses) or self.settings.intervals else None
        return FinetuneJob(
            self.model,
            taught,
            data,
            self.settings,
            self.losses,
            self.workspace,
            self.training,
            self.fake_quant_plan,
            self.teaching,
            recorded=self.source.trajectories,
            guide=self.guide if taught else None,
        )


def resolve_finetune(
    model: Model, settings: FinetuneSettings, workspace: ConfinedPath, teacher: Model | None = None
) -> FinetunePlan:
    """Decide on teacher, losses, data and memory. Nothing is encoded, sampled or computed yet."""
    settings.check()
    refuse_quantized(model, "finetune")
    if settings.freeze_first >= model.architecture.blocks:
        raise UsageError(f"--freeze-first {settings.freeze_first}: the model has {model.architecture.blocks} blocks")
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
    check_distillable(settings, model, teacher, losses)
    if teacher is not None:
        check_computable(teacher)
        check_teacher(teacher, model)
    check_computable(model)
    device = pick_device(settings.device)
    teaching = choose_precision(settings.precision, device, teacher or model)

    def examples(tokens: int) -> int:
        return settings.steps * settings.accumulate * batch_size(settings, tokens)

    source = choose_data(model, teacher, settings, workspace, device, teaching, examples)
    return FinetunePlan(model, teacher, losses, settings, workspace, device, teaching, source)


def plan_finetune(
    model: Model, settings: FinetuneSettings, workspace: ConfinedPath, reporter: Reporter, teacher: Model | None = None
) -> FinetuneJob:
    """Decide, check that it fits into memory, then encode or sample the data."""
    plan = resolve_finetune(model, settings, workspace, teacher)
    for line in plan.describe():
        reporter.note(line)
    return plan.prepare(reporter)


def _usual_teacher(model: Model, settings: FinetuneSettings) -> Model | None:
    """Default teacher: the unpruned ancestor, or the model itself for quantization-aware training."""
    recovered = model.manifest is not None and model.manifest.stage == "finetune"
    if settings.fake_quant and recovered:
        return model
    return parent_of(model) or (model if settings.fake_quant or settings.distill_guidance else None)
