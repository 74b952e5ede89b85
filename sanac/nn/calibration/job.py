"""The calibration job: samples states within a memory limit, split into parts for fitting and for validation."""

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
from sanac.nn.calibration.memory import default_limit
from sanac.nn.calibration.sampling import WORK, SamplerSettings
from sanac.nn.calibration.settings import FEWEST, CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates, states_of
from sanac.nn.calibration.text_encoding import LONGEST
from sanac.nn.device import free_memory, pick_device
from sanac.nn.guidance import branches_of, config_of, usual_steps
from sanac.nn.pipeline_config import (
    check_computable,
    forward_seconds,
    latent_side,
    sampler,
    scheduler_of,
    scheduler_settings,
)
from sanac.nn.precision import bytes_of, choose_precision, open_blocks, result_settings

_FP32 = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fully planned calibration: inputs, sampler, memory limit, batch size."""

    model: Model
    inputs: Inputs
    count: int  # number of prompts to use, from the first
    sampling: SamplerSettings
    scheduler: Mapping[str, Any]
    every: int  # every n-th sampler step is recorded
    memory_limit: int
    limit_is_explicit: bool  # whether the user set the limit
    device: str
    batch: int  # prompts per batch
    resident: bool = False  # whether the weights stay in memory
    fixed: int = 0  # bytes needed after sampling, independent of the number of prompts
    each: int = 0  # bytes needed after sampling, per prompt
    min_prompts: int = FEWEST  # minimum number of prompts: fitting, selection, validation
    precision: str = "fp32"
    count_is_open: bool = False  # whether the number of prompts is a default that may be reduced to fit

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that the states depend on, for content keys."""
        return {
            **self.inputs.settings,
            "num_prompts": self.count,
            "sampling": self.sampling.to_json(),
            "scheduler": scheduler_settings(self.scheduler),
            "every": self.every,
            **result_settings(self.precision),
        }

    @property
    def moments(self) -> int:
        """Number of recorded sampler steps."""
        return len(range(self.every // 2, self.sampling.steps, self.every))

    @property
    def tokens(self) -> int:
        """Tokens of one prompt at one step, all guidance branches."""
        return branches_of(self.model) * (self.sampling.side // self.model.architecture.patch_size) ** 2

    @property
    def state_bytes(self) -> int:
        """Bytes of the hidden state of one prompt at one step, all guidance branches."""
        return self.tokens * self.model.architecture.width * bytes_of(self.precision)

    @property
    def moment_bytes(self) -> int:
        """Bytes stored per prompt and recorded step: latents and velocity."""
        return 2 * self.sampling.side**2 * self.model.architecture.in_channels * _FP32

    @property
    def caption_bytes(self) -> int:
        """Bytes of one projected caption at its maximum length."""
        return LONGEST * self.model.architecture.width * bytes_of(self.precision)

    @property
    def work(self) -> int:
        """Bytes of a block's intermediate activations for one prompt and one guidance branch."""
        return WORK * self.state_bytes // branches_of(self.model) + 3 * self.caption_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the precision of the job."""
        return sum(ref.count for ref in self.model.weights) * bytes_of(self.precision)

    def fit_to_memory(self, fixed: int, each: int, reporter: Reporter) -> "Calibration":
        """This calibration with as many prompts as fit; work after sampling needs `fixed` bytes plus `each` per prompt.

        An explicit --memory-limit reduces the prompts one by one, too little free memory their default number in large
        steps, so that a rerun chooses the same. The remaining memory is used for larger batches and resident weights.
        """
        limit, least = self.memory_limit, self._takes(self.min_prompts, 1, fixed, each)
        if least > limit and self.limit_is_explicit:
            raise UsageError(
                f"--memory-limit {limit:,} is too small for this",
                why=f"{self.min_prompts} prompts, the minimum, take {bytes_text(least)}",
                hint=f"--memory-limit {least // 1_000_000 + 1}MB, or fewer --timesteps",
            )
        count = self.count
        if self._takes(count, 1, fixed, each) > limit and self.limit_is_explicit:
            count = next(n for n in range(self.count, 0, -1) if self._takes(n, 1, fixed, each) <= limit)
            reporter.note(f"--memory-limit: {count} of {self.count} prompts fit")
        if not self.limit_is_explicit and self.count_is_open:
            count = self._fitting(count, fixed, each, reporter)
        left = max(0, limit - self._takes(count, 1, fixed, each))
        resident = self.weight_bytes < min(left, self.memory_limit // 4)
        left -= self.weight_bytes if resident else 0
        batch = max(1, min(self.batch, 1 + left // self.work))
        return replace(self, count=count, batch=batch, resident=resident, fixed=fixed, each=each)

    def _fitting(self, count: int, fixed: int, each: int, reporter: Reporter) -> int:
        """`count` prompts, or the largest of `FEWER` that fits into the free memory."""
        free = free_memory(self.device)
        smaller = [fewer for fewer in FEWER if self.min_prompts <= fewer < count]
        fits = (n for n in (count, *smaller) if self._takes(n, 1, fixed, each) <= free)
        found = next(fits, count)
        if found < count:
            needed = bytes_text(self._takes(count, 1, fixed, each))
            reporter.note(f"{found} prompts instead of {count}, which need {needed}; --num-prompts sets their number")
        return found

    @property
    def memory(self) -> int:
        """Peak bytes of the job."""
        return self._takes(self.count, self.batch, self.fixed, self.each)

    def check_room(self, reporter: Reporter) -> None:
        """MissingResource if all prompts need more than the free memory; a note if they exceed the default limit."""
        needed = self.memory
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
        reporter.note(f"takes {bytes_text(needed)} of memory for {self.count} prompts; set --memory-limit to use fewer")

    def _takes(self, count: int, batch: int, fixed: int, each: int) -> int:
        """Peak bytes for `count` prompts in batches of `batch`: the larger of sampling and the work after it."""
        caption = LONGEST * self.model.architecture.caption_channels * _FP32
        held = count * (caption + self.moments * self.moment_bytes)
        sampled = count * (self.state_bytes + self.caption_bytes)
        weights = 2 * self._block_bytes + self.weight_bytes - self.model.architecture.blocks * self._block_bytes
        return weights + batch * self.work + held + max(sampled, fixed + each * count)

    @property
    def _block_bytes(self) -> int:
        counts = [ref.count for ref in self.model.weights if split_block(ref.name)]
        return bytes_of(self.precision) * sum(counts) // self.model.architecture.blocks

    def seconds(self, forwards: float, *, more: float = 0.0, readings: float) -> float:
        """Estimated seconds of encoding, sampling, `forwards` passes over all states, and `more` operations.

        Unless the weights are resident they are read once per sampler step, and `readings` more times.
        """
        passes = self.sampling.steps + forwards * self.moments
        return forward_seconds(
            self.model,
            self.tokens * self.count * passes,
            self.device,
            self.precision,
            more=more + self.inputs.encoding,
            readings=1 if self.resident else self.sampling.steps + readings,
        )

    def check_budget(
        self, what: str, seconds: float, reporter: Reporter, *, yes: bool, memory_is_known: bool = False
    ) -> None:
        """Check memory and report the estimate of `what`, before anything is computed."""
        self.check_room(reporter)
        what, steps = f"{what} on {self.count} prompts", self.sampling.steps
        estimate = CostEstimate(
            what, seconds, self.memory, self.device, self.inputs, self.count, steps, memory_is_known
        )
        estimate.check_budget(reporter, yes=yes)

    def states(self, fifths_of_each: Sequence[int]) -> list[CalibrationStates]:
        """The states of all prompts, split in parts: `fifths_of_each` for all but the first, which gets the rest."""
        states, stops = self.sample(), [self.count]
        for fifths in reversed(fifths_of_each):
            stops.insert(0, stops[0] - max(1, self.count * fifths // 5))
        return [states.part(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]

    def sample(self) -> CalibrationStates:
        """The states of all prompts."""
        if not self.resident:
            give_back_when_freed()
        device = torch.device(self.device)
        blocks = open_blocks(self.model, device, self.precision, resident=self.resident)
        captions = self.inputs.captions(device).part(0, self.count)
        config = config_of(self.model)
        sampling = replace(self.sampling, batch=self.batch)
        return states_of(blocks, sampler(self.scheduler), captions, sampling, config, every=self.every)


TOGETHER = 64  # maximum batch size
FEWER = (48, 24, 12, 6)  # prompts, where the default number doesn't fit into memory


def calibration(model: Model, settings: CalibrationSettings, every: int, min_prompts: int = FEWEST) -> Calibration:
    """Plan a calibration from the user's settings, recording each `every`-th step; needs `min_prompts` prompts."""
    settings.check()
    check_computable(model)
    if settings.data:
        raise UsageError("--inputs noised only applies to scores", why="search and repair need sampled trajectories")
    inputs = choose_inputs(model, prompts=settings.prompts, count=settings.num_prompts, embeddings=settings.embeddings)
    if inputs.count < min_prompts:
        why = "they are split into prompts for fitting and for validation"
        raise UsageError(f"{inputs.count} prompts are too few", why=why, hint="--num-prompts 100")
    steps = settings.timesteps or usual_steps(model)
    sampling = SamplerSettings(steps, settings.guidance, settings.seed, latent_side(model))
    scheduler, device = scheduler_of(model), pick_device(settings.device)
    every = min(every, steps, usual_steps(model) // 2)  # of the few steps of SANA-Sprint, none is left out
    limit = settings.memory_limit or default_limit(device)
    found = Calibration(
        model,
        inputs,
        inputs.count,
        sampling,
        scheduler,
        every,
        limit,
        settings.memory_limit is not None,
        device,
        batch=1,
        min_prompts=min_prompts,
        precision=choose_precision(settings.precision, device, model),
        count_is_open=settings.sizes_are_open,
    )
    batch = max(1, min(TOGETHER, limit // 4 // found.work))
    return replace(found, batch=batch, resident=found.weight_bytes < limit // 4)
