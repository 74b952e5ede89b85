"""Interval training: each block before a gap is trained alone to do the work of the blocks dropped behind it.

The teacher's hidden states are swept through its blocks. Where a gap begins, the states before it are kept; where it
ends, the student's block is trained to map the former to the latter. No student runs, so intervals don't depend on
each other, and one block and two sets of hidden states are in memory, whatever the depth. The loss is the squared error
relative to the targets' variance: a cosine would leave their magnitude free. (After PPCL, arXiv 2511.16156.)
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import block_name
from sanac.core.progress import Reporter
from sanac.finetune.batches import Batch
from sanac.finetune.teacher_cache import embed_batch
from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import BlockInputs
from sanac.nn.guidance import config_of
from sanac.nn.streaming import Blocks
from sanac.train.loop import Callbacks, Settings, train

STATES = 1 << 19  # tokens whose hidden states are kept: 512 pictures' steps at 1024 px


@dataclass(frozen=True, slots=True)
class Interval:
    """A block of the student, and the teacher's blocks that it stands for."""

    block: int  # of the student
    first: int  # of the teacher
    last: int


def intervals_of(sources: Sequence[int], depth: int) -> list[Interval]:
    """The intervals of a student whose block k was the teacher's block `sources[k]`; UsageError if it has none."""
    ends = [*sources[1:], depth]
    found = [
        Interval(number, first, end - 1)
        for number, (first, end) in enumerate(zip(sources, ends, strict=True))
        if end - 1 > first
    ]
    if not found:
        raise UsageError("--intervals: no block of the model was followed by a dropped one")
    return found


@dataclass
class _Streams:
    """The teacher's hidden states of some batches."""

    starts: list[BlockInputs]
    states: list[Tensor]

    @classmethod
    def of(cls, blocks: Blocks, config: Mapping[str, Any], batches: Sequence[Batch]) -> "_Streams":
        """The states before the first block."""
        outside = blocks.outside()
        starts = [embed_batch(blocks, config, outside, batch) for batch in batches]
        states = [start.state for start in starts]
        return cls([replace(start, state=start.state.new_empty(0)) for start in starts], states)

    def advance(self, tensors: Mapping[str, Tensor], geometry: Geometry) -> None:
        """Run the states through a block of the teacher."""
        for place, start in enumerate(self.starts):
            self.states[place] = block(tensors, self.states[place], start.conditioning, geometry)


class _Block(nn.Module):  # type: ignore[misc]
    """A block's tensors as trainable parameters in fp32."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {name.replace(".", "/"): name for name in tensors}
        for attribute, name in self.names.items():
            self.register_parameter(attribute, nn.Parameter(tensors[name].float().clone()))

    def forward(self, state: Tensor, start: BlockInputs, geometry: Geometry) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tensors = {name: self.get_parameter(attribute) for attribute, name in self.names.items()}
        return block(tensors, state, start.conditioning, geometry)


@dataclass
class _IntervalTask:
    """Trains a block on the teacher's states before and after an interval."""

    module: _Block
    before: list[Tensor]
    after: list[Tensor]
    starts: list[BlockInputs]
    geometry: Geometry
    identity: str
    compiled: bool = False
    shown: str = ""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The block."""
        return {"block": self.module}

    def losses(self, _generator: torch.Generator, number: int, /) -> Iterator[Tensor]:
        """Squared error of the block's output on batch `number`, relative to the targets' variance."""
        number %= len(self.before)
        self.shown = f"the hidden states of batch {number}"
        target = self.after[number].float()
        found = self.module(self.before[number].float(), _in_fp32(self.starts[number]), self.geometry)
        yield (found.float() - target).square().mean() / target.var().clamp_min(1e-12)


def train_intervals(
    intervals: Sequence[Interval],
    teacher: Blocks,
    student: Blocks,
    batches: Sequence[Batch],
    settings: Settings,
    identity: str,
    folder: ConfinedPath,
    reporter: Reporter,
) -> dict[str, Tensor]:
    """Train the block of each interval on `batches`; returns the trained tensors by the student's names."""
    config = config_of(teacher.model)
    geometry, trained = Geometry.of(config), dict[str, Tensor]()
    begins = {interval.first: interval for interval in intervals}
    ends = {interval.last: interval for interval in intervals}
    with torch.no_grad():
        streams = _Streams.of(teacher, config, batches)
    before: list[Tensor] = []
    for index, tensors in teacher.sweep(range(max(ends) + 1)):
        if index in begins:
            before = list(streams.states)
        with torch.no_grad():
            streams.advance(tensors, geometry)
        if not all(torch.isfinite(state).all() for state in streams.states):
            raise InvalidInput(f"the teacher's hidden states after block {index} are NaN or infinite")
        if index in ends:
            interval = ends[index]
            reporter.note(f"block {interval.block} for the teacher's blocks {interval.first} to {interval.last}")
            module = _Block(student.block(interval.block))
            task = _IntervalTask(module, before, streams.states, streams.starts, geometry, f"{identity} {interval}")
            place = folder / f"block-{interval.block:03d}"
            weights = train(task, settings, place, reporter, Callbacks())["block"]
            names = module.names
            trained |= {block_name(interval.block, names[name]): weight for name, weight in weights.items()}
    _merge_metrics([folder / f"block-{interval.block:03d}" for interval in intervals], folder)
    return trained


def _merge_metrics(places: Sequence[ConfinedPath], folder: ConfinedPath) -> None:
    """One line per logged step: the mean over all intervals."""
    runs = [[json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()] for place in places]
    lines = [
        {**together[0], "loss": round(statistics.mean(line["loss"] for line in together), 6)}
        for together in zip(*runs, strict=True)
    ]
    text = b"".join(json_files.canonical(line) + b"\n" for line in lines)
    write_atomically(folder / "metrics.jsonl", text)


def _in_fp32(start: BlockInputs) -> BlockInputs:
    """The same conditioning in fp32, in which blocks are trained."""
    given = start.conditioning
    bias = None if given.bias is None else given.bias.float()
    given = replace(given, modulation=given.modulation.float(), caption=given.caption.float(), bias=bias)
    return replace(start, conditioning=given)
