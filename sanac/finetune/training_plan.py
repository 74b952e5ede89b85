"""How a training is made to fit into memory: what is changed, in the order of what each change costs.

Only settings that the user left open are changed. The first changes give the same result in more passes or elsewhere
in memory; the last two, no moving average and a LoRA instead of whole weights, give another one.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sanac.core.errors import MissingResource
from sanac.core.units import bytes_text
from sanac.train.memory import Load, Memory, estimate_memory

FILLING = 4096  # tokens per pass that keep a device busy: smaller micro-batches come after checkpointing
_USABLE = 0.92  # of the free memory: allocators leave gaps
RANK = 16  # of the LoRA that is trained where whole weights don't fit


@dataclass(frozen=True)
class TrainingPlan:
    """The options of a training that decide its memory."""

    config: Mapping[str, Any]  # of the transformer
    batch: int
    height: int  # of the latents
    width: int
    caption: int  # tokens of the longest caption
    optimizer: str
    precision: str
    average: float  # decay of the EMA; 0: none
    micro_batch: int
    accumulate: int = 1
    checkpointing: bool = False
    average_on_host: bool = False
    lora: int | None = None
    frozen: int = 0  # blocks at the start that aren't trained
    more: int = 0  # bytes of activations that the transformer alone doesn't account for
    each: int = 1  # samples of one that is counted in a batch
    reference: int = 0  # bytes of a frozen copy; a LoRA needs none: without it the network is its own
    counts: str = "samples"  # what is counted in a batch

    @property
    def half_weights(self) -> bool:
        """Whether the frozen weights under a LoRA are kept in bf16."""
        return self.lora is not None and self.precision == "bf16"

    @property
    def memory(self) -> Memory:
        """The estimated memory."""
        load = Load(
            self.micro_batch * self.each,
            self.height,
            self.width,
            self.caption,
            self.checkpointing,
            self.precision,
            self.lora,
            self.accumulate > 1 or self.micro_batch < self.batch,
            self.frozen,
            self.half_weights,
        )
        on_device = bool(self.average) and not self.average_on_host
        found = self.estimated(load, average=on_device)
        return replace(found, weights=found.weights + self.reference, activations=found.activations + self.more)

    def estimated(self, load: Load, *, average: bool) -> Memory:
        """The memory of SANA's transformer under this load."""
        return estimate_memory(self.config, load, self.optimizer, average=average)

    @property
    def passes(self) -> float:
        """Forward passes that a training step is worth: one forward, a backward of two, and recomputed ones."""
        return 4.0 if self.checkpointing else 3.0

    def changes(self, before: "TrainingPlan") -> list[str]:
        """What this plan does to need less memory than `before`, as texts."""
        found = []
        if self.micro_batch < before.micro_batch:
            found.append(f"{self.micro_batch} of {self.batch} {self.counts} per pass (--micro-batch)")
        if self.checkpointing and not before.checkpointing:
            found.append("checkpointing, a third more time (--checkpointing)")
        if self.average_on_host and not before.average_on_host:
            found.append("the moving average in the host's memory")
        if before.average and not self.average:
            found.append("no moving average (--ema 0)")
        if self.lora and not before.lora:
            found.append(f"a LoRA of rank {self.lora} instead of whole weights (--lora)")
        return found


Plan = TypeVar("Plan", bound=TrainingPlan)


def fitting(first: Plan, room: int, named: AbstractSet[str], *, on_gpu: bool, changeable: bool = True) -> Plan:
    """`first`, changed as little as it takes to fit into `room` bytes; settings that the user `named` stay.

    MissingResource, with what each further change would save, if nothing fits.
    """
    room = int(room * _USABLE)
    tried = list(_candidates(first, named, on_gpu=on_gpu)) if changeable else [first]
    found = next((plan for plan in tried if plan.memory.total <= room), None)
    if found is not None:
        return found
    last = tried[-1]
    ways: dict[str, Callable[[Plan], Plan]] = {
        "--micro-batch 1": lambda plan: replace(plan, micro_batch=1),
        "--checkpointing": lambda plan: replace(plan, checkpointing=True),
        "--optimizer came8bit": lambda plan: replace(plan, optimizer="came8bit"),
        "--ema 0": lambda plan: replace(plan, average=0.0),
        f"--lora {RANK}": lambda plan: replace(plan, lora=plan.lora or RANK, more=0, frozen=0, reference=0),
    }
    saved = {way: last.memory.total - change(last).memory.total for way, change in ways.items()}
    helpful = sorted((way for way in ways if saved[way] > 0), key=lambda way: -saved[way])
    raise MissingResource(
        f"training needs at least {bytes_text(last.memory.total)} of memory, but only {bytes_text(room)} are free",
        why=str(last.memory),
        hint="; ".join(f"{way} saves {bytes_text(saved[way])}" for way in helpful) or "a model of fewer blocks",
    )


def _candidates(plan: Plan, named: AbstractSet[str], *, on_gpu: bool) -> Iterator[Plan]:
    """`plan`, then plans of ever less memory."""
    first, tokens = plan, plan.height * plan.width * plan.each
    yield plan
    if "micro_batch" not in named:
        while plan.micro_batch > 1 and (plan.micro_batch // 2) * tokens >= FILLING:
            plan = replace(plan, micro_batch=plan.micro_batch // 2)
            yield plan
    if not plan.checkpointing:
        plan = replace(plan, checkpointing=True)
        yield plan
    if "micro_batch" not in named:
        while plan.micro_batch > 1:
            plan = replace(plan, micro_batch=plan.micro_batch // 2)
            yield plan
    if on_gpu and plan.average:
        plan = replace(plan, average_on_host=True)
        yield plan
    if plan.average and "ema" not in named:
        plan = replace(plan, average=0.0, average_on_host=False)
        yield plan
    if plan.lora is None and not named & {"lora", "fake_quant", "freeze_first"}:
        yield replace(plan, average=first.average, lora=RANK, average_on_host=False, reference=0)
