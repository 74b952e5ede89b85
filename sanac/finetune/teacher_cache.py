"""The teacher cache: computes the teacher's outputs for each batch once, in sweeps over its weights, on disk.

Training then never loads the teacher. Velocities and hidden states are stored in bf16, one file each, batch after
batch; a stopped run continues after the last complete batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.core.progress import Reporter
from sanac.finetune.batches import Batch
from sanac.nn.blocks.block import Geometry, block
from sanac.nn.blocks.embed_head import BlockInputs, embed_inputs, head
from sanac.nn.guidance import ClassifierFree, guidance_of
from sanac.nn.streaming import Blocks

VELOCITY = "velocity"


def stream_name(index: int) -> str:
    """File stem of the hidden states after block `index`."""
    return f"stream-{index:03d}"


@dataclass(frozen=True)
class TeacherCache:
    """Cached teacher outputs on disk: tensors by name and batch."""

    folder: ConfinedPath
    key: str
    count: int  # batches
    shapes: Mapping[str, tuple[int, ...]]  # tensor name -> shape for one batch

    def __len__(self) -> int:
        """Number of batches."""
        return self.count

    @property
    def identity(self) -> str:
        """Identity of the cached outputs."""
        return f"{self.key} {self.count}"

    def velocity(self, number: int) -> Tensor:
        """The teacher's velocity for a batch, fp32."""
        return self._read(VELOCITY, number)

    def stream(self, number: int, index: int) -> Tensor:
        """The teacher's hidden states after block `index` for a batch: (B, N, C), fp32."""
        return self._read(stream_name(index), number)

    def _read(self, name: str, number: int) -> Tensor:
        assert number < self.count
        return self.file(name)[number].view(torch.bfloat16).float()

    def file(self, name: str) -> "BatchFile":
        """The file of one tensor."""
        return BatchFile(self.folder / f"{name}.bin", self.shapes[name])


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file of equally shaped batches, two bytes per element."""

    path: ConfinedPath
    shape: tuple[int, ...]

    def __getitem__(self, number: int) -> Tensor:
        size = int(np.prod(self.shape))
        raw = np.fromfile(self.path, np.int16, size, offset=2 * size * number)
        if len(raw) != size:
            raise InvalidInput(f"{self.path} is truncated", hint=f"delete {self.path.parent} and run again")
        return torch.from_numpy(raw).view(self.shape)

    def put(self, number: int, values: Tensor) -> None:
        """Write batch `number` in bf16."""
        assert values.shape == self.shape
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(2 * values.numel() * number)
            file.write(values.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().tobytes())
            file.flush()


@dataclass(frozen=True)
class TeacherPass(CachedStep[TeacherCache]):
    """A job that fills the cache: the teacher, its batches, and the blocks whose outputs are recorded."""

    blocks: Blocks
    config: Mapping[str, Any]
    draw: Callable[[int], Batch]
    feature_blocks: tuple[int, ...]
    memory: int  # most bytes for hidden states of batches in flight
    folder: ConfinedPath
    cache_key: str
    count: int  # batches
    guide: ClassifierFree | None = None  # guides the velocity by a second branch; None: the batch's own branch
    unprompted: Callable[[Batch], Batch] = lambda batch: batch  # the batch of that second branch

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the teacher's outputs"

    @property
    def key(self) -> str:
        """Content key of the outputs; the number of batches is not part of it."""
        return self.cache_key

    def load(self) -> TeacherCache | None:
        """The cache, if it has all batches."""
        return self._cache(self.draw(0)) if _done(self.folder, self.key) >= self.count else None

    def compute(self, reporter: Reporter) -> TeacherCache:
        """Compute the missing batches, several per sweep over the teacher."""
        first, done = self.draw(0), _done(self.folder, self.key)
        found = self._cache(first)
        self.folder.mkdir(parents=True, exist_ok=True)
        branches = 2 if self.guide else 1
        together = max(1, self.memory // (branches * 4 * 3 * int(np.prod(self._stream(first)))))
        reporter.begin("running the teacher", self.count, "batches")
        reporter.advance(done)
        try:
            while done < self.count:
                numbers = range(done, min(self.count, done + together))
                self._teach(found, numbers)
                done = numbers.stop
                write_atomically(self.folder / "done.json", json_files.pretty({"key": self.key, "done": done}))
                reporter.advance(len(numbers))
        finally:
            reporter.end()
        return found

    def _cache(self, first: Batch) -> TeacherCache:
        shapes = {VELOCITY: (len(first.picked), *first.states.shape[1:])}
        shapes |= {stream_name(index): self._stream(first) for index in self.feature_blocks}
        return TeacherCache(self.folder, self.key, self.count, shapes)

    def _stream(self, batch: Batch) -> tuple[int, int, int]:
        """Shape of a block's output: samples, tokens, width."""
        architecture = self.blocks.model.architecture
        height, width = batch.states.shape[2:]
        return len(batch.picked), int(height * width) // architecture.patch_size**2, architecture.width

    def _teach(self, cache: TeacherCache, numbers: Sequence[int]) -> None:
        """Run the teacher on several batches in one sweep and store its outputs."""
        outside, geometry = self.blocks.outside(), Geometry.of(self.config)
        with torch.no_grad():
            batches = list(map(self.draw, numbers))
            count = len(batches)
            if self.guide:
                batches += [self.unprompted(batch) for batch in batches]
            starts = [embed_batch(self.blocks, self.config, outside, batch) for batch in batches]
            states = [start.state for start in starts]
            for index, tensors in self.blocks.sweep(range(len(self.blocks))):
                for place, start in enumerate(starts):
                    states[place] = block(tensors, states[place], start.conditioning, geometry)
                    if index in self.feature_blocks:
                        _put(cache, stream_name(index), numbers[place], states[place])
            found = [head(outside, state, start) for state, start in zip(states, starts, strict=True)]
            if self.guide:
                found = [self.guide.combined(pair) for pair in zip(found[count:], found[:count], strict=True)]
            for number, velocity in zip(numbers, found, strict=True):
                _put(cache, VELOCITY, number, velocity)


def embed_batch(blocks: Blocks, config: Mapping[str, Any], outside: Mapping[str, Tensor], batch: Batch) -> BlockInputs:
    """The inputs of the teacher's first block for a batch."""
    device, dtype, guidance = blocks.device, blocks.dtype, guidance_of(config)
    return embed_inputs(
        config,
        outside,
        batch.states.to(device, dtype),
        batch.samples.embeddings.to(device, dtype),
        (batch.levels * guidance.timesteps).to(device),
        batch.samples.mask.to(device),
        guidance.embedded(len(batch.picked), device),
    )


def _put(cache: TeacherCache, name: str, number: int, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise InvalidInput(
            f"the teacher's {name} is NaN or infinite",
            why=f"on batch {number} of the training data",
            hint="sanac inspect TEACHER --scan",
        )
    cache.file(name).put(number, values)


def _done(folder: ConfinedPath, key: str) -> int:
    """Number of complete batches in a cache folder with this key."""
    path = folder / "done.json"
    if not path.is_file():
        return 0
    try:
        found = json_files.read_object(path)
    except InvalidInput:
        return 0
    done = found.get("done")
    return done if found.get("key") == key and type(done) is int else 0
