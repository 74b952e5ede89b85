"""Child process that times one model on one backend: `python -m sanac.verify.bench_worker`, with its task on stdin.

Input is one JSON line with the task, then one line per run; each is answered by one line on stdout. A run is a whole
call of the pipeline, whose components are timed as the pipeline calls them.
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

from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import MissingResource, SanacError, UsageError
from sanac.core.process import end_with
from sanac.nn.device import pick_device
from sanac.nn.guidance import SCALE as SANA_SCALE
from sanac.nn.guidance import default_steps
from sanac.nn.pipeline_config import native
from sanac.runtime.backends import open_parts
from sanac.runtime.pipeline import DiffusionGenerator, open_generator, open_transformer, sampling_of
from sanac.tokens.generator import open_token_generator
from sanac.tokens.sampling import SCALE, STEPS, TokenSampling
from sanac.verify.parity import USUAL, Case

COMPILE = "compile"  # torch backend with torch.compile on the transformer
_PROMPT = "a red circle left of a blue square"
_TOKENS = 77  # caption length without a text encoder


@dataclass(frozen=True)
class BenchTask:
    """The model to time, its backend and the sampling settings."""

    parent: int
    model: str
    backend: str
    device: str | None
    steps: int | None
    guidance: float | None
    size: tuple[int, int] | None  # width, height
    threads: int | None
    tile: int | None = None


@dataclass
class Clock:
    """Records seconds of each part per call, including the device's work."""

    device: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def timed(self, name: str, call: Callable[[], Any]) -> Any:
        """Run `call`, record its seconds under `name` and return its result."""
        self.wait()
        start = time.perf_counter()
        found = call()
        self.wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return found

    def wait(self) -> None:
        """Wait for the GPU, which runs asynchronously."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class _Timed(nn.Module):  # type: ignore[misc]
    """Wraps a pipeline component to time its calls; all other attributes are the component's."""

    def __init__(self, part: Any, name: str, clock: Clock) -> None:
        super().__init__()
        self.__dict__ |= {"part": part, "about": (name, clock)}

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        """Time the component's call."""
        name, clock = self.about
        return clock.timed(name, lambda: self.part(*inputs, **settings))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["part"], name)


class PipelineBench:
    """Times image generation with a complete pipeline."""

    def __init__(self, model: Model, task: BenchTask) -> None:
        """Open the pipeline as `sanac generate` does."""
        device = pick_device(task.device)
        self.generator: DiffusionGenerator = open_generator(model, device, _plain(task.backend))
        self.clock = Clock(device)
        pipeline = self.generator.pipeline
        if task.backend == COMPILE:
            pipeline.transformer = torch.compile(pipeline.transformer)
        for name in ("transformer", "text_encoder"):
            setattr(pipeline, name, _Timed(getattr(pipeline, name), name, self.clock))
        decode = pipeline.vae.decode
        pipeline.vae.decode = lambda *given, **how: self.clock.timed("decoder", lambda: decode(*given, **how))
        guidance = SANA_SCALE if task.guidance is None else task.guidance
        self.sampling = sampling_of(model, task.steps, guidance, size=task.size, tile=task.tile)

    def run(self, batch: int) -> dict[str, list[float]]:
        """Generate one batch; returns seconds by part."""
        self.clock.seconds = {}
        how = replace(self.sampling, batch=batch)
        prompts, seeds = [_PROMPT] * batch, range(batch)
        self.clock.timed("image", lambda: list(self.generator.generate(prompts, seeds, how)))
        self.clock.seconds["decoder"] = [sum(self.clock.seconds["decoder"])]  # sum over all tiles
        return self.clock.seconds


