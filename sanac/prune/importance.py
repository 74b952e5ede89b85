"""Block importance from the hidden states before and after each block.

Block importance, after SANA-1.5: BI_i = 1 - E[cos(X_i, X_i+1)], the cosine per token over channels in fp32, averaged
over tokens, the guidance branches, prompts and timesteps. No absolute value; rounding errors below zero become zero.
The relative norm of the change, E[|X_i+1 - X_i| / |X_i|], is recorded too: it detects blocks that only rescale.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sanac.nn.calibration.sampling import BlockCall

METRICS = ("bi", "norm", "velocity")
WATCHED = METRICS[:2]  # computed from hidden states; `velocity` needs extra forwards


@dataclass
class ImportanceRecorder:
    """Activation hook that records the metrics per step, block, guidance branch and prompt."""

    steps: int
    blocks: int
    prompts: int
    whole_samples: bool = False  # one vector per sample instead of one per token
    first: int = 0  # index of the first recorded prompt
    branches: int = 2  # of guidance
    values: Tensor = field(init=False)  # (metrics, steps, blocks, branches, prompts), fp64

    def __post_init__(self) -> None:
        """Allocate the values; NaN marks those that are not recorded yet."""
        shape = (len(METRICS), self.steps, self.blocks, self.branches, self.prompts)
        self.values = torch.full(shape, torch.nan, dtype=torch.float64)

    def __call__(self, call: BlockCall, before: Tensor, after: Tensor) -> None:
        """Record the metrics of a batch from the hidden states before and after a block."""
        if self.whole_samples:
            before, after = before.flatten(1)[:, None], after.flatten(1)[:, None]
        before, after = before.float(), after.float()
        cosine = torch.cosine_similarity(before, after, dim=-1).double().mean(dim=1)
        change = (after - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        start = call.first - self.first
        slot = self.values[:, call.step, call.block, call.branch, start : start + len(before)]
        slot[0], slot[1] = (1 - cosine).cpu(), change.double().mean(dim=1).cpu()

    def by_prompt(self, metric: str) -> Tensor:
        """Mean of a metric over timesteps and guidance branches: (blocks, prompts)."""
        return self.values[METRICS.index(metric)].mean(dim=(0, 2))

    def by_step(self, metric: str) -> Tensor:
        """Mean of a metric over prompts and guidance branches: (blocks, steps)."""
        return self.values[METRICS.index(metric)].mean(dim=(2, 3)).T
