"""Training of the image tokenizer: images to signs and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sanac.finetune.shapes_data import draw_lessons
from sanac.tiny.data import pictures
from sanac.tokens.image_tokenizer import ImageTokenizer
from sanac.train.task import WholeBatches

COMMITMENT = 0.02  # weight of the distance between channels and their signs


@dataclass
class ImageTokenizerTask(WholeBatches):
    """L1 reconstruction through the signs, and channels pulled towards their signs.

    Signs have no gradient: the decoder's is passed on to the channels as it is (straight through).
    """

    network: ImageTokenizer
    batch_size: int = 48
    compiled: bool = False
    shown: str = "fresh scenes"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The image tokenizer."""
        return {"image_tokenizer": self.network}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"image tokenizer {self.batch_size} {COMMITMENT}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss on one batch of new scenes with items anywhere."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        device = next(self.network.parameters()).device
        shown = pictures(draw_lessons(self.batch_size, rng), rng, tidy=False).to(device)
        channels = self.network.encoder(shown).float()
        signs = torch.where(channels > 0, 1.0, -1.0)
        decoded = self.network.decoder(channels + (signs - channels).detach()).float()
        error: Tensor = (decoded - shown).abs().mean() + COMMITMENT * (channels - signs).square().mean()
        return error
