"""Generates images by masked prediction, one seed per image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sanac.core.artifact.token_model import TokenModel
from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Noise, Pictures
from sanac.tokens.networks import TokenNetworks, open_networks
from sanac.tokens.sampling import token_sampling
from sanac.tokens.stepwise import StepwiseTokens


@dataclass(frozen=True)
class TokenGenerator:
    """An image generator around the networks of a token generator."""

    networks: TokenNetworks

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        return self.networks.name

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        return self.networks.device

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: GenerationSettings,
        reporter: Reporter = NULL_REPORTER,
    ) -> Iterator[Pictures]:
        """Yield batches of images; the noise of each image depends on its own seed only."""
        if any(not prompt.strip() for prompt in prompts):
            raise UsageError("a prompt is empty", hint="describe the image in every prompt")
        stepwise = StepwiseTokens(self.networks, token_sampling(sampling))
        for start in range(0, len(prompts), sampling.batch):
            part = slice(start, start + sampling.batch)
            yield stepwise.start(prompts[part], list(map(Noise, seeds[part]))).finish()
            reporter.advance(len(prompts[part]))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace some weights of the transformer, by their names in it."""
        transformer = self.networks.transformer
        dtype = next(transformer.parameters()).dtype
        transformer.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, strict=False)

    def device_warnings(self) -> list[str]:
        """Nothing: these models are not quantized."""
        return []

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that the tokenizer maps to the unknown token."""
        words = dict.fromkeys(word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()))
        text = self.networks.text
        return [word for word in words if text.unknown is not None and text.unknown in text.words(word)]


def open_token_generator(model: TokenModel, device: str | None = None) -> TokenGenerator:
    """Open a token generator on a device; runs no code or pickle from its folder and downloads nothing."""
    return TokenGenerator(open_networks(model, device))
