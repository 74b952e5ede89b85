"""Losses of fine-tuning: flow matching on data, distillation of the teacher's velocity, and of its hidden states.

The teacher's outputs are read from a cache that is filled before training: batch n is always the same batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sanac.finetune.batches import Batch, Sampler
from sanac.finetune.encoded_dataset import Prepared
from sanac.finetune.teacher_cache import TeacherCache
from sanac.nn.guidance import ClassifierFree, Guidance
from sanac.train.flow_matching import flow_loss
from sanac.train.task import TransformerTask

OUTLIER = 2.0  # standard deviations: the feature loss ignores values further from the mean


@dataclass
class RecoveryTask(TransformerTask):
    """Training task of a student transformer; `weights` are the weights of the losses."""

    transformer: nn.Module
    data: Prepared
    sampler: Sampler
    weights: Mapping[str, float]
    teacher_cache: TeacherCache | None = None  # cached teacher outputs
    feature_blocks: tuple[int, ...] = ()  # teacher block whose output each student block imitates
    guidance: Guidance = field(default_factory=ClassifierFree)  # of the student
    micro_batch: int | None = None  # most samples per forward pass; None: the whole batch
    compiled: bool = False
    shown: str = ""

    @property
    def identity(self) -> str:
        """Everything that training depends on beyond the loop's settings."""
        one = self.sampler
        drawing = f"size={one.size}, seed={one.seed}, {one.identity}, caption_dropout={one.caption_dropout}"
        taught_by = self.teacher_cache.identity if self.teacher_cache else ""
        how = f"Drawing({drawing}) {sorted(self.weights.items())}"  # as checkpoints have it in their keys
        return f"{self.data.identity} {how} {taught_by} {self.feature_blocks}"

    def loss(self, generator: torch.Generator, number: int, /) -> Tensor:
        """Weighted sum of the losses on batch `number`."""
        return torch.stack(list(self.losses(generator, number))).sum()

    def losses(self, _generator: torch.Generator, number: int, /) -> Iterator[Tensor]:
        """The weighted sum of the losses on batch `number`, which has its own generator, in micro-batches."""
        distinct = len(self.teacher_cache) if self.teacher_cache else number + 1
        number %= distinct
        batch = self.sampler.draw(self.data, number)
        self.shown = f"batch {number}: samples {', '.join(map(str, batch.picked))}"
        size = self.micro_batch or self.sampler.size
        for first in range(0, self.sampler.size, size):
            some = slice(first, first + size)
            share = len(batch.picked[some]) / self.sampler.size
            yield share * self._part(batch.part(some), number, some)

    def _part(self, batch: Batch, number: int, some: slice) -> Tensor:
        """Weighted sum of the losses on `some` samples of batch `number`."""
        device = next(self.transformer.parameters()).device
        with self._watched() as streams:
            predicted = self.forward(
                batch.states.to(device),
                batch.samples.embeddings.to(device),
                batch.levels.to(device) * self.guidance.timesteps,
                guidance=self.guidance.embedded(len(batch.picked), device),
                encoder_attention_mask=batch.samples.mask.to(device),
                return_dict=False,
            )[0]
        losses: dict[str, Tensor] = {}
        if "flow" in self.weights:
            assert batch.noise is not None
            losses["flow"] = flow_loss(predicted, batch.samples.latents.to(device), batch.noise.to(device))
        if "distill" in self.weights:
            targets = self._velocities(batch, number, some).to(device)
            losses["distill"] = (predicted.float() - targets).square().mean()
        if "features" in self.weights:
            assert self.teacher_cache is not None
            states = [self.teacher_cache.stream(number, place)[some].to(device) for place in self.feature_blocks]
            losses["features"] = feature_loss(streams, states)
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _velocities(self, batch: Batch, number: int, some: slice) -> Tensor:
        """The teacher's velocities: recorded on its trajectories, or computed for the batch beforehand."""
        if batch.targets is not None:
            return batch.targets
        assert self.teacher_cache is not None
        return self.teacher_cache.velocity(number)[some]

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """Collect the hidden states after every block, if the feature loss needs them."""
        streams: list[Tensor] = []
        if "features" not in self.weights:
            yield streams
            return
        blocks = self.transformer.transformer_blocks
        handles = [block.register_forward_hook(lambda _block, _args, out: streams.append(out)) for block in blocks]
        try:
            yield streams
        finally:
            for handle in handles:
                handle.remove()


def feature_loss(found: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared error to the teacher's hidden states relative to their variance, outliers of either excluded."""
    assert len(found) == len(targets)
    losses = []
    for mine, other in zip(found, targets, strict=True):
        mine, other = mine.float(), other.float()  # noqa: PLW2901
        usual = _usual(mine.detach()) & _usual(other)
        distance = (mine - other).square().mul(usual).sum() / usual.sum().clamp_min(1)
        losses.append(distance / other[usual].var().clamp_min(1e-12))
    return torch.stack(losses).mean()


def _usual(stream: Tensor) -> Tensor:
    return (stream - stream.mean()).abs() <= OUTLIER * stream.std()
