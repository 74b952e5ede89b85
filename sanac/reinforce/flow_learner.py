"""Training of a flow model on samples: the squared error of the velocity at a noised sample."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sanac.reinforce.groups import Group
from sanac.reinforce.learner import Condition, Noising, repeated
from sanac.reinforce.losses.prediction import Prediction
from sanac.train.flow_matching import Times


@dataclass
class FlowLearner:
    """A transformer that predicts velocities, and the decoder of its latents."""

    network: nn.Module
    vae: nn.Module | None  # None: no image is looked at
    timesteps: float  # from noise levels to the transformer's input
    times: Times = field(default_factory=Times)

    @property
    def identity(self) -> str:
        """What the errors depend on besides network and samples."""
        return f"flow {self.times}"

    def check(self, group: Group) -> str:
        """Latents of this network's channels, and a caption's embeddings with a mask."""
        config = self.network.config
        embeddings, mask = (group.condition.get(name, torch.empty(0)) for name in ("embeddings", "mask"))
        if not group.samples.is_floating_point() or group.samples.dim() != 4:
            return "its samples are not latents"
        channels, *sides = group.samples.shape[1:]
        if channels != config["in_channels"] or any(side < 1 or side % config["patch_size"] for side in sides):
            return f"its latents are {list(group.samples.shape[1:])}, which the transformer doesn't take"
        if embeddings.dim() != 2 or embeddings.shape[1] != config["caption_channels"] or not len(embeddings):
            return "its embeddings are not those of this model's text encoder"
        return "" if mask.shape == embeddings.shape[:1] else "its mask doesn't fit its embeddings"

    def draw(self, shape: Sequence[int], prompts: int, generator: torch.Generator) -> Noising:
        """A noise level and a noise per prompt."""
        level = self.times.draw(prompts, generator)
        return Noising(level, torch.randn(prompts, *shape, generator=generator))

    def predict(self, network: nn.Module, samples: Tensor, condition: Condition, noising: Noising) -> Prediction:
        """x_s = (1 - s) x + s e; L = mean (v - (e - x))^2."""
        count = samples.shape[1]
        level = noising.level.to(samples).view(-1, 1, *[1] * (samples.dim() - 2))
        noise = noising.noise.to(samples)[:, None]
        states = (1 - level) * samples + level * noise
        velocity = network(
            states.flatten(0, 1),
            repeated(condition["embeddings"], count).to(samples),
            repeated(noising.level.to(samples) * self.timesteps, count),
            encoder_attention_mask=repeated(condition["mask"], count).to(samples.device),
            return_dict=False,
        )[0].float()
        output = velocity[:, : samples.shape[2]].view(samples.shape)  # a learned variance is behind the velocity
        missed = output - (noise - samples)
        error = missed.square().flatten(2).mean(dim=2)
        slope = 2 * missed.detach() / missed[0, 0].numel()
        return Prediction(error, slope, output)

    def target(self, samples: Tensor, noising: Noising) -> Tensor:
        """What the output should be."""
        return noising.noise.to(samples)[:, None] - samples

    def images(self, prediction: Prediction, samples: Tensor, noising: Noising) -> Tensor:
        """Decoded x_s - s v."""
        level = noising.level.to(samples).view(-1, 1, *[1] * (samples.dim() - 2))
        states = (1 - level) * samples + level * noising.noise.to(samples)[:, None]
        guess = (states - level * prediction.output).flatten(0, 1)
        assert self.vae is not None
        scale = self.vae.config.scaling_factor
        found: Tensor = self.vae.decode(guess.to(self.vae.dtype) / scale, return_dict=False)[0].float()
        return found