class TokenBench:
    """Times image generation with a token generator."""

    def __init__(self, model: TokenModel, task: BenchTask) -> None:
        """Open the generator as `sanac generate` does."""
        if task.backend not in {"torch", COMPILE}:
            raise UsageError(f"{model.located.name} has nothing exported", hint=f"--backend torch,{COMPILE}")
        self.generator = open_token_generator(model, task.device)
        self.clock = Clock(self.generator.device)
        transformer: Any = self.generator.networks.transformer
        images: Any = self.generator.networks.images
        predict = torch.compile(transformer.forward) if task.backend == COMPILE else transformer.forward
        decode = images.decode
        transformer.forward = lambda *given: self.clock.timed("transformer", lambda: predict(*given))
        images.decode = lambda *given: self.clock.timed("decoder", lambda: decode(*given))
        guidance = SCALE if task.guidance is None else task.guidance
        self.sampling = TokenSampling(task.steps or STEPS, guidance, size=task.size, tile=task.tile)

    def run(self, batch: int) -> dict[str, list[float]]:
        """Generate one batch; returns seconds by part."""
        self.clock.seconds = {}
        how = replace(self.sampling, batch=batch)
        prompts, seeds = [_PROMPT] * batch, range(batch)
        self.clock.timed("image", lambda: list(self.generator.generate(prompts, seeds, how)))
        return self.clock.seconds


class TransformerBench:
    """Times sampler steps of a transformer without a pipeline."""

    def __init__(self, model: Model, task: BenchTask) -> None:
        """Open the transformer with inputs shaped as a pipeline's."""
        device = pick_device(task.device)
        self.clock, self.steps = Clock(device), task.steps or default_steps(model)
        found = open_parts(model, _plain(task.backend), device).get("transformer")
        runner: Any = found or open_transformer(model, device)
        self.runner: Callable[..., Any] = torch.compile(runner) if task.backend == COMPILE else runner
        step, side = native(model)
        width, height = task.size or (side, side)
        self.shape, self.sides = model.architecture, (height // step, width // step)
        self.branches = 1 if self.shape.guidance or task.guidance == 0 else 2
        self.dtype = runner.dtype if isinstance(runner, nn.Module) else torch.float32
        self.device = device

    def run(self, batch: int) -> dict[str, list[float]]:
        """Call the transformer once per step; returns seconds by part."""
        self.clock.seconds = {}
        patch = self.shape.patch_size
        rows, columns = (max(1, side // patch) for side in self.sides)
        case = Case(USUAL, batch * self.branches, rows, columns, _TOKENS)
        inputs = {name: self._placed(value) for name, value in case.inputs(self.shape).items()}
        with torch.no_grad():
            for _ in range(self.steps):
                self.clock.timed("transformer", lambda: self.runner(**inputs))
        return self.clock.seconds

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.dtype if value.is_floating_point() else None)


def _plain(backend: str) -> str:
    return "torch" if backend == COMPILE else backend


Bench = PipelineBench | TransformerBench | TokenBench


def opened(task: BenchTask) -> Bench:
    """Open the task's model: a complete pipeline, a transformer alone, or a token generator."""
    if task.threads:
        torch.set_num_threads(task.threads)
    model = open_any_model(locate(task.model))
    if isinstance(model, TokenModel):
        return TokenBench(model, task)
    parts = {part.name for part in model.others}
    whole = model.model_index is not None and {"text_encoder", "vae"} <= parts
    return PipelineBench(model, task) if whole else TransformerBench(model, task)


def _on_device(device: str) -> int:
    """Bytes in use on the GPU by all processes."""
    if not device.startswith("cuda"):
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def _answered(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Result of `make`, or its error as JSON that the parent raises again."""
    try:
        return make()
    except SanacError as error:
        about = {"message": error.message, "why": error.why, "hint": error.hint, "problems": list(error.problems)}
        return {"error": type(error).__name__, **about}
    except torch.OutOfMemoryError as error:
        return {"error": MissingResource.__name__, "message": "out of memory on the GPU", "why": str(error)[:300]}


def main() -> int:
    """Open the model, then answer run requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    value = json.loads(sys.stdin.readline())
    task = BenchTask(**{**value, "size": tuple(value["size"]) if value["size"] else None})
    if not end_with(task.parent):
        return 1
    held: dict[str, Bench] = {}

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
