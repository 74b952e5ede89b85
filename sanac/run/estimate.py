"""What each stage will take, about: bytes, memory, time; from shapes alone, before anything is opened or computed."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sanac.core.artifact.model import Model
from sanac.core.errors import UsageError
from sanac.run.stage_graph import RecipePlan, RecipeStage

_BITS = {"int8": 9.1, "fp8": 9.1, "int4": 5.9}  # of a weight, with scales and what is left alone
_BEGIN = 8.0  # seconds until a process has its libraries
_TRACED = 40.0  # seconds that tracing four graphs takes
_OVERHEAD = 600_000_000  # bytes of torch and diffusers
_STREAMED = 250_000_000  # of what is never held whole
_DISK = 400e6  # bytes a second, read, digested and written
_TRAINED = 3.0  # forwards that a step of training is worth
_PROBE = 160
_SHARE = 0.1  # of a plain product's speed, that models come to


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as it is foreseen."""

    blocks: int
    block_parameters: float
    outside: float  # parameters of the transformer that are in no block
    bits: float  # of a weight of the transformer
    others: float  # bytes of the other parts
    other_parameters: float
    tokens: int  # of a picture

    @property
    def parameters(self) -> float:
        """Of the transformer."""
        return self.outside + self.blocks * self.block_parameters

    @property
    def size(self) -> float:
        """Bytes of weights."""
        return self.parameters * self.bits / 8 + self.others

    def forward(self, pictures: float = 1.0) -> float:
        """Multiplications and additions of a step, for both branches."""
        return 2 * 2 * self.parameters * self.tokens * pictures


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One stage."""

    stage: RecipeStage
    blocks: int
    size: float  # bytes of the model afterwards
    memory: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"blocks": self.blocks, "bytes": int(self.size), "memory": int(self.memory), "seconds": self.seconds}


def shape_of(model: Model) -> Shape:
    """The source."""
    from sanac.nn.pipeline_config import latent_side

    weights, shape = model.weights, model.architecture
    blocks = max(1, shape.blocks)
    inside = sum(
        int(np.prod(tensor.shape)) for name, tensor in weights.tensors.items() if name.startswith("transformer_blocks.")
    )
    others = [part.weights for part in model.components if part.weights and part.name != "transformer"]
    return Shape(
        shape.blocks,
        inside / blocks,
        weights.count - inside,
        8 * weights.size / max(1, weights.count),
        sum(other.size for other in others),
        sum(other.count for other in others),
        (latent_side(model) // shape.patch_size) ** 2,
    )


def estimate_recipe(plan: RecipePlan, model: Model) -> dict[str, StageEstimate]:
    """Every stage, by its key; Misuse, all at once, where a depth can't be."""
    source, rate, problems = shape_of(model), _rate(), []
    found: dict[str, StageEstimate] = {}
    shapes: dict[str, Shape] = {}
    for stage in plan.stages():
        before = shapes[stage.source.key] if stage.source else source
        after, problem = _after(stage, before)
        if problem:
            problems.append(problem)
        shapes[stage.key] = after
        memory, work, traffic = _needs(stage, before, after)
        seconds = _BEGIN + _TRACED * (stage.verb == "export") + work / rate + traffic / _DISK
        found[stage.key] = StageEstimate(stage, after.blocks, after.size, memory, round(seconds, 1))
    if problems:
        names = list(dict.fromkeys(problems))
        raise UsageError(names[0], problems=names, hint=f"{model.located.name} has {source.blocks} blocks")
    return found


def _after(stage: RecipeStage, before: Shape) -> tuple[Shape, str]:
    """What a stage makes of a model, and why it can't."""
    settings = stage.settings
    target = settings.get("target_blocks")
    if stage.verb == "prune" and isinstance(target, int) and target > before.blocks:
        return before, f"prune.target_blocks is {target}, of {before.blocks} blocks"
    if stage.verb == "grow" and isinstance(target, int) and target <= before.blocks:
        return before, f"grow.target_blocks is {target}, no more than the {before.blocks} that are there"
    if stage.verb in {"prune", "grow"} and isinstance(target, int):
        return replace(before, blocks=target), ""
    if stage.verb == "prune" and (kept := settings.get("keep")):
        return replace(before, blocks=sum(map(_count, str(kept).split(",")))), ""
    if stage.verb == "quantize" and (scheme := settings.get("scheme")):
        components = settings.get("component", ["transformer"])
        bits = min(before.bits, _BITS[scheme.partition("-")[0]])
        shape = replace(before, bits=bits) if "transformer" in components else before
        smaller = min(shape.others, shape.other_parameters * bits / 8) if len(components) > 1 else shape.others
        return replace(shape, others=smaller), ""
    return before, ""


