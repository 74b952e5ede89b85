"""What a network predicts of a batch of samples: errors, and how they depend on its output."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Errors of the samples of some prompts: (prompts, samples of each)."""

    error: Tensor  # (prompts, samples), with gradient
    slope: Tensor  # (prompts, samples, ...): derivative of each error by the network's output, without gradient
    output: Tensor  # (prompts, samples, ...): the output itself, with gradient

    def distance(self, other: "Prediction") -> Tensor:
        """Mean squared difference of the outputs."""
        return (self.output - other.output.detach()).square().mean()
