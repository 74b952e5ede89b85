"""Calibration states as the user asks for them: most prompts to fit on, the last fifth to judge by."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sanac.core.errors import Lacking, Misuse
from sanac.core.family import split_block
from sanac.core.model import Model
from sanac.core.talk import Talk
from sanac.core.units import duration_text
from sanac.nn.device import pick_device
from sanac.nn.trajectory import Sampling
from sanac.nn.weights import Blocks
from sanac.prune.inputs import Inputs, choose_inputs
from sanac.prune.measure import PATIENCE, Wanted
from sanac.prune.states import States, states_of
from sanac.prune.surroundings import latent_side, sampler, scheduler_of, speed

_FP32 = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """What states are taken from, fully decided."""

    model: Model
    inputs: Inputs
    count: int  # of its prompts, from the first
    sampling: Sampling
    scheduler: Mapping[str, Any]
    every: int  # of the sampler's steps, which are looked at
    memory_limit: int
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What the states depend on."""
        return {
            **self.inputs.settings,
            "num_prompts": self.count,
            "sampling": {name: value for name, value in asdict(self.sampling).items() if name != "batch"},
            "scheduler": {key: value for key, value in sorted(self.scheduler.items()) if not key.startswith("_")},
            "every": self.every,
        }

    @property
    def moments(self) -> int:
        """How many steps of the sampler are looked at."""
        return len(range(self.every // 2, self.sampling.steps, self.every))

    @property
    def state_bytes(self) -> int:
        """The stream of one prompt, both branches, at all moments."""
        return 2 * self.moments * self.sampling.side**2 * self.model.architecture.width * _FP32

    @property
    def judged(self) -> int:
        """How many prompts, the last ones, nothing is fitted on."""
        return max(1, self.count // 5)

    def within(self, states: int, talk: Talk) -> "Calibration":
        """As many prompts as fit into the memory limit when each needs the room of so many states."""
        fitting = self.memory_limit // (states * self.state_bytes)
        if fitting >= self.count:
            return self
        if fitting < 2:
            least = 2 * states * self.state_bytes
            raise Misuse(
                f"--memory-limit {self.memory_limit:,} is too small for this",
                why="the states of two prompts don't fit",
                hint=f"--memory-limit {least // 1_000_000 + 1}MB, or fewer --timesteps",
            )
        talk.note(f"--memory-limit: {fitting} of {self.count} prompts fit")
        return replace(self, count=fitting)

    def seconds(self, forwards: float) -> float:
        """How long it takes to sample the states and to push them through the model so many times."""
        tokens = self.sampling.side**2 * 2 * self.count
        parameters: int = sum(ref.count for ref in self.model.weights if split_block(ref.name))
        passes = self.sampling.steps + forwards * self.moments
        return 2.0 * parameters * tokens * passes / speed(torch.device(self.device))

    def announce(self, what: str, forwards: float, talk: Talk, *, yes: bool) -> None:
        """Say how long it will take; too long for the patient only goes on when told to."""
        seconds = self.seconds(forwards)
        prompts = f"{self.count} prompts ({self.inputs.source})"
        talk.note(f"{what} on {prompts}: about {duration_text(seconds)} on {self.device}")
        if seconds > PATIENCE and not yes:
            raise Lacking(
                f"{what} would take about {duration_text(seconds)} here",
                why="the model is big and there is no GPU" if self.device == "cpu" else "the model is big",
                hint="fewer prompts (--num-prompts 10), fewer steps (--timesteps 5), --scores FILE, or --yes",
            )

    def states(self) -> tuple[States, States]:
        """Those to fit on, and those to judge by."""
        whole = self.whole()
        cut = self.count - self.judged
        return whole.part(0, cut), whole.part(cut, self.count)

    def whole(self) -> States:
        """The states of all prompts."""
        device = torch.device(self.device)
        size = sum(ref.count * _FP32 for ref in self.model.weights)
        blocks = Blocks(self.model, device, torch.float32, resident=size < self.memory_limit // 2)
        captions = self.inputs.captions(device).part(0, self.count)
        config = self.model.transformer.config or self.model.architecture.config()
        return states_of(blocks, sampler(self.scheduler), captions, self.sampling, config, every=self.every)


def calibration(model: Model, wanted: Wanted, every: int) -> Calibration:
    """From what the user said; a hundred prompts if nothing."""
    if wanted.data:
        raise Misuse("search and repair look at sampled trajectories", why="--inputs noised is for scores")
    inputs = choose_inputs(model, prompts=wanted.prompts, count=wanted.num_prompts, embeddings=wanted.embeddings)
    if inputs.count < 2:
        raise Misuse("one prompt is not enough", why="some are to fit on, others to judge by", hint="--num-prompts 100")
    sampling = Sampling(wanted.timesteps, wanted.guidance, wanted.seed, latent_side(model), batch=64)
    device = pick_device(wanted.device)
    every = min(every, wanted.timesteps)
    scheduler = scheduler_of(model)
    return Calibration(model, inputs, inputs.count, sampling, scheduler, every, wanted.memory_limit, device)
