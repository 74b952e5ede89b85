"""What the model is passed at each sampler step, and what follows from its output.

Two implementations: flow matching with an ODE scheduler of diffusers, and SANA-Sprint's, which adds noise again after
every step but the last. Sprint's scheduler works on trigflow states at an angle t, for data x and noise e

    x_t = cos t x + sin t e,

the model on flow-matching states x_s = (1 - s) x + s e, with s = sin t / (cos t + sin t). Both are the same up to the
factor n = sqrt(s^2 + (1 - s)^2): x_s = n x_t. From the model's output v = e - x follows what the scheduler integrates,
dx_t/dt = cos t e - sin t x = ((1 - 2 s) x_s + n^2 v) / n. Latents are in units of the data's standard deviation
`sigma_data` here, so that they are what the autoencoder decodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

SPRINT = "SCMScheduler"  # the class of SANA-Sprint's scheduler in diffusers
EULER = "FlowMatchEulerDiscreteScheduler"
LAST_ANGLE, MIDDLE_ANGLE = 1.57080, 1.3  # Sprint's first timestep; its second one of two, both as in its pipeline


class Sampler(Protocol):
    """The sampler steps of a trajectory; latents start as standard normal noise."""

    def __len__(self) -> int:
        """Number of steps."""

    def timestep(self, step: int) -> Tensor:
        """The model's timestep input at a step, a scalar."""

    def model_input(self, step: int, latents: Tensor) -> Tensor:
        """The model's latent input at a step."""

    def noised(self, step: int, data: Tensor, noise: Tensor) -> Tensor:
        """Latents of images with the noise of a step."""

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """The latents after a step, from the guided velocity. Called once for each step, in order."""

    def begin(self, step: int) -> None:
        """Begin before a later step than the first."""

    def keep(self, places: Sequence[int]) -> None:
        """Forget all samples but these; latents of the steps to come have only them."""


@dataclass(frozen=True, slots=True)
class FlowSampler:
    """Flow matching: the scheduler integrates the velocity, and the model sees the latents as they are."""

    scheduler: Any
    timestep_scale: float

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.scheduler.timesteps)

    def timestep(self, step: int) -> Tensor:
        """The scheduler's timestep, scaled for the model."""
        found: Tensor = self.scheduler.timesteps[step] * self.timestep_scale
        return found

    def model_input(self, step: int, latents: Tensor) -> Tensor:  # noqa: ARG002
        """The latents."""
        return latents

    def noised(self, step: int, data: Tensor, noise: Tensor) -> Tensor:
        """(1 - s) x + s e."""
        sigma = float(self.scheduler.sigmas[step])
        return (1 - sigma) * data + sigma * noise

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """One step of the scheduler."""
        found: Tensor = self.scheduler.step(velocity, self.scheduler.timesteps[step], latents, return_dict=False)[0]
        return found

    def begin(self, step: int) -> None:
        """Set the scheduler's first step; otherwise it starts at step 0."""
        self.scheduler.set_begin_index(step)

    def keep(self, places: Sequence[int]) -> None:
        """Multistep schedulers hold the outputs of earlier steps."""
        earlier = getattr(self.scheduler, "model_outputs", None)
        if earlier is not None:
            self.scheduler.model_outputs = [None if one is None else one[list(places)] for one in earlier]


@dataclass(slots=True)
class SprintSampler:
    """SANA-Sprint: a step predicts the data, and noise is added again; each sample has its own generator of noise."""

    scheduler: Any
    generators: Sequence[torch.Generator]

    def __len__(self) -> int:
        """Number of steps; the scheduler's last timestep is the end."""
        return len(self.scheduler.timesteps) - 1

    def timestep(self, step: int) -> Tensor:
        """The noise level s of the scheduler's angle."""
        angle = self.scheduler.timesteps[step]
        sine = torch.sin(angle)
        return sine / (torch.cos(angle) + sine)

    def model_input(self, step: int, latents: Tensor) -> Tensor:
        """x_s, from x_t."""
        return latents * self._norm(step)

    def noised(self, step: int, data: Tensor, noise: Tensor) -> Tensor:
        """x_t of images: the model's input is (1 - s) x + s e."""
        angle = self.scheduler.timesteps[step]
        return torch.cos(angle) * data + torch.sin(angle) * noise

    def advance(self, step: int, velocity: Tensor, latents: Tensor) -> Tensor:
        """One step of the scheduler, in its own units."""
        s, norm, sigma = self.timestep(step), self._norm(step), self.scheduler.config.sigma_data
        slope = ((1 - 2 * s) * self.model_input(step, latents) + norm.square() * velocity) / norm
        how = {"generator": list(self.generators), "return_dict": False}
        after: Tensor = self.scheduler.step(sigma * slope, self.scheduler.timesteps[step], sigma * latents, **how)[0]
        return after / sigma

    def begin(self, step: int) -> None:
        """Set the scheduler's first step; otherwise it starts at step 0."""
        self.scheduler.set_begin_index(step)

    def keep(self, places: Sequence[int]) -> None:
        """The generators of the samples that stay."""
        self.generators = [self.generators[place] for place in places]

    def _norm(self, step: int) -> Tensor:
        s = self.timestep(step)
        return torch.sqrt(s.square() + (1 - s).square())


def sampler_of(
    scheduler: Any, config: Mapping[str, Any], steps: int, generators: Sequence[torch.Generator], device: torch.device
) -> Sampler:
    """The sampler around a diffusers scheduler, set to `steps` steps. `generators`: one per sample."""
    if type(scheduler).__name__ != SPRINT:
        scheduler.set_timesteps(steps, device=device)
        return FlowSampler(scheduler, config.get("timestep_scale", 1.0))
    middle = MIDDLE_ANGLE if steps == 2 else None
    scheduler.set_timesteps(steps, device=device, max_timesteps=LAST_ANGLE, intermediate_timesteps=middle)
    scheduler.set_begin_index(0)
    return SprintSampler(scheduler, generators)


def knows_noise_levels(scheduler: Mapping[str, Any]) -> bool:
    """Whether the noise of each step is known from the config of a scheduler, so that images can be noised like it."""
    return scheduler.get("_class_name") in {EULER, SPRINT} or bool(scheduler.get("use_flow_sigmas"))
