"""How much each block matters, read off the stream on both of its sides.

Block importance, after SANA-1.5: BI_i = 1 - E[cos(X_i, X_i+1)], the cosine per token over channels in fp32, its mean
over tokens, both branches of guidance, prompts and timesteps. No absolute value; what rounding puts below zero is zero.
The relative norm of the change, E[|X_i+1 - X_i| / |X_i|], is taken along: it sees a block that only scales the stream.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sanac.nn.calibration.sampling import BlockCall

METRICS = ("bi", "norm", "velocity")
WATCHED = METRICS[:2]  # read off the stream; the velocity takes forwards of its own


@dataclass
class ImportanceRecorder:
    """Takes down the metrics for every step, block, branch and prompt."""

    steps: int
    blocks: int
    prompts: int
    whole_samples: bool = False  # one vector per sample instead of one per token
    first: int = 0  # number of the first prompt that is watched
    values: Tensor = field(init=False)  # (metrics, steps, blocks, branches, prompts), fp64

    def __post_init__(self) -> None:
        """Room for every value; NaN until it is seen."""
        shape = (len(METRICS), self.steps, self.blocks, 2, self.prompts)
        self.values = torch.full(shape, torch.nan, dtype=torch.float64)

    def __call__(self, call: BlockCall, before: Tensor, after: Tensor) -> None:
        """Look at a batch on both sides of a block."""
        if self.whole_samples:
            before, after = before.flatten(1)[:, None], after.flatten(1)[:, None]
        before, after = before.float(), after.float()
        cosine = torch.cosine_similarity(before, after, dim=-1).double().mean(dim=1)
        change = (after - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        start = call.first - self.first
        slot = self.values[:, call.step, call.block, call.branch, start : start + len(before)]
        slot[0], slot[1] = (1 - cosine).cpu(), change.double().mean(dim=1).cpu()

    def by_prompt(self, metric: str) -> Tensor:
        """(blocks, prompts): the mean over timesteps and branches."""
        return self.values[METRICS.index(metric)].mean(dim=(0, 2))

    def by_step(self, metric: str) -> Tensor:
        """(blocks, steps): the mean over prompts and branches."""
        return self.values[METRICS.index(metric)].mean(dim=(2, 3)).T
