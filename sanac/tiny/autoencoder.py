"""Training of the autoencoder: images to 4 x 4 latents and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn

from sanac.finetune.shapes_data import draw_lessons
from sanac.tiny.data import pictures
from sanac.train.task import WholeBatches

NOISE = 0.2  # added to unit-variance latents, so that small errors of the transformer decode cleanly


@dataclass
class AutoencoderTask(WholeBatches):
    """L1 reconstruction loss, with latents kept near unit variance in each channel."""

    vae: AutoencoderDC
    batch_size: int = 48
    compiled: bool = False
    shown: str = "fresh scenes"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The autoencoder."""
        return {"vae": self.vae}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"autoencoder {self.batch_size} {NOISE}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss on one batch of new scenes with items anywhere."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        shown = pictures(draw_lessons(self.batch_size, rng), rng, tidy=False).to(self.vae.device)
        latents = self.vae.encode(shown).latent
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        decoded = self.vae.decode(latents + NOISE * noise).sample
        variance = latents.square().mean(dim=(0, 2, 3))
        error: Tensor = (decoded - shown).abs().mean() + 0.01 * (variance - 1).square().mean()
        return error
