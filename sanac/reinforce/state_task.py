"""Training of a head on the generator's states: of known trajectories, with the detector's verdicts as targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from sanac.judge.preview_judge import HEADS
from sanac.judge.state_judge import StateJudge
from sanac.reinforce.judge_task import data_identity, settled, task_of
from sanac.reinforce.trajectories import Trajectories
from sanac.shapes.prompts import Prompt
from sanac.train.task import WholeBatches


@dataclass
class StateJudgeTask(WholeBatches):
    """Cross-entropy of the three heads on random states of all trajectories, for their own prompts."""

    network: StateJudge
    trajectories: Sequence[Trajectories]
    prompts: Sequence[Prompt]
    tap: int  # which of the tapped blocks
    batch_size: int = 256
    compiled: bool = False
    shown: str = "states"
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Number all runs."""
        self._starts = [0, *map(int, np.cumsum([len(one.prompts) for one in self.trajectories]))]

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The head."""
        return {"judge": self.network}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        data = data_identity(self.trajectories)
        return f"state judge {data} {self.batch_size} {self.tap} {self._starts} {self.network.shape}"

    @cached_property
    def _targets(self) -> list[Tensor]:
        """The targets of each trajectory (runs, steps, heads)."""
        return [targets_of(one, self.prompts) for one in self.trajectories]

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss of one batch."""
        numbers = torch.randint(self._starts[-1], (self.batch_size,), generator=generator).numpy()
        parts = []
        for place, one in enumerate(self.trajectories):
            low, high = self._starts[place : place + 2]
            runs = torch.from_numpy(numbers[(low <= numbers) & (numbers < high)] - low)
            if not len(runs):
                continue
            steps = torch.randint(one.states.shape[1], (len(runs),), generator=generator)
            states = one.states[runs, steps, self.tap].float()
            parts.append((states, one.caption[runs], one.noise[steps], self._targets[place][runs, steps]))
        device = next(self.network.parameters()).device
        states, caption, noise, targets = (torch.cat(some).to(device) for some in zip(*parts, strict=True))
        columns = round(states.shape[1] ** 0.5)
        logits = self.network(states, caption, noise, columns)
        weight = torch.tensor([0.5, 1.0, 0.5], device=device)
        lost: Tensor = nn.functional.binary_cross_entropy_with_logits(logits, targets, weight=weight)
        return lost


def targets_of(one: Trajectories, prompts: Sequence[Prompt]) -> Tensor:
    """Clarity, potential and final of every state of some trajectories: (runs, steps, heads)."""
    found = torch.zeros(*one.states.shape[:2], len(HEADS))
    for run in range(found.shape[0]):
        task = task_of(prompts[int(one.prompts[run])].content)
        potential = float(one.correct(run, -1, task))
        for step in range(found.shape[1]):
            found[run, step] = torch.tensor(
                [float(settled(one, run, step)), potential, float(one.correct(run, step, task))]
            )
    return found
