"""How a generator's network is trained on samples: the errors of a batch, and the images that it points at.

One learner per kind of generator; losses and training know this protocol only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sanac.reinforce.groups import Group
from sanac.reinforce.losses.prediction import Prediction

Condition = Mapping[str, Tensor]  # what the generator reads of some prompts, each (prompts, ...)


@dataclass(frozen=True)
class Noising:
    """How the samples of each prompt are made noisy: alike for all of a prompt."""

    level: Tensor  # (prompts,): share of noise, or of masked tokens
    noise: Tensor  # (prompts, ...): what is added, or which tokens are masked


class Learner(Protocol):
    """The training side of a generator."""

    @property
    def network(self) -> nn.Module:
        """The network that learns."""

    @property
    def identity(self) -> str:
        """What the errors depend on besides network and samples."""

    def check(self, group: Group) -> str:
        """What keeps the network from reading a group, in words; empty if nothing does."""

    def draw(self, shape: Sequence[int], prompts: int, generator: torch.Generator) -> Noising:
        """Noise for samples of this shape."""

    def predict(self, network: nn.Module, samples: Tensor, condition: Condition, noising: Noising) -> Prediction:
        """The errors of samples (prompts, samples of each, ...)."""

    def images(self, prediction: Prediction, samples: Tensor, noising: Noising) -> Tensor:
        """The images (prompts x samples, 3, height, width) that a prediction points at, in -1..1, with gradient."""


def stacked(conditions: Sequence[Condition]) -> dict[str, Tensor]:
    """What the generator reads of several prompts, padded with zeros to the longest."""
    return {
        name: nn.utils.rnn.pad_sequence([one[name] for one in conditions], batch_first=True) for name in conditions[0]
    }


def repeated(values: Any, samples: int) -> Any:
    """A row per prompt, repeated for each of its samples."""
    return values.repeat_interleave(samples, dim=0)
