"""Which image tokens are known after each step: by confidence, as Show-o does it, or in Halton's order.

By confidence, cos(pi/2 (i + 1)/T) of n tokens are masked again after step i of T, those that the model was least sure
of. Its log probabilities get Gumbel noise first, times a temperature that falls to zero:

    c = log p + t_i g,   t_i = t (1 - 1/T) (1 - 2/T) ... (1 - (i + 1)/T)

In Halton's order the places are fixed beforehand, far from each other (Besnier et al., 2503.17076), and
1 - arccos((i + 1)/T) / (pi/2) of them are known after step i. All images of a batch then know the same places.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sanac.core.errors import UsageError

ORDERS = ("confidence", "halton")


@dataclass(frozen=True)
class Unmasking:
    """The order in which the tokens of an image become known."""

    side: int  # tokens in a row
    steps: int
    order: str = "confidence"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """UsageError for more steps than Halton's order has places."""
        if self.order == "halton" and self.steps > self.tokens:
            raise UsageError(
                f"--steps {self.steps} is more than the {self.tokens} tokens of an image",
                why="in Halton's order every step makes at least one token known",
                hint=f"--steps {self.tokens}, or --order confidence",
            )

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return self.side**2

    @cached_property
    def masked(self) -> tuple[int, ...]:
        """How many tokens are masked before the first step and after each one.

        Show-o leaves one token masked even after the last step; the images are those of the last guess, which has none.
        """
        return tuple(self._masked())

    def _masked(self) -> Iterator[int]:
        left = self.tokens
        yield left
        for step in range(1, self.steps + 1):
            if self.order == "halton":
                known = round(self.tokens * (1 - math.acos(step / self.steps) / (math.pi / 2)))
                left = min(left - 1, self.tokens - known)
            else:
                left = max(1, min(left - 1, self._cosine(step)))
            yield left

    def _cosine(self, step: int) -> int:
        """floor(n cos(pi/2 step/T)) in single precision: of 256 tokens two thirds of the way 127, as Show-o has it."""
        share = torch.cos(torch.tensor(step / self.steps) * math.pi * 0.5)
        return int((self.tokens * share).floor())

    def temperature_at(self, step: int) -> float:
        """The temperature of a step: a product that begins again with every image."""
        return self.temperature * math.prod(1 - done / self.steps for done in range(1, step + 2))

    def after(self, step: int, masked: Tensor, log_probability: Tensor, uniform: Tensor) -> Tensor:
        """Which tokens are masked after a step (rows, tokens); none becomes masked that was known.

        `log_probability` is that of the sampled codes, `uniform` the noise of the confidence.
        """
        count = self.masked[step + 1]
        if self.order == "halton":
            return self.last(count).to(masked.device).expand_as(masked)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        confidence = log_probability + self.temperature_at(step) * gumbel
        return _lowest(confidence.masked_fill(~masked, torch.inf), count)

    def before(self, step: int, uniform: Tensor) -> Tensor:
        """Which tokens to mask in a complete image so that a later step can begin with it (rows, tokens)."""
        count = self.masked[step]
        if self.order == "halton":
            return self.last(count).to(uniform.device).expand_as(uniform)
        return _lowest(uniform, count)

    def last(self, count: int) -> Tensor:
        """The last places of Halton's order (1, tokens)."""
        found = torch.zeros(1, self.tokens, dtype=torch.bool)
        found[0, list(self.places[self.tokens - count :])] = True
        return found

    @cached_property
    def places(self) -> tuple[int, ...]:
        """All places in the order in which Halton's sequence of bases 2 and 3 reaches them."""
        found: dict[int, None] = {}
        index = 0
        while len(found) < self.tokens:
            index += 1
            row, column = (int(_radical_inverse(index, base) * self.side) for base in (2, 3))
            found.setdefault(row * self.side + column)
        return tuple(found)


def _radical_inverse(index: int, base: int) -> float:
    """The digits of a number mirrored at the point: 6 = 110 in base 2 becomes 0.011."""
    value, share = 0.0, 1.0
    while index:
        share /= base
        value += share * (index % base)
        index //= base
    return value


def _lowest(values: Tensor, count: int) -> Tensor:
    """The `count` lowest values of each row; of equal ones the first."""
    places = values.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, places, value=True)