def _count(part: str) -> int:
    low, _, high = part.partition("-")
    return int(high) - int(low) + 1 if high.isdigit() and low.isdigit() else 1


def _needs(stage: RecipeStage, before: Shape, after: Shape) -> tuple[float, float, float]:
    """Bytes of memory, multiplications, bytes that go through the disk."""
    settings: Mapping[str, Any] = stage.settings
    whole = 4 * (before.parameters + before.other_parameters)  # in fp32, as processors compute
    if stage.verb in {"prune", "grow"}:
        scoring = before.forward(100 * 20) if stage.verb == "prune" and not (stage.others or "keep" in settings) else 0
        return _STREAMED + (2e9 if scoring and before.size > 2e9 else 0), scoring, before.size + after.size
    if stage.verb == "analyze":
        work = before.forward(settings.get("num_prompts", 100) * settings.get("timesteps", 20))
        return _OVERHEAD + min(2e9, whole), work, before.size
    if stage.verb == "finetune":
        batch = settings.get("batch", 64)
        steps = settings.get("steps", 100) * batch * settings.get("accumulate", 1)
        taught = 0 if "data" in settings else settings.get("samples", 2048) * 20
        work = before.forward(steps * _TRAINED / 2 + taught + steps / 2)
        return _OVERHEAD + 16 * before.parameters + 4 * before.tokens * batch * 64_000, work, after.size
    if stage.verb == "quantize":
        looks = "max_bytes" in settings or "min_sqnr" in settings or not str(settings.get("scheme")).endswith("-wo")
        work = before.forward(settings.get("num_prompts", 32) * settings.get("timesteps", 20) * 2) if looks else 0
        return _STREAMED + (_OVERHEAD if looks else 0), work, before.size + after.size
    if stage.verb in {"export", "verify"}:
        checked = not settings.get("no_verify")
        engines = 2 * before.size if settings.get("trt") else 0
        work = before.forward(settings.get("pictures", 4) * 12 * 2 + 20) if checked else 0
        return _OVERHEAD + max(engines, 2 * whole if checked else 0), work, 2 * before.size
    if stage.verb == "evaluate":
        images = 1.25 * settings.get("images", 2048)
        return _OVERHEAD + whole, before.forward(images * settings.get("steps", 20)), before.size
    turns = settings.get("rounds", 5) * settings.get("steps", 20) * (1 + len(stage.others)) * 1.5
    return (_OVERHEAD + whole) * (1 + len(stage.others)), before.forward(turns), before.size


def _rate() -> float:
    """Multiplications and additions a second that models get of this processor."""
    one = np.ones((_PROBE, _PROBE), np.float32)
    best = min(_timed(one) for _ in range(40))
    return _SHARE * 2 * _PROBE**3 / best


def _timed(one: "np.ndarray[Any, Any]") -> float:
    start = time.perf_counter()
    one @ one
    return max(time.perf_counter() - start, 1e-6)


def table_of(plan: RecipePlan, foreseen: Mapping[str, StageEstimate], done: Mapping[str, bool]) -> Iterator[list[str]]:
    """Titles, then a row for each stage."""
    from sanac.core.units import bytes_text, duration_text

    yield ["stage", "on", "blocks", "weights", "memory", "time"]
    for stage in plan.stages():
        about = foreseen[stage.key]
        on = stage.source.folder_name if stage.source else "the source"
        numbers = [str(about.blocks), bytes_text(int(about.size)), bytes_text(int(about.memory))]
        when = "done already" if done.get(stage.key) else duration_text(about.seconds)
        yield [" ".join((stage.verb, *stage.options)), on, *numbers, when]
