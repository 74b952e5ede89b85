"""What a shrunken model learns when it recovers: the data's velocity, its teacher's velocity, its teacher's stream.

The last two are a teacher's lessons, worked out before training: batch number n is always the same batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sanac.finetune.batches import BatchSampler
from sanac.finetune.encoded_dataset import Prepared
from sanac.finetune.teacher_cache import TeacherCache
from sanac.train.flow_matching import TIMESTEPS, flow_loss
from sanac.train.task import TransformerTask

OUTLIER = 2.0  # standard deviations: what is further out is not imitated


@dataclass
class RecoveryTask(TransformerTask):
    """A transformer and its batches; `weights` says how much each loss counts."""

    transformer: nn.Module
    data: Prepared
    drawing: BatchSampler
    weights: Mapping[str, float]
    lessons: TeacherCache | None = None  # of the teacher
    exits: tuple[int, ...] = ()  # of the teacher's blocks, behind which this transformer's blocks should be, in order
    timestep_scale: float = 1.0
    compiled: bool = False
    shown: str = ""

    @property
    def identity(self) -> str:
        """What the loop's settings don't say."""
        said = self.lessons.identity if self.lessons else ""
        return f"{self.data.identity} {self.drawing} {sorted(self.weights.items())} {said} {self.exits}"

    def loss(self, _generator: torch.Generator, number: int, /) -> Tensor:
        """All losses of one batch; its randomness is its own."""
        distinct = len(self.lessons) if self.lessons else number + 1
        number %= distinct
        batch = self.drawing.draw(self.data, number)
        self.shown = f"batch {number}: samples {', '.join(map(str, batch.picked))}"
        device = next(self.transformer.parameters()).device
        with self._watched() as streams:
            predicted = self.forward(
                batch.states.to(device),
                batch.samples.embeddings.to(device),
                batch.levels.to(device) * TIMESTEPS * self.timestep_scale,
                encoder_attention_mask=batch.samples.mask.to(device),
                return_dict=False,
            )[0]
        losses: dict[str, Tensor] = {}
        if "flow" in self.weights:
            losses["flow"] = flow_loss(predicted, batch.samples.latents.to(device), batch.noise.to(device))
        if "distill" in self.weights:
            assert self.lessons is not None
            losses["distill"] = (predicted.float() - self.lessons.velocity(number).to(device)).square().mean()
        if "features" in self.weights:
            assert self.lessons is not None
            taught = [self.lessons.stream(number, place).to(device) for place in self.exits]
            losses["features"] = feature_loss(streams, taught)
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    @contextmanager
    def _watched(self) -> Iterator[list[Tensor]]:
        """The stream behind every block, as far as a loss asks for it."""
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


def feature_loss(found: list[Tensor], taught: list[Tensor]) -> Tensor:
    """How far streams are from the teacher's, as a share of its variance; outliers of either are left out."""
    assert len(found) == len(taught)
    losses = []
    for mine, other in zip(found, taught, strict=True):
        mine, other = mine.float(), other.float()  # noqa: PLW2901
        usual = _usual(mine.detach()) & _usual(other)
        apart = (mine - other).square().mul(usual).sum() / usual.sum().clamp_min(1)
        losses.append(apart / other[usual].var().clamp_min(1e-12))
    return torch.stack(losses).mean()


def _usual(stream: Tensor) -> Tensor:
    return (stream - stream.mean()).abs() <= OUTLIER * stream.std()
