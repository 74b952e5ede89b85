"""How a model is guided: classifier-free, by two forward passes, or distilled, with the guidance scale as an input.

SANA-Sprint is distilled: one forward pass with the prompt's caption, and timesteps from 0 to 1 instead of to 1000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sanac.core.artifact.model import Model

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALE = 4.5  # default guidance scale of SANA and SANA-Sprint
STEPS, SPRINT_STEPS = 20, 2  # their default sampler steps
_INSIDE = "guidance_inside"
TIMESTEPS = 1000  # the timestep input of a model without distilled guidance is 1000 s, for a noise level s in 0..1

Caption = tuple["Tensor", "Tensor"]  # embeddings (count, S, width), mask (count, S)


class Guidance(Protocol):
    """What guidance means for a model's inputs and outputs."""

    @property
    def branches(self) -> int:
        """Forward passes per prompt and sampler step."""

    @property
    def timesteps(self) -> float:
        """The model's timestep input at a noise level of 1: the factor from noise levels to timesteps."""

    def captions(self, prompt: Caption, empty: Caption) -> tuple[Caption, ...]:
        """The caption of each branch, all as many as those of `prompt`."""

    def embedded(self, count: int, device: "torch.device") -> "Tensor | None":
        """The model's guidance input for `count` samples; None for models without one."""

    def combined(self, outputs: "Sequence[Tensor]") -> "Tensor":
        """The guided velocity from the model's output on each branch."""


@dataclass(frozen=True, slots=True)
class ClassifierFree:
    """Guidance by two branches: the empty caption's output, moved along the difference to the prompt's."""

    scale: float = SCALE
    timesteps: float = TIMESTEPS
    branches: int = 2

    def captions(self, prompt: Caption, empty: Caption) -> tuple[Caption, ...]:
        """The empty caption for all prompts, and their own."""
        count = len(prompt[0])
        return (empty[0].expand(count, -1, -1), empty[1].expand(count, -1)), prompt

    def embedded(self, count: int, device: "torch.device") -> None:  # noqa: ARG002
        """No guidance input."""
        return

    def combined(self, outputs: "Sequence[Tensor]") -> "Tensor":
        """Adds scale * (prompted - empty) to empty; the prompt's output alone for scales up to 1."""
        empty, prompted = outputs
        return empty + self.scale * (prompted - empty) if self.scale > 1 else prompted


@dataclass(frozen=True, slots=True)
class Distilled:
    """Guidance as an input of the model: one branch."""

    scale: float
    embedding_scale: float  # the config's guidance_embeds_scale
    timesteps: float = 1.0
    branches: int = 1

    def captions(self, prompt: Caption, empty: Caption) -> tuple[Caption, ...]:  # noqa: ARG002
        """The prompts' captions alone."""
        return (prompt,)

    def embedded(self, count: int, device: "torch.device") -> "Tensor":
        """The guidance scale as the model's embedder takes it: (count,)."""
        import torch

        return torch.full((count,), self.scale, device=device) * self.embedding_scale

    def combined(self, outputs: "Sequence[Tensor]") -> "Tensor":
        """The model's output, which is guided already."""
        (only,) = outputs
        return only


@dataclass(frozen=True, slots=True)
class Inside:
    """Guidance of one scale in the weights: the prompt's branch gives the guided velocity."""

    timesteps: float = TIMESTEPS
    branches: int = 1

    def captions(self, prompt: Caption, empty: Caption) -> tuple[Caption, ...]:  # noqa: ARG002
        """The prompts' captions alone."""
        return (prompt,)

    def embedded(self, count: int, device: "torch.device") -> None:  # noqa: ARG002
        """No guidance input."""
        return

    def combined(self, outputs: "Sequence[Tensor]") -> "Tensor":
        """The model's output, which is guided already."""
        (only,) = outputs
        return only


def config_of(model: Model) -> dict[str, Any]:
    """The transformer's config, and whether guidance was distilled into its weights, which no stock config says."""
    found = dict(model.transformer.config or model.architecture.config())
    inside = model.schedule.guidance_inside if model.schedule else None
    return found if inside is None else found | {_INSIDE: inside}


def guidance_of(config: Mapping[str, Any], scale: float = SCALE) -> Guidance:
    """How a transformer with this config, as `config_of` gives it, is guided at this scale."""
    if config.get("guidance_embeds"):
        return Distilled(scale, float(config.get("guidance_embeds_scale", 0.1)))
    timesteps = TIMESTEPS * float(config.get("timestep_scale", 1.0))
    return Inside(timesteps) if config.get(_INSIDE) else ClassifierFree(scale, timesteps)


def branches_of(model: Model) -> int:
    """Forward passes per prompt and sampler step."""
    return guidance_of(config_of(model)).branches


def usual_steps(model: Model) -> int:
    """Default number of sampler steps of a model without a schedule."""
    return SPRINT_STEPS if model.architecture.guidance else STEPS


def default_steps(model: Model) -> int:
    """Default number of sampler steps of a model: its schedule's, if it has one."""
    return model.schedule.steps if model.schedule else usual_steps(model)
