"""The training of a generator on its own judged samples: groups, a loss, and a frozen reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sanac.core.errors import InvalidInput
from sanac.finetune.lora import without_adapters
from sanac.reinforce.flow_learner import FlowLearner
from sanac.reinforce.groups import Group, Samples
from sanac.reinforce.learner import Learner, Noising, stacked
from sanac.reinforce.losses.dgpo import advantages, dgpo
from sanac.reinforce.losses.dpo import dpo
from sanac.reinforce.losses.nft import nft
from sanac.reinforce.losses.prediction import Prediction
from sanac.reinforce.losses.rft import rft
from sanac.reinforce.reward_guidance import RewardGuidance


@dataclass(frozen=True)
class Objective:
    """A loss by name, with its constants."""

    loss: str
    beta: float
    least: float = 0.5  # rft: the score from which on a sample is accepted
    most: int = 1  # rft: accepted samples of a prompt
    mu: float | None = 0.5  # dpo: the safeguard
    kl: float = 0.0  # dgpo

    def usable(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that the loss can learn from."""
        if self.loss == "rft":
            return [one for one in groups if one.accepted(self.least, self.most)]
        return [one for one in groups if one.varied]

    def chosen(self, group: Group, generator: torch.Generator) -> list[int]:
        """The samples of a group that a step sees."""
        if self.loss == "rft":
            some = group.accepted(self.least, self.most)
            return [some[int(torch.randint(len(some), (1,), generator=generator))]]
        return list(group.pair) if self.loss == "dpo" else list(range(len(group.scores)))


@dataclass
class ReinforceTask:
    """Batches of groups, compared with a reference."""

    learner: Learner
    reference: nn.Module | None  # None: the network without its adapters
    samples: Samples
    objective: Objective
    batch_size: int = 16  # prompts
    reward: RewardGuidance | None = None
    micro_batch: int | None = None  # prompts per pass; None: all
    compiled: bool = False
    shown: str = ""
    groups: list[Group] = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what the network can't read, and leave out groups that nothing can be learned from."""
        like = self.samples.groups[0].samples.shape
        for number, group in enumerate(self.samples.groups):
            other = f"they are {list(group.samples.shape)}, those of the first prompt {list(like)}"
            found = self.learner.check(group) or (other if group.samples.shape != like else "")
            if found:
                raise InvalidInput(f"the samples of prompt {number} can't be learned from", why=found)
        self.groups = self.objective.usable(self.samples.groups)
        if not self.groups:
            raise InvalidInput(
                f"there is nothing to learn with --loss {self.objective.loss}",
                why=f"in {len(self.samples.groups)} prompts no sample is accepted, or all score alike",
                hint="more samples of each prompt, other prompts, or another verifier",
            )
        if self.reference is not None:
            self.reference.eval().requires_grad_(requires_grad=False)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The network that learns."""
        return {"transformer": self.learner.network}

    @property
    def identity(self) -> str:
        """Everything that training depends on beyond the loop's settings."""
        reward = f" reward {self.reward.weight}" if self.reward else ""
        return f"reinforce {self.samples.identity} {self.objective} {self.learner.identity} {self.batch_size}{reward}"

    def losses(self, generator: torch.Generator, _number: int = 0, /) -> Iterator[Tensor]:
        """The loss of one batch of prompts, in micro-batches: every loss is a mean over prompts."""
        numbers = torch.randint(len(self.groups), (self.batch_size,), generator=generator).tolist()
        some = [self.groups[number] for number in numbers]
        self.shown = f"the prompts {some[0].prompt!r} and {len(some) - 1} more"
        chosen = [self.objective.chosen(group, generator) for group in some]
        noising = self.learner.draw(some[0].samples.shape[1:], len(some), generator)
        size = self.micro_batch or len(some)
        for first in range(0, len(some), size):
            part = slice(first, first + size)
            share = len(some[part]) / len(some)
            yield share * self._part(some[part], chosen[part], Noising(noising.level[part], noising.noise[part]))

    def _part(self, some: Sequence[Group], chosen: Sequence[list[int]], noising: Noising) -> Tensor:
        """The mean loss of some prompts."""
        device = next(self.learner.network.parameters()).device
        picked = [group.samples[rows] for group, rows in zip(some, chosen, strict=True)]
        samples = torch.stack([one.float() if one.is_floating_point() else one for one in picked]).to(device)
        scores = torch.tensor([[group.scores[row] for row in rows] for group, rows in zip(some, chosen, strict=True)])
        condition = stacked([group.condition for group in some])
        reference = self._compared(samples, condition, noising)  # first: nothing is kept of it but its output
        policy = self.learner.predict(self.learner.network, samples, condition, noising)
        found = self._objective(policy, reference, samples, noising, scores.to(device))
        if self.reward:
            found = found + self.reward.loss(self.learner, policy, samples, [one.prompt for one in some], noising)
        return found

    def _compared(self, samples: Tensor, condition: Mapping[str, Tensor], noising: Noising) -> Prediction | None:
        """What the reference predicts, where the loss needs one."""
        if self.objective.loss == "rft":
            return None
        with torch.no_grad():
            if self.reference is not None:
                return self.learner.predict(self.reference, samples, condition, noising)
            with without_adapters(self.learner.network):
                return self.learner.predict(self.learner.network, samples, condition, noising)

    def _objective(
        self, policy: Prediction, reference: Prediction | None, samples: Tensor, noising: Noising, scores: Tensor
    ) -> Tensor:
        how = self.objective
        if reference is None:
            return rft(policy)
        if how.loss == "dpo":
            return dpo(policy, reference.error, how.beta, how.mu)
        if how.loss == "dgpo":
            return dgpo(policy, reference, advantages(scores), how.beta, how.kl)
        assert isinstance(self.learner, FlowLearner), "nft needs a squared distance"
        return nft(policy, reference, self.learner.target(samples, noising), advantages(scores))
