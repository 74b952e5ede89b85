"""The training loop: any task, any device, with checkpoints that resume bit-exactly."""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.progress import Reporter
from sanac.train import checkpoint
from sanac.train.ema import ExponentialAverage
from sanac.train.optimizers import make_optimizer, recall, remembered, set_rate
from sanac.train.schedule import Schedule

SCHEMA = 1  # of checkpoints: raised when the same settings would train differently
CALMER = "use a lower --learning-rate, a longer --warmup, or --precision fp32"  # what to try after a divergence


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a training run, independent of its task."""

    schedule: Schedule
    clip: float = 1.0
    average: float = 0.999  # EMA decay; 0: no EMA
    optimizer: str = "adamw"
    accumulate: int = 1  # batches per step
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's
    weight_decay: float = 0.0
    precision: str = "fp32"  # or bf16: autocast with fp32 weights and optimizer state
    seed: int = 0
    save_every: int = 500
    log_every: int = 25
    average_on_host: bool = False  # keep the EMA in the host's memory

    @property
    def result_settings(self) -> dict[str, Any]:
        """The settings that the trained weights depend on, for content keys."""
        ignored = {"average_on_host"}
        found = {name: value for name, value in asdict(self).items() if name not in ignored}
        return found | {"save_every": 0, "log_every": 0}


class TrainingTask(Protocol):
    """A training task: the trained modules by name, and the loss of a batch."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Trained modules by name."""

    @property
    def identity(self) -> str:
        """Identity of the data and of everything else that training depends on beyond the settings."""

    @property
    def compiled(self) -> bool:
        """Whether the model runs under torch.compile, which changes results in the last bits."""

    @property
    def shown(self) -> str:
        """Description of the last batch for messages."""

    def losses(self, generator: torch.Generator, number: int, /) -> Iterator[Tensor]:
        """The loss of batch `number` in parts that add up to it; each is backpropagated before the next is computed.

        All randomness comes from `generator`, which is seeded by that number.
        """


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Callbacks of a run, with each logged line and with the weights after each step, and its hint for divergence."""

    logged: Callable[[Mapping[str, float]], None] = lambda _: None
    stepped: Callable[[int, Mapping[str, Tensor]], None] = lambda *_: None
    calmer: str = CALMER


def train(
    task: TrainingTask, settings: Settings, folder: ConfinedPath, reporter: Reporter, callbacks: Callbacks = Callbacks()
) -> dict[str, dict[str, Tensor]]:
    """Train to the end of the schedule, resuming from `folder`; returns the averaged weights of each part."""
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(task, settings, folder, reporter, callbacks)
    total = settings.schedule.steps
    with _held_signals() as stopped:
        run.resume()
        reporter.begin("training", total, "steps")
        reporter.advance(run.step)
        try:
            while run.step < total:
                run.advance()
                reporter.advance(1, run.state)
                callbacks.stepped(run.step, run.kept)
                stopping = stopped()
                if run.step % settings.save_every == 0 or run.step == total or stopping:
                    run.save()
                if stopping:
                    break
        finally:
            reporter.end()
    averaged: dict[str, dict[str, Tensor]] = {name: {} for name in task.parts}
    for name, tensor in run.kept.items():
        part, _, rest = name.partition("/")
        averaged[part][rest] = tensor
    return averaged


class _Run:
    """State of a run: weights, their EMA, the optimizer and the step."""

    def __init__(
        self, task: TrainingTask, settings: Settings, folder: ConfinedPath, reporter: Reporter, callbacks: Callbacks
    ) -> None:
        self.task, self.settings, self.folder, self.reporter, self.callbacks = (
            task,
            settings,
            folder,
            reporter,
            callbacks,
        )
        self.weights = {
            f"{part}/{name}": weight
            for part, module in task.parts.items()
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self.device = next(iter(self.weights.values())).device
        weights = list(self.weights.values())
        self.optimizer = make_optimizer(settings.optimizer, weights, settings.betas, settings.weight_decay)
        average_on = torch.device("cpu") if settings.average_on_host else None
        self.average = ExponentialAverage(self.weights if settings.average else {}, settings.average, average_on)
        self.step = 0
        self.losses: list[Tensor] = []
        self.state = ""  # the last loss that was logged, for the progress bar
        self.since = time.monotonic()

    @property
    def kept(self) -> Mapping[str, Tensor]:
        """The result of the run: the averaged weights, or the weights without EMA."""
        return self.average.weights or self.weights

    @property
    def key(self) -> str:
        """Content key: equal for runs with the same settings, data and shapes."""
        how = self.settings.result_settings
        shapes = {name: list(weight.shape) for name, weight in self.weights.items()}
        return json_files.key_of([SCHEMA, json.loads(json.dumps(how)), self.task.identity, shapes])

    def advance(self) -> None:
        """Take one step of the optimizer and update the EMA."""
        rate = self.settings.schedule.at(self.step)
        set_rate(self.optimizer, rate)
        loss = self._gradients()
        norm = nn.utils.clip_grad_norm_(self.weights.values(), self.settings.clip)
        if not torch.isfinite(norm):
            raise InvalidInput(
                f"training diverged at step {self.step}: loss {loss.item():.4g}, gradient norm {norm.item():.4g}",
                why=f"it happened on {self.task.shown}; the last checkpoint is kept in {self.folder}",
                hint=self.callbacks.calmer,
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.weights, self.step)
        self.step += 1
        self.losses.append(loss)
        if self.step % self.settings.log_every == 0:
            self._log(rate, float(norm))

    def _gradients(self) -> Tensor:
        """Accumulate the gradients of one step's batches; returns their mean loss."""
        losses, many = [], self.settings.accumulate
        for number in range(self.step * many, (self.step + 1) * many):
            parts = self.task.losses(generator_for(self.settings.seed, number), number)
            while (loss := self._next(parts)) is not None:
                (loss / many).backward()
                losses.append(loss.detach())
        return torch.stack(losses).sum() / many

    def _next(self, parts: Iterator[Tensor]) -> Tensor | None:
        """The next part of a batch's loss, in the precision of the run."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            return next(parts, None)

    def _log(self, rate: float, norm: float) -> None:
        now = time.monotonic()
        line = {
            "step": self.step,
            "loss": round(torch.stack(self.losses).mean().item(), 6),
            "learning_rate": rate,
            "gradient_norm": round(norm, 6),
            "steps_per_second": round(len(self.losses) / max(now - self.since, 1e-9), 3),
        }
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.callbacks.logged(line)
        self.state = f"loss {line['loss']:.4g}"
        self.reporter.detail(f"step {self.step}: {self.state}")
        self.losses, self.since = [], now

    def save(self) -> None:
        """Write a checkpoint with everything that the next step depends on."""
        tensors = {f"weights/{name}": weight for name, weight in self.weights.items()}
        tensors |= {f"average/{name}": weight for name, weight in self.average.weights.items()}
        for name, weight in self.weights.items():
            for entry, value in remembered(self.optimizer, weight).items():
                tensors[f"optimizer/{entry}/{name}"] = value
        record = {"key": self.key, "environment": self._environment, "losses": [loss.item() for loss in self.losses]}
        checkpoint.save(self.folder, self.step, tensors, record)

    @property
    def _environment(self) -> dict[str, str]:
        return checkpoint.environment(self.device, compiled=self.task.compiled)

    def resume(self) -> None:
        """Restore the newest checkpoint, if there is one."""
        found = checkpoint.load(self.folder, self.reporter)
        metrics = self.folder / "metrics.jsonl"
        if found is None:
            metrics.write_text("")
            return
        tensors, record = found
        checkpoint.check_checkpoint(record, self.key, self._environment, self.folder, self.reporter)
        entries: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        for key, tensor in tensors.items():
            if key.startswith("optimizer/"):
                entry, name = key.removeprefix("optimizer/").split("/", 1)
                entries[name][entry] = tensor
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weights/{name}"])
                recall(self.optimizer, weight, entries[name])
            for name, average in self.average.weights.items():
                average.copy_(tensors[f"average/{name}"])
        self.step = record["step"]
        self.losses = [torch.tensor(loss, device=self.device) for loss in record["losses"]]
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        whole = [line for line in lines if line.endswith("}\n")]  # a kill may have truncated the last line
        kept = "".join(line for line in whole if json.loads(line)["step"] <= self.step)
        write_atomically(metrics, kept.encode())
        self.reporter.note(f"continuing {self.folder} at step {self.step}")


def generator_for(seed: int, step: int) -> torch.Generator:
    """A generator that depends only on the seed and the step, so that no random state has to be saved."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], signed=True))


@contextmanager
def _held_signals() -> Iterator[Callable[[], bool]]:
    """Defer the first Ctrl-C or SIGTERM until the context ends; yields a function that says if one arrived.

    A second signal is not deferred.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}  # as under nohup

    def hold(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, hold)
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])
