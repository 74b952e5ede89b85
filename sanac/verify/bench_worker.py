"""The child process that times one model with one backend: `python -m sanac.verify.bench_worker`, a task on stdin.

Its task is one line of JSON, then one line per run; each is answered by one line on stdout. What a run takes is taken
from a whole call of the pipeline: the parts of it are timed as the pipeline calls them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import MissingResource, SanacError
from sanac.core.process import end_with
from sanac.nn.device import pick_device
from sanac.nn.pipeline_config import native
from sanac.runtime.backends import open_parts
from sanac.runtime.pipeline import DiffusionGenerator, GenerationSettings, open_generator, open_transformer, usual_steps
from sanac.verify.parity import USUAL, Case

COMPILE = "compile"  # torch's compiler, on the transformer
_PROMPT = "a red circle left of a blue square"
_TOKENS = 77  # of a caption, where there is no text encoder


@dataclass(frozen=True)
class BenchTask:
    """What is timed, and how."""

    parent: int
    model: str
    backend: str
    device: str | None
    steps: int | None
    guidance: float
    size: tuple[int, int] | None  # width, height
    threads: int | None
    tile: int | None = None


@dataclass
class Clock:
    """Seconds that each part took, call by call, when the device was done with it."""

    device: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, name: str, call: Callable[[], Any]) -> Any:
        """What the call gives."""
        self.wait()
        start = time.perf_counter()
        found = call()
        self.wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return found

    def wait(self) -> None:
        """A GPU is given work and goes on with it behind one's back."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class _Timed(nn.Module):  # type: ignore[misc]
    """A part of a pipeline whose calls are timed; everything else is its own."""

    def __init__(self, part: Any, name: str, clock: Clock) -> None:
        super().__init__()
        self.__dict__ |= {"part": part, "about": (name, clock)}

    def forward(self, *given: Any, **settings: Any) -> Any:
        """The part's call."""
        name, clock = self.about
        return clock.timed(name, lambda: self.part(*given, **settings))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["part"], name)


class Whole:
    """A whole pipeline: pictures are painted."""

    def __init__(self, model: Model, task: BenchTask) -> None:
        """It is opened as `generate` does."""
        device = pick_device(task.device)
        self.painter: DiffusionGenerator = open_generator(model, device, _plain(task.backend))
        self.clock = Clock(device)
        pipeline = self.painter.pipeline
        if task.backend == COMPILE:
            pipeline.transformer = torch.compile(pipeline.transformer)
        for name in ("transformer", "text_encoder"):
            setattr(pipeline, name, _Timed(getattr(pipeline, name), name, self.clock))
        decode = pipeline.vae.decode
        pipeline.vae.decode = lambda *given, **how: self.clock.timed("decoder", lambda: decode(*given, **how))
        self.sampling = GenerationSettings(task.steps or usual_steps(model), task.guidance, task.size, tile=task.tile)

    def run(self, batch: int) -> dict[str, list[float]]:
        """One call; what each part took."""
        self.clock.seconds = {}
        how = replace(self.sampling, batch=batch)
        prompts, seeds = [_PROMPT] * batch, range(batch)
        self.clock.timed("image", lambda: list(self.painter.paint(prompts, seeds, how)))
        self.clock.seconds["decoder"] = [sum(self.clock.seconds["decoder"])]  # of all tiles
        return self.clock.seconds


class Alone:
    """A transformer without the rest of its pipeline: steps are computed."""

    def __init__(self, model: Model, task: BenchTask) -> None:
        """Opened alone, asked as a pipeline asks."""
        device = pick_device(task.device)
        self.clock, self.steps = Clock(device), task.steps or usual_steps(model)
        found = open_parts(model, _plain(task.backend), device).get("transformer")
        runner: Any = found or open_transformer(model, device)
        self.runner: Callable[..., Any] = torch.compile(runner) if task.backend == COMPILE else runner
        step, side = native(model)
        width, height = task.size or (side, side)
        self.shape, self.sides = model.architecture, (height // step, width // step)
        self.branches = 1 if self.shape.guidance or not task.guidance else 2
        self.dtype = runner.dtype if isinstance(runner, nn.Module) else torch.float32
        self.device = device

    def run(self, batch: int) -> dict[str, list[float]]:
        """As many calls as steps."""
        self.clock.seconds = {}
        patch = self.shape.patch_size
        rows, columns = (max(1, side // patch) for side in self.sides)
        case = Case(USUAL, batch * self.branches, rows, columns, _TOKENS)
        given = {name: self._placed(value) for name, value in case.inputs(self.shape).items()}
        with torch.no_grad():
            for _ in range(self.steps):
                self.clock.timed("transformer", lambda: self.runner(**given))
        return self.clock.seconds

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else None)


def _plain(backend: str) -> str:
    return "torch" if backend == COMPILE else backend


def opened(task: BenchTask) -> Whole | Alone:
    """The model, by what there is of it."""
    if task.threads:
        torch.set_num_threads(task.threads)
    model = open_model(locate(task.model))
    parts = {part.name for part in model.others}
    whole = model.model_index is not None and {"text_encoder", "vae"} <= parts
    return Whole(model, task) if whole else Alone(model, task)


def _on_device(device: str) -> int:
    """Bytes of the GPU that are taken, by whomever."""
    if not device.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def _answered(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, or the error in words that the parent can raise again."""
    try:
        return make()
    except SanacError as error:
        about = {"message": error.message, "why": error.why, "hint": error.hint, "problems": list(error.problems)}
        return {"error": type(error).__name__, **about}
    except torch.OutOfMemoryError as error:
        return {"error": MissingResource.__name__, "message": "out of memory on the GPU", "why": str(error)[:300]}


def main() -> int:
    """Open the model, then run whatever is asked for until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    value = json.loads(sys.stdin.readline())
    task = BenchTask(**{**value, "size": tuple(value["size"]) if value["size"] else None})
    if not end_with(task.parent):
        return 1
    held: dict[str, Whole | Alone] = {}

    def load() -> dict[str, Any]:
        start = time.perf_counter()
        held["subject"] = opened(task)
        device = held["subject"].clock.device
        return {"seconds": time.perf_counter() - start, "on device": _on_device(device), "device": device}

    def run(batch: int) -> dict[str, Any]:
        seconds = held["subject"].run(batch)
        return {"seconds": seconds, "on device": _on_device(held["subject"].clock.device)}

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    with suppress(BrokenPipeError):
        say(_answered(load))
        for line in sys.stdin:
            say(_answered(partial(run, json.loads(line)["batch"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
