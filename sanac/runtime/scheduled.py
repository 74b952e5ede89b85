"""Makes a stock pipeline follow a schedule: each step runs as many blocks as it says, and one branch where unguided.

The transformer stays the stock object; its `forward` looks at the timestep, and calls a view of itself with the first
blocks of the nested order. Views share all weights.
"""

import copy
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sanac.core.artifact.schedule import WHOLE, Schedule
from sanac.runtime.onnx_session import OnnxRunner
from sanac.runtime.pipeline_parts import Transformer

if TYPE_CHECKING:
    from diffusers import SanaPipeline

Forward = Callable[..., Any]
_ALL_INPUTS = ("hidden_states", "encoder_hidden_states", "encoder_attention_mask", "attention_mask", "timestep")


class _Call(threading.local):
    """What a thread's call of the pipeline told the transformer."""

    guided: bool = False  # whether the batch holds both branches: first all without the prompt, then all with it


@dataclass
class ScheduledForward:
    """The `forward` of a transformer that follows a schedule."""

    schedule: Schedule
    views: Mapping[int, Forward]  # by depth; the deepest is the whole model
    most: float  # timestep input of pure noise
    call: _Call = field(default_factory=_Call)

    def __call__(self, hidden_states: Tensor, encoder_hidden_states: Tensor, timestep: Tensor, **how: Any) -> Any:
        """The velocity of a step, in the form of the stock forward."""
        depth, guided = self.at(timestep.flatten()[0])
        inputs = {"hidden_states": hidden_states, "encoder_hidden_states": encoder_hidden_states, "timestep": timestep}
        run = self.views[depth]
        if guided or not self.call.guided:
            return run(**inputs, **how)
        half = len(hidden_states) // 2
        prompted = {
            name: value[half:] if name in _ALL_INPUTS and isinstance(value, Tensor) else value
            for name, value in (inputs | how).items()
        }
        found = run(**prompted)
        sample = found[0] if isinstance(found, tuple) else found.sample
        twice = torch.cat([sample, sample])  # guidance between equal branches is that branch
        return (twice,) if isinstance(found, tuple) else SimpleNamespace(sample=twice)

    def at(self, timestep: Tensor) -> tuple[int, bool]:
        """(blocks that run, whether the step is guided) at a timestep, a scalar."""
        step = self.schedule.step_at(float(timestep) * WHOLE / self.most)
        depth = min(depth for depth in self.views if depth >= self.schedule.blocks[step])
        return depth, self.schedule.guided[step]

    @contextmanager
    def batch_of(self, *, both_branches: bool) -> Iterator[None]:
        """Say for this thread's calls whether batches hold both branches of guidance."""
        before, self.call.guided = self.call.guided, both_branches
        try:
            yield
        finally:
            self.call.guided = before


def views_of(transformer: nn.Module, schedule: Schedule) -> dict[int, Forward]:
    """The stock forward of a transformer at each depth of a schedule, and of the whole; no weight is copied."""
    blocks = transformer.transformer_blocks
    found: dict[int, Forward] = {len(blocks): _view(transformer, blocks)}
    for depth in schedule.depths:
        if depth != len(blocks):
            found[depth] = _view(transformer, nn.ModuleList([blocks[index] for index in schedule.kept(depth)]))
    return found


def graph_views(transformer: Transformer, schedule: Schedule, depths: Mapping[int, OnnxRunner]) -> dict[int, Forward]:
    """The forward of graphs or engines at some depths, and of the whole."""
    found: dict[int, Forward] = {len(schedule.order): type(transformer).forward.__get__(transformer)}
    return found | {depth: Transformer(runner, transformer.config).forward for depth, runner in depths.items()}


def _view(transformer: nn.Module, blocks: nn.ModuleList) -> Forward:
    """The forward of a shallow copy with other blocks."""
    view = copy.copy(transformer)
    view.__dict__.pop("forward", None)
    view.__dict__["_modules"] = {**transformer._modules, "transformer_blocks": blocks}  # noqa: SLF001
    forward: Forward = view.forward
    return forward


def follow(pipeline: "SanaPipeline", schedule: Schedule, views: Mapping[int, Forward], most: float) -> None:
    """Make a pipeline follow a schedule: steps and guidance of its calls default to the schedule's."""
    unfollow(pipeline)
    forward = ScheduledForward(schedule, views, most)
    pipeline.transformer.__dict__["forward"] = forward
    stock = type(pipeline)
    bound = inspect.signature(stock.__call__)

    def call(self: "SanaPipeline", *arguments: Any, **settings: Any) -> Any:
        given = bound.bind_partial(self, *arguments, **settings).arguments
        given.pop(next(iter(bound.parameters)))  # self
        given |= _defaults(schedule, given)
        scale = given.get("guidance_scale", bound.parameters["guidance_scale"].default)
        both = not pipeline.transformer.config.guidance_embeds and scale > 1
        with forward.batch_of(both_branches=both):
            return stock.__call__(self, **given)

    about = {"__call__": call, "__module__": stock.__module__, "__doc__": stock.__doc__, "stock": stock}
    pipeline.__class__ = type(stock.__name__, (stock,), about)


def unfollow(pipeline: "SanaPipeline") -> None:
    """Make a pipeline stock again."""
    pipeline.transformer.__dict__.pop("forward", None)
    stock = type(pipeline).__dict__.get("stock")
    if stock is not None:
        pipeline.__class__ = stock


def _defaults(schedule: Schedule, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that the schedule decides; a warning where the call's steps aren't the schedule's."""
    found: dict[str, Any] = {}
    own = next((given[name] for name in ("timesteps", "sigmas") if given.get(name) is not None), None)
    steps = given.get("num_inference_steps") if own is None else len(own)
    if steps is None:
        found["num_inference_steps"] = schedule.steps
    elif warning := schedule.steps_warning(steps):
        warnings.warn(warning, stacklevel=4)
    if (scale := given.get("guidance_scale")) not in {None, 1.0}:
        schedule.guidance(float(scale), typed=True)
    if not any(schedule.guided):
        found["guidance_scale"] = 1.0  # one branch is all there is: the pipeline need not encode the empty prompt
    return found
