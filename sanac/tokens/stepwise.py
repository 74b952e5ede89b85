"""Masked prediction step by step: every step guesses the whole image, and keeps the tokens that it is surest of.

All randomness of an image is one Gaussian noise (steps, 2, tokens), turned into uniform numbers: for each step and
place one that draws a code, and one that shakes the confidence. So a noise has neighbours, as SANA's has, and an image
depends on its own prompt and noise only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanac.core.errors import InvalidInput
from sanac.nn.count_forwards import counted
from sanac.nn.noise import drawn
from sanac.nn.stepwise import Noise, Pictures, Spent, StepCost
from sanac.tokens.networks import TokenNetworks
from sanac.tokens.sampling import TokenSampling
from sanac.tokens.unmasking import Unmasking


@dataclass
class StepwiseTokens:
    """A token generator that takes its steps one by one."""

    networks: TokenNetworks
    sampling: TokenSampling
    spent: Spent = field(default_factory=Spent)

    @property
    def branches(self) -> int:
        """Forward passes per image and step."""
        return 2 if self.sampling.guidance > 0 else 1

    @property
    def costs(self) -> tuple[StepCost, ...]:
        """What each step takes for one image."""
        layers = self.networks.transformer.architecture.layers
        return (StepCost(self.branches, self.branches * layers),) * self.sampling.steps

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        return self.networks.device

    @cached_property
    def unmasking(self) -> Unmasking:
        """The order in which tokens become known."""
        how = self.sampling
        return Unmasking(self.networks.transformer.architecture.side, how.steps, how.order, how.temperature)

    def start(self, prompts: Sequence[str], noises: Sequence[Noise]) -> "TokensInProgress":
        """Begin an image per prompt and noise, with all tokens masked."""
        shape = (len(prompts), self.networks.transformer.architecture.image_tokens)
        masked = torch.ones(shape, dtype=torch.bool, device=self.networks.device)
        return self._begun(prompts, noises, torch.zeros(shape, dtype=torch.long), masked, 0)

    def restart(
        self, prompts: Sequence[str], guesses: Sequence[Any], noises: Sequence[Noise], step: int
    ) -> "TokensInProgress":
        """Begin before a later step: guesses of which as many tokens are masked as before that step."""
        uniform = torch.stack([self._uniform(noise)[step, 1] for noise in noises])
        masked = self.unmasking.before(step, uniform)
        return self._begun(prompts, noises, torch.stack(list(guesses)), masked, step)

    def _begun(
        self, prompts: Sequence[str], noises: Sequence[Noise], codes: Tensor, masked: Tensor, step: int
    ) -> "TokensInProgress":
        device = self.networks.device
        text = self.networks.text(prompts).to(device)
        uniform = torch.stack([self._uniform(noise) for noise in noises])
        rows = tuple(range(len(prompts)))
        return TokensInProgress(self, text, codes.to(device), masked.to(device), uniform, rows, step)

    def _uniform(self, noise: Noise) -> Tensor:
        """Uniform numbers (steps, 2, tokens) of a noise."""
        shape = (self.sampling.steps, 2, self.networks.transformer.architecture.image_tokens)
        return torch.special.ndtr(drawn(noise, shape).double()).to(self.networks.device)


@dataclass
class TokensInProgress:
    """A batch of images between two steps."""

    owner: StepwiseTokens
    text: Tensor  # (rows, text tokens)
    codes: Tensor  # (rows, tokens); 0 where masked
    masked: Tensor  # (rows, tokens)
    uniform: Tensor  # (rows, steps, 2, tokens)
    rows: tuple[int, ...]
    done: int = 0
    guess: Tensor | None = None  # the codes of a whole image, as the last step drew them

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.owner.sampling.steps

    @property
    def noise(self) -> float:
        """Share of masked tokens before the next step; 0 behind the last one."""
        return self._share(self.done) if self.done < self.steps else 0.0

    @property
    def guess_noise(self) -> float:
        """Share of masked tokens before the last step."""
        return self._share(max(0, self.done - 1))

    @property
    def guesses(self) -> Sequence[Tensor]:
        """The codes that the last step drew."""
        return [] if self.guess is None else list(self.guess)

    @property
    def condition(self) -> dict[str, Tensor]:
        """What the transformer reads of the prompts (rows, ...), for training on the images."""
        return {"text": self.text}

    def _share(self, step: int) -> float:
        order = self.owner.unmasking
        return float(order.masked[step] / order.tokens)

    def advance(self) -> None:
        """Draw all masked codes, and mask again those that become known later."""
        log = self._logits().log_softmax(dim=-1)
        draw, shake = self.uniform[:, self.done].unbind(dim=1)
        total = log.double().exp().cumsum(dim=-1)
        sampled = (total < draw[..., None] * total[..., -1:]).sum(dim=-1).clamp(max=log.shape[-1] - 1)
        self.guess = torch.where(self.masked, sampled, self.codes)
        chosen = log.gather(-1, self.guess[..., None])[..., 0]
        self.masked = self.owner.unmasking.after(self.done, self.masked, chosen.double(), shake)
        self.codes = self.guess.masked_fill(self.masked, 0)
        self.done += 1

    def _logits(self) -> Tensor:
        """Guided logits (rows, tokens, codes): (1 + s) prompted - s unprompted."""
        networks, scale = self.owner.networks, self.owner.sampling.guidance
        shape = networks.transformer.architecture
        image = torch.where(self.masked, shape.mask, self.codes + shape.first_code)
        text = self.text
        if self.owner.branches == 2:
            empty = networks.text([""]).to(text.device).expand(len(text), -1)
            text, image = torch.cat([text, empty]), torch.cat([image, image])
        transformer = networks.transformer
        with torch.no_grad(), counted(transformer, transformer.showo.model.layers, self.owner.spent):
            found: Tensor = transformer(text, image).float()
        if not torch.isfinite(found).all():
            name = networks.name
            raise InvalidInput(f"{name} generates NaN", why=f"at step {self.done}", hint=f"sanac inspect {name} --scan")
        if self.owner.branches == 1:
            return found
        prompted, unprompted = found.chunk(2)
        return (1 + scale) * prompted - scale * unprompted

    def preview(self) -> Pictures:
        """Decode the last step's guess; before the first step there is nothing to see."""
        assert self.guess is not None, "no step was taken yet"
        return self._decoded(self.guess)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only these images in the batch."""
        places = [self.rows.index(row) for row in rows]
        self.rows = tuple(rows)
        self.text, self.codes, self.masked, self.uniform = (
            one[places] for one in (self.text, self.codes, self.masked, self.uniform)
        )
        self.guess = None if self.guess is None else self.guess[places]

    def finish(self) -> Pictures:
        """Take the steps that are left, and decode the last guess; an empty batch needs none."""
        while self.rows and self.done < self.steps:
            self.advance()
        return self._decoded(self.codes if self.guess is None else self.guess)

    def _decoded(self, codes: Tensor) -> Pictures:
        if not len(codes):
            return np.empty((0, 0, 0, 3), np.uint8)
        self.owner.spent.decodes += len(codes)
        networks = self.owner.networks
        with torch.no_grad():
            images = networks.images.decode(codes, networks.transformer.architecture.side).float()
        if not torch.isfinite(images).all():
            raise InvalidInput(f"the image tokenizer of {networks.name} decodes NaN")
        values = ((images + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        found: Pictures = np.round(values * 255).astype(np.uint8)
        return found
