"""Training of a token model on samples: the mean -log p of masked codes."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sanac.core.family.showo import ShowoArchitecture
from sanac.reinforce.groups import Group
from sanac.reinforce.learner import Condition, Noising, repeated
from sanac.reinforce.losses.prediction import Prediction
from sanac.tokens.image_tokenizer import ImageTokenizer


@dataclass
class TokenLearner:
    """A transformer that predicts masked codes, and the decoder of its codes."""

    network: nn.Module
    tokenizer: ImageTokenizer
    architecture: ShowoArchitecture

    @property
    def identity(self) -> str:
        """What the errors depend on besides network and samples."""
        return "masked tokens"

    def check(self, group: Group) -> str:
        """Codes of this tokenizer, and a prompt's tokens."""
        shape, text = self.architecture, group.condition.get("text", torch.empty(0))
        if group.samples.is_floating_point() or group.samples.shape[1:] != (shape.image_tokens,):
            return f"its samples are not {shape.image_tokens} codes each"
        if not 0 <= int(group.samples.min()) <= int(group.samples.max()) < shape.codes:
            return f"its codes are not from 0 to {shape.codes - 1}"
        if text.is_floating_point() or text.shape != (shape.text_length + 1,):
            return f"its prompt is not {shape.text_length + 1} tokens"
        within = 0 <= int(text.min()) <= int(text.max()) < shape.vocabulary
        return "" if within else "its prompt's tokens are not of the vocabulary"

    def draw(self, shape: Sequence[int], prompts: int, generator: torch.Generator) -> Noising:
        """Masks of a share cos(pi u / 2) of the tokens, at least one."""
        (tokens,) = shape
        share = torch.cos(math.pi / 2 * torch.rand(prompts, generator=generator))
        count = (share * tokens).floor().clamp(min=1)
        ranks = torch.rand(prompts, tokens, generator=generator).argsort(dim=1).argsort(dim=1)
        return Noising(count / tokens, ranks < count[:, None])

    def predict(self, network: nn.Module, samples: Tensor, condition: Condition, noising: Noising) -> Prediction:
        """L = mean over masked tokens of -log p(code)."""
        rows, count = samples.shape[:2]
        masked = repeated(noising.noise.to(samples.device), count)
        codes = samples.flatten(0, 1).long()
        shape = self.architecture
        image = torch.where(masked, shape.mask, codes + shape.first_code)
        with attention_kernel(samples.device):
            logits = network(repeated(condition["text"], count).to(samples.device), image).float()
        codes, masked, logits = (one.unflatten(0, (rows, count)) for one in (codes, masked, logits))
        log = logits.log_softmax(dim=-1)
        share = masked / masked.sum(dim=-1, keepdim=True)
        error = -(log.gather(-1, codes[..., None])[..., 0] * share).sum(dim=-1)
        slope = log.detach().exp()  # in place from here on: it is as large as the logits
        slope.scatter_add_(-1, codes[..., None], -torch.ones_like(slope[..., :1])).mul_(share[..., None])
        return Prediction(error, slope, logits)

    def images(self, prediction: Prediction, samples: Tensor, noising: Noising) -> Tensor:
        """Decoded mean signs of the predicted codes, where they are masked, and the samples' own signs elsewhere."""
        logits, codes = prediction.output.flatten(0, 1), samples.flatten(0, 1).long()
        signs = self.tokenizer.quantize.embedding
        masked = repeated(noising.noise.to(samples.device), samples.shape[1])[..., None]
        channels = torch.where(masked, logits.softmax(dim=-1) @ signs, signs[codes])
        side = self.architecture.side
        found: Tensor = self.tokenizer.decoder(channels.transpose(1, 2).unflatten(2, (side, side)))
        return found


def attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    """The kernel of attention to train with: the fused one's backward takes five times as long on a CPU."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
