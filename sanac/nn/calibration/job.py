"""Calibration states as the user asks for them: most prompts to fit on, the last ones to judge by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sanac.core.artifact.model import Model
from sanac.core.errors import MissingResource, UsageError
from sanac.core.family.architecture import split_block
from sanac.core.progress import Reporter
from sanac.core.units import bytes_text
from sanac.nn.allocator import give_back_when_freed
from sanac.nn.calibration.cost import CostEstimate
from sanac.nn.calibration.inputs import Inputs, choose_inputs
from sanac.nn.calibration.sampling import WORK, SamplerSettings
from sanac.nn.calibration.settings import FEWEST, CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates, states_of
from sanac.nn.calibration.text_encoding import LONGEST
from sanac.nn.device import free_memory, pick_device
from sanac.nn.pipeline_config import (
    check_computable,
    forward_seconds,
    latent_side,
    sampler,
    scheduler_of,
    scheduler_settings,
)
from sanac.nn.streaming import Blocks

_FP32 = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """What states are taken from, fully decided."""

    model: Model
    inputs: Inputs
    count: int  # of its prompts, from the first
    sampling: SamplerSettings
    scheduler: Mapping[str, Any]
    every: int  # of the sampler's steps, which are looked at
    memory_limit: int
    limit_is_explicit: bool  # whether the limit is the user's
    device: str
    batch: int  # prompts that go through a block together
    resident: bool = False  # whether the weights are read once and stay
    fixed: int = 0  # bytes that are needed for all prompts, once they were sampled
    each: int = 0  # and for one
    min_prompts: int = FEWEST  # prompts: to fit on, to choose by, to judge by

    @property
    def settings(self) -> dict[str, Any]:
        """What the states depend on."""
        return {
            **self.inputs.settings,
            "num_prompts": self.count,
            "sampling": self.sampling.to_json(),
            "scheduler": scheduler_settings(self.scheduler),
            "every": self.every,
        }

    @property
    def moments(self) -> int:
        """How many steps of the sampler are looked at."""
        return len(range(self.every // 2, self.sampling.steps, self.every))

    @property
    def tokens(self) -> int:
        """Of one prompt at one moment, both branches."""
        return 2 * (self.sampling.side // self.model.architecture.patch_size) ** 2

    @property
    def state_bytes(self) -> int:
        """The stream of one prompt, both branches, at one moment."""
        return self.tokens * self.model.architecture.width * _FP32

    @property
    def moment_bytes(self) -> int:
        """What is held of one prompt at one moment: its latents and the velocity there."""
        return 2 * self.sampling.side**2 * self.model.architecture.in_channels * _FP32

    @property
    def caption_bytes(self) -> int:
        """One caption as every block is given it, at its longest."""
        return LONGEST * self.model.architecture.width * _FP32

    @property
    def work(self) -> int:
        """What computing with a block takes for one prompt, one branch."""
        return WORK * self.state_bytes // 2 + 3 * self.caption_bytes

    @property
    def weight_bytes(self) -> int:
        """Of the whole model, as it is computed with."""
        return sum(ref.count * _FP32 for ref in self.model.weights)

    def fit_to_memory(self, fixed: int, each: int, reporter: Reporter) -> "Calibration":
        """As many prompts as fit, where `fixed` bytes are needed for them all and `each` for one, once it was sampled.

        Only a limit that was named makes them fewer: what comes out must not hang on the memory that happens to be
        free. What is left goes to larger batches and to weights that stay.
        """
        limit, least = self.memory_limit, self._takes(self.min_prompts, 1, fixed, each)
        if least > limit and self.limit_is_explicit:
            raise UsageError(
                f"--memory-limit {limit:,} is too small for this",
                why=f"{self.min_prompts} prompts, the least, take {bytes_text(least)}",
                hint=f"--memory-limit {least // 1_000_000 + 1}MB, or fewer --timesteps",
            )
        count = self.count
        if self._takes(count, 1, fixed, each) > limit and self.limit_is_explicit:
            count = next(n for n in range(self.count, 0, -1) if self._takes(n, 1, fixed, each) <= limit)
            reporter.note(f"--memory-limit: {count} of {self.count} prompts fit")
        left = max(0, limit - self._takes(count, 1, fixed, each))
        resident = self.weight_bytes < min(left, self.memory_limit // 4)
        left -= self.weight_bytes if resident else 0
        batch = max(1, min(self.batch, 1 + left // self.work))
        return replace(self, count=count, batch=batch, resident=resident, fixed=fixed, each=each)

    def check_room(self, reporter: Reporter) -> None:
        """Lacking if there is less than all prompts need; more than the usual limit is said."""
        needed = self._takes(self.count, self.batch, self.fixed, self.each)
        if needed <= self.memory_limit:
            return
        free, fewer = free_memory(self.device), self._takes(self.count - 1, self.batch, self.fixed, self.each)
        if needed > free:
            fitting = max(self.min_prompts, self.count - -(-(needed - free) // (needed - fewer)))
            raise MissingResource(
                f"this takes {bytes_text(needed)} of memory, {bytes_text(free)} are free",
                why=f"each of {self.count} prompts takes {bytes_text(needed - fewer)}",
                hint=f"--num-prompts {fitting}, or fewer --timesteps",
            )
        reporter.note(f"takes {bytes_text(needed)} of memory for {self.count} prompts; --memory-limit makes them fewer")

    def _takes(self, count: int, batch: int, fixed: int, each: int) -> int:
        """Bytes for so many prompts, so many at a time: while they are sampled, or afterwards, whichever is more."""
        caption = LONGEST * self.model.architecture.caption_channels * _FP32
        held = count * (caption + self.moments * self.moment_bytes)
        sampled = count * (self.state_bytes + self.caption_bytes)
        weights = 2 * self._block_bytes + self.weight_bytes - self.model.architecture.blocks * self._block_bytes
        return weights + batch * self.work + held + max(sampled, fixed + each * count)

    @property
    def _block_bytes(self) -> int:
        counts = [ref.count for ref in self.model.weights if split_block(ref.name)]
        return _FP32 * sum(counts) // self.model.architecture.blocks

    def seconds(self, forwards: float, *, more: float = 0.0, readings: float) -> float:
        """How long encoding, sampling, so many forwards of all states, and `more` operations take.

        Sampling reads the model at each step; `readings` are on top of that, if it doesn't stay in memory.
        """
        passes = self.sampling.steps + forwards * self.moments
        return forward_seconds(
            self.model,
            self.tokens * self.count * passes,
            self.device,
            more=more + self.inputs.encoding,
            readings=1 if self.resident else self.sampling.steps + readings,
        )

    def check_budget(self, what: str, seconds: float, reporter: Reporter, *, yes: bool) -> None:
        """Say what `what` on these prompts will take, before anything is computed."""
        self.check_room(reporter)
        what, steps = f"{what} on {self.count} prompts", self.sampling.steps
        CostEstimate(what, seconds, self.device, self.inputs, self.count, steps).check_budget(reporter, yes=yes)

    def states(self, fifths_of_each: Sequence[int]) -> list[CalibrationStates]:
        """The states of all prompts in parts: the first gets what is left, the others these many fifths."""
        states, stops = self.sample(), [self.count]
        for fifths in reversed(fifths_of_each):
            stops.insert(0, stops[0] - max(1, self.count * fifths // 5))
        return [states.part(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]

    def sample(self) -> CalibrationStates:
        """The states of all prompts."""
        if not self.resident:
            give_back_when_freed()
        device = torch.device(self.device)
        blocks = Blocks(self.model, device, torch.float32, resident=self.resident)
        captions = self.inputs.captions(device).part(0, self.count)
        config = self.model.transformer.config or self.model.architecture.config()
        sampling = replace(self.sampling, batch=self.batch)
        return states_of(blocks, sampler(self.scheduler), captions, sampling, config, every=self.every)


TOGETHER = 64  # prompts that go through a block together, at most


def calibration(model: Model, settings: CalibrationSettings, every: int, min_prompts: int = FEWEST) -> Calibration:
    """From what the user said; a hundred prompts if nothing."""
    settings.check()
    check_computable(model)
    if settings.data:
        raise UsageError("search and repair look at sampled trajectories", why="--inputs noised is for scores")
    inputs = choose_inputs(model, prompts=settings.prompts, count=settings.num_prompts, embeddings=settings.embeddings)
    if inputs.count < min_prompts:
        why = "some are to fit on, others to judge by"
        raise UsageError(f"{inputs.count} prompts are too few", why=why, hint="--num-prompts 100")
    sampling = SamplerSettings(settings.timesteps, settings.guidance, settings.seed, latent_side(model))
    scheduler, device = scheduler_of(model), pick_device(settings.device)
    every = min(every, settings.timesteps)
    limit, limit_is_explicit = settings.limit, settings.memory_limit is not None
    found = Calibration(
        model,
        inputs,
        inputs.count,
        sampling,
        scheduler,
        every,
        limit,
        limit_is_explicit,
        device,
        batch=1,
        min_prompts=min_prompts,
    )
    batch = max(1, min(TOGETHER, limit // 4 // found.work))
    return replace(found, batch=batch, resident=found.weight_bytes < limit // 4)
