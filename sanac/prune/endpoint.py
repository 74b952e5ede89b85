"""Where a pruned model's own trajectories end, beside the whole model's: what its errors add up to.

The velocity's error at one state says little about the picture: some errors cancel on the way, some grow. So both
sample from the same noise with the same captions, and the latents are compared at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sanac.nn.block import block
from sanac.nn.ends import head
from sanac.nn.subsets import Kept, relative_error
from sanac.nn.surroundings import sampler
from sanac.prune.states import Moment, States

STEPS = 10  # of the sampler: half of what pictures take


class Endpoints:
    """The whole model's latents at the end, to compare with."""

    def __init__(self, states: States, scheduler: Mapping[str, Any], noise: Tensor) -> None:
        self.states, self.scheduler = states, scheduler
        self.noise = noise.to(states.blocks.device)
        whole = tuple(range(len(states.blocks)))
        self.whole = self._sampled([whole])[whole]

    def errors(self, choices: Sequence[Kept], together: int) -> dict[Kept, float]:
        """|x - x'|^2 / |x|^2, its mean over prompts, of the latents x' that each choice of blocks ends at."""
        found: dict[Kept, float] = {}
        for first in range(0, len(choices), together):
            for kept, latents in self._sampled(choices[first : first + together]).items():
                found[kept] = float(relative_error(latents, self.whole).mean())
        return found

    def _sampled(self, choices: Sequence[Kept]) -> dict[Kept, Tensor]:
        """All choices step by step, the weights read once per step."""
        states, blocks = self.states, self.states.blocks
        samplers = {kept: sampler(self.scheduler) for kept in choices}
        for each in samplers.values():
            each.set_timesteps(STEPS, device=blocks.device)
        latents = dict.fromkeys(choices, self.noise)
        needed = sorted({index for kept in choices for index in kept})
        for step in range(STEPS):
            times = {kept: samplers[kept].timesteps[step] for kept in choices}
            starts = {kept: states.starts(Moment(times[kept], latents[kept], latents[kept])) for kept in choices}
            streams = {kept: [start.state for start in pair] for kept, pair in starts.items()}
            for index, tensors in blocks.sweep(needed):
                for kept in choices:
                    if index in kept:
                        pairs = zip(streams[kept], starts[kept], strict=True)
                        streams[kept] = [block(tensors, state, s.condition, states.geometry) for state, s in pairs]
            for kept in choices:
                pairs = zip(streams[kept], starts[kept], strict=True)
                velocity = states.guided(*(head(states.outside, state, start) for state, start in pairs))
                latents[kept] = samplers[kept].step(velocity, times[kept], latents[kept], return_dict=False)[0]
        return latents
