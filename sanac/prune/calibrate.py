"""Calibration states as the user asks for them: most prompts to fit on, the last ones to judge by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sanac.core.errors import Misuse
from sanac.core.family import split_block
from sanac.core.model import Model
from sanac.core.talk import Talk
from sanac.core.units import bytes_text
from sanac.nn.captions import LONGEST
from sanac.nn.device import free_memory, pick_device
from sanac.nn.surroundings import (
    check_computable,
    forward_seconds,
    latent_side,
    sampler,
    scheduler_of,
    scheduler_settings,
)
from sanac.nn.trajectory import WORK, Sampling
from sanac.nn.weights import Blocks
from sanac.prune.inputs import Inputs, choose_inputs
from sanac.prune.measure import LIMIT, Wanted, announce
from sanac.prune.states import States, states_of

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
    room: int  # what it may take where the limit is not enough: more if the user named none
    device: str

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
    def batch(self) -> int:
        """How many prompts go through a block together: what that takes is a quarter of the limit at most."""
        return max(1, min(self.sampling.batch, self.memory_limit // 4 // self._work))

    @property
    def _work(self) -> int:
        """What computing with a block takes for one prompt, one branch."""
        return WORK * self.state_bytes // 2 + 3 * self.caption_bytes

    def within(self, fixed: int, each: int, talk: Talk) -> "Calibration":
        """As many prompts as there is room for beside `fixed` bytes, when one takes `each` and its caption."""
        fixed += 2 * self._block_bytes + self.batch * self._work
        each += LONGEST * self.model.architecture.caption_channels * _FP32
        fitting, wanted = (self.room - fixed) // each, fixed + each * self.count
        if fitting >= self.count:
            if wanted > self.memory_limit:
                talk.note(f"takes up to {bytes_text(wanted)} of memory; --memory-limit would have it take less")
            return self
        if fitting < LEAST:
            raise Misuse(
                f"{bytes_text(self.room)} of memory are too little for this",
                why=f"it takes {bytes_text(fixed)}, and {bytes_text(each)} for each of three prompts or more",
                hint=f"--memory-limit {(fixed + LEAST * each) // 1_000_000 + 1}MB, or fewer --timesteps",
            )
        talk.note(f"{fitting} of {self.count} prompts fit into {bytes_text(self.room)} of memory (--memory-limit)")
        return replace(self, count=fitting)

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

    @property
    def resident(self) -> bool:
        """Whether the weights are read once and stay: a quarter of the limit is enough for them."""
        return sum(ref.count * _FP32 for ref in self.model.weights) < self.memory_limit // 4

    def announce(self, what: str, seconds: float, talk: Talk, *, yes: bool) -> None:
        """Say how long `what` on these prompts will take."""
        announce(f"{what} on {self.count} prompts", self.inputs, seconds, self.device, talk, yes=yes)

    def states(self, shares: Sequence[int]) -> list[States]:
        """The states of all prompts in parts: the first gets what is left, the others these many fifths."""
        whole, stops = self.whole(), [self.count]
        for share in reversed(shares):
            stops.insert(0, stops[0] - max(1, self.count * share // 5))
        return [whole.part(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]

    def whole(self) -> States:
        """The states of all prompts."""
        device = torch.device(self.device)
        blocks = Blocks(self.model, device, torch.float32, resident=self.resident)
        captions = self.inputs.captions(device).part(0, self.count)
        config = self.model.transformer.config or self.model.architecture.config()
        sampling = replace(self.sampling, batch=self.batch)
        return states_of(blocks, sampler(self.scheduler), captions, sampling, config, every=self.every)


LEAST = 3  # prompts: to fit on, to choose by, to judge by


def calibration(model: Model, wanted: Wanted, every: int) -> Calibration:
    """From what the user said; a hundred prompts if nothing."""
    wanted.check()
    check_computable(model)
    if wanted.data:
        raise Misuse("search and repair look at sampled trajectories", why="--inputs noised is for scores")
    inputs = choose_inputs(model, prompts=wanted.prompts, count=wanted.num_prompts, embeddings=wanted.embeddings)
    if inputs.count < LEAST:
        why = "some are to fit on, others to judge by"
        raise Misuse(f"{inputs.count} prompts are not enough", why=why, hint="--num-prompts 100")
    sampling = Sampling(wanted.timesteps, wanted.guidance, wanted.seed, latent_side(model), batch=64)
    scheduler, device = scheduler_of(model), pick_device(wanted.device)
    every = min(every, wanted.timesteps)
    limit = wanted.memory_limit or LIMIT
    room = wanted.memory_limit or max(LIMIT, free_memory(device) // 2)
    return Calibration(model, inputs, inputs.count, sampling, scheduler, every, limit, room, device)
