"""Settings of `sanac finetune`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.devices import parse_device
from sanac.core.errors import UsageError
from sanac.core.quant.schemes import SCHEMES
from sanac.core.settings import DataRef, ModelRef, Naming, Option, RunSettings, Size
from sanac.core.training_options import MEMORY, TRAINING, Checkpointing, Ema, Optimizer, Precision
from sanac.core.write.settings import StageSettings

_CACHE = Size(4_000_000_000)
LOSSES = ("flow", "distill", "features")
_DATA, _PROGRESS = "Data options", "Progress options"  # groups in help
_LOSS = re.compile(r"([a-z]+)(?:=(\d+(?:\.\d*)?|\.\d+))?", re.ASCII)
_EXCLUSIVE = (
    ("data_free", "data"),
    ("freeze_first", "lora"),
    ("distill_guidance", "intervals"),
    *((name, "intervals") for name in ("loss", "lora", "fake_quant", "freeze_first", "micro_batch")),
)
_WEIGHT_ONLY = tuple(name for name, scheme in SCHEMES.items() if not scheme.activations)


def _parse_loss(text: str) -> tuple[str, float]:
    """'flow=0.5' -> ('flow', 0.5)."""
    match = _LOSS.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"is {text!r}, not a loss such as distill or flow=0.5")
    if match[1] not in LOSSES:
        raise UsageError(f"names {match[1]!r}, not one of {', '.join(LOSSES)}")
    weight = float(match[2] or 1)
    if not 0 < weight < 1e6:
        raise UsageError(f"is {text!r}: a weight has to be above 0")
    return match[1], weight


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(StageSettings, RunSettings):
    """Train MODEL for a few steps to recover quality after pruning or quantization; write the result as an artifact.

    By default the model that it was pruned from is the teacher, on latents sampled from that teacher: no data is
    needed. Without MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.
    Ctrl-C saves the state; the same command continues.
    """

    TITLE: ClassVar[str] = "Options"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac finetune",
        "sanac finetune MODEL --data ./pictures --steps 300 --loss distill,flow=0.5",
        "sanac finetune MODEL --data-free --teacher ./SANA1.5_4.8B_1024px_diffusers",
        "sanac finetune MODEL --data ./tars --lora 16 --lora-file recovered-lora.safetensors",
        "sanac finetune MODEL --data shapes --dry-run",
    )

    steps: Annotated[int, Option("Optimizer steps.", "N", ge=1)] = 100
    data: Annotated[
        DataRef | None, Option("Images with captions, tars of them, prepared latents, or `shapes`.", "DIR")
    ] = None
    data_free: Annotated[
        bool,
        Option("Train on latents sampled from the teacher; no dataset needed.  [default without --data]", group=_DATA),
    ] = False
    samples: Annotated[
        int | None,
        Option(
            "Pictures to sample from the teacher, or scenes to draw.",
            "N",
            "as many as the steps need, at least 60; scenes: 2,048",
            ge=1,
            group=_DATA,
        ),
    ] = None
    targets: Annotated[
        Literal["trajectories", "noised"] | None,
        Option(
            "Train on the teacher's finished latents with noise added, or on every step of its sampling.",
            "KIND",
            "noised",
            group=_DATA,
        ),
    ] = None
    teacher_steps: Annotated[
        int | None,
        Option(
            "Sampler steps of the teacher, for --data-free.", "N", "20, SANA-Sprint's 2", ge=1, le=1000, group=_DATA
        ),
    ] = None
    prompts: Annotated[
        Path | None, Option("Text file for --data-free, one prompt per line.", "FILE", "bundled", group=_DATA)
    ] = None
    teacher: Annotated[
        ModelRef | None, Option("Teacher for distillation.", "MODEL", "the model that MODEL was pruned from")
    ] = None
    loss: Annotated[
        tuple[str, ...],
        Option(
            "flow, distill or features; NAME=WEIGHT weights a loss.",
            "LIST",
            "distill with a teacher, else flow",
            comma=True,
            check=_parse_loss,
        ),
    ] = ()
    distill_guidance: Annotated[
        float | None,
        Option(
            "Learn the teacher's velocity guided by SCALE in the prompt's branch alone: half the work per step.",
            "SCALE",
            gt=1,
            le=100,
        ),
    ] = None
    optimizer: Optimizer = "came8bit"
    learning_rate: Annotated[
        float | None, Option("Peak learning rate.", "RATE", "0.1 / width", gt=0, group=TRAINING)
    ] = None
    warmup: Annotated[int | None, Option("Warm-up steps.", "N", "a tenth of --steps", ge=0, group=TRAINING)] = None
    batch: Annotated[
        int | None, Option("Samples per batch.", "N", "16,384 tokens, at most 64 samples", ge=1, group=TRAINING)
    ] = None
    accumulate: Annotated[int, Option("Batches per optimizer step.", "N", ge=1, group=TRAINING)] = 1
    clip: Annotated[float, Option("Largest gradient norm.", "NORM", gt=0, group=TRAINING)] = 1.0
    ema: Ema = 0.99
    caption_dropout: Annotated[
        float | None,
        Option(
            "Share of captions replaced by the empty one.",
            "P",
            "0.1; 0 with --distill-guidance",
            ge=0,
            le=1,
            group=_DATA,
        ),
    ] = None
    precision: Precision = None
    micro_batch: Annotated[
        int | None,
        Option(
            "Samples per pass; a batch takes as many passes as it needs.", "N", "as many as fit", ge=1, group=MEMORY
        ),
    ] = None
    checkpointing: Checkpointing = False
    intervals: Annotated[
        bool,
        Option(
            "Train each block before a gap alone, on the teacher's hidden states: one block in memory.", group=MEMORY
        ),
    ] = False
    freeze_first: Annotated[int, Option("Leave the first K blocks as they are.", "K", ge=0, group=TRAINING)] = 0
    plan_for: Annotated[
        str | None,
        Option(
            "Print what would be chosen on a device, such as 24GB or 'RTX 4090', and stop.",
            "DEVICE",
            check=parse_device,
            recipe=False,
            affects_result=False,
            group=MEMORY,
        ),
    ] = None
    compile: Annotated[bool, Option("Compile the model: faster steps after a minute or two.", group=MEMORY)] = False
    lora: Annotated[int | None, Option("Train low-rank adapters only, then merge them.", "RANK", ge=1)] = None
    lora_file: Annotated[Path | None, Option("Keep the adapters as a file, too.", "FILE", recipe=False)] = None
    fake_quant: Annotated[
        str | None,
        Option("Train for `sanac quantize --scheme SCHEME`, a weight-only scheme.", "SCHEME", choices=_WEIGHT_ONLY),
    ] = None
    teacher_cache: Annotated[
        Size, Option("Disk space for the teacher's outputs.", "SIZE", "4GB", affects_result=False, group=MEMORY)
    ] = _CACHE
    memory_limit: Annotated[
        Size | None,
        Option(
            "Memory for the teacher's forward passes.",
            "SIZE",
            "2GB; GPUs: most of what is free",
            affects_result=False,
            group=MEMORY,
        ),
    ] = None
    save_every: Annotated[int, Option("Steps between two checkpoints.", "N", ge=1, group=_PROGRESS)] = 100
    sample_every: Annotated[
        int | None,
        Option("Generate --sample-prompt every so many steps.", "N", ge=1, affects_result=False, group=_PROGRESS),
    ] = None
    sample_prompt: Annotated[
        tuple[str, ...],
        Option("Prompt to sample during training. May be repeated.", "TEXT", affects_result=False, group=_PROGRESS),
    ] = ()
    log_with: Annotated[
        tuple[str, ...],
        Option(
            "tensorboard, wandb, mlflow, ...: accelerate's trackers.",
            "LIST",
            comma=True,
            affects_result=False,
            group=_PROGRESS,
        ),
    ] = ()

    @property
    def losses(self) -> Mapping[str, float] | None:
        """Weights of the losses by name; None where the job decides."""
        return dict(map(_parse_loss, self.loss)) or None

    @property
    def takes_trajectories(self) -> bool:
        """Whether the teacher's trajectories are the training data, if it is sampled from the teacher at all."""
        return self.targets == "trajectories"

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings that exclude or need each other."""
        for one, other in _EXCLUSIVE:
            if getattr(self, one) and getattr(self, other):
                yield one, f"{name(one)} and {name(other)} contradict each other"
        yield from self._wrong_data(name)
        if self.lora_file and not self.lora:
            yield "lora_file", f"{name('lora_file')} requires {name('lora')} RANK"
        if self.fake_quant and self.lora:
            yield "lora", f"{name('fake_quant')} and {name('lora')} contradict each other: whole weights are quantized"
        if bool(self.sample_every) != bool(self.sample_prompt):
            yield "sample_every", f"{name('sample_every')} and {name('sample_prompt')} need each other"
        names = [_parse_loss(text)[0] for text in self.loss]
        if len(set(names)) < len(names):
            yield "loss", f"{name('loss')} names a loss twice"

    def _wrong_data(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of the data that exclude each other."""
        if self.prompts and self.data:
            yield "prompts", f"{name('prompts')} is for {name('data_free')}: with {name('data')}, images have captions"
        if self.targets and self.data:
            yield "targets", f"{name('targets')} is for {name('data_free')}: {name('data')} is trained on with noise"
        if self.distill_guidance and self.losses and set(self.losses) != {"distill"}:
            yield "loss", f"{name('distill_guidance')} learns by {name('loss')} distill alone"
        if self.distill_guidance and self.caption_dropout:
            yield "caption_dropout", f"{name('distill_guidance')} learns the prompt's branch: no caption is dropped"
        if self.targets == "trajectories" and "flow" in (self.losses or {}):
            yield "targets", f"the flow loss requires {name('targets')} noised: trajectories have no added noise"
