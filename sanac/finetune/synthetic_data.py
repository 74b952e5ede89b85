"""Data-free training: latents that the teacher samples for a list of prompts, with its trajectories or without."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.progress import Reporter
from sanac.finetune.encode_dataset import PART, Folder
from sanac.finetune.trajectories import StepRecord
from sanac.nn.calibration.sampling import SamplerSettings, sample
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode
from sanac.nn.guidance import branches_of, config_of
from sanac.nn.pipeline_config import sampler, scheduler_of
from sanac.nn.precision import result_settings
from sanac.nn.streaming import Blocks

SCHEMA = 1  # raised when the same prompts would give other latents
_TOGETHER = 64  # most pictures per forward pass
_TOKENS = 16_384  # most tokens per forward pass
_IN_FLIGHT = 1 << 30  # bytes of pictures that are sampled together


@dataclass(frozen=True)
class SyntheticLatents(CachedStep[Path]):
    """A job that samples `count` latents from a teacher, cycling through the prompts, each with its own noise."""

    teacher: Model
    prompts: Sequence[str]
    count: int
    sampling: SamplerSettings
    workspace: ConfinedPath
    open_blocks: Callable[[], Blocks]  # the teacher's
    origin: str = "given"  # of the prompts, for messages
    trajectories: bool = False  # whether each step's inputs and outputs are stored, too
    precision: str = "fp32"  # of the forward passes

    @property
    def sweeps(self) -> int:
        """How often the teacher's weights are read if they don't stay in memory."""
        return self.sampling.steps * -(-self.count // self._part)

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return f"data in {self.path}"

    @cached_property
    def key(self) -> str:
        """Content key of the latents; the teacher's identity covers its scheduler and text encoder."""
        settings = [self.sampling.to_json(), list(self.prompts), self.count]
        more = [*(["trajectories"] if self.trajectories else []), *result_settings(self.precision).values()]
        return json_files.key_of(["data-free", SCHEMA, settings, self.teacher.identity(), *more])

    @property
    def forwards(self) -> int:
        """Forward passes of the teacher, of one picture on one branch of guidance."""
        return branches_of(self.teacher) * self.count * self.sampling.steps

    @property
    def path(self) -> ConfinedPath:
        """Folder of the latents in the workspace, in the format of encoded data."""
        return self.workspace / f"painted-{self.key[:8]}"

    def load(self) -> Path | None:
        """The folder, if all latents are sampled."""
        return Path(self.path) if Folder(self.path, self.key).record()["finished"] else None

    def compute(self, reporter: Reporter) -> Path:
        """Sample the latents that an earlier run left."""
        folder, sampling, blocks = Folder(self.path, self.key), self.sampling, self.open_blocks()
        record = folder.record()
        if not record["parts"]:
            name, prompts = self.teacher.located.name, f"{len(self.prompts)} prompts ({self.origin})"
            reporter.note(f"data-free: {self.count} latents by {name}, {prompts}")
        captions: EncodedPrompts | None = None
        reporter.begin("sampling from the teacher", self.count * sampling.steps, "sampler steps")
        reporter.advance(record["seen"] * sampling.steps)
        try:
            with torch.no_grad():
                while record["seen"] < self.count:
                    captions = captions or encode(self.teacher, self.prompts, blocks.device)
                    first = record["seen"]
                    some = min(self._part, self.count - first)
                    encoded = _turn(captions, first, some)
                    taken = StepRecord.empty()
                    sampled = self._sampled(blocks, encoded, first, reporter, taken)
                    record = {**record, "seen": first + some, "parts": record["parts"] + 1}
                    more = taken.tensors() if self.trajectories else {}
                    folder.put(record["parts"] - 1, sampled.float(), encoded, record, more)
        finally:
            reporter.end()
        folder.note({**record, "finished": True})
        return Path(self.path)

    @property
    def _tokens(self) -> int:
        """Tokens of a picture."""
        return (self.sampling.side // self.teacher.architecture.patch_size) ** 2

    @property
    def _part(self) -> int:
        """Pictures per part: their hidden states, and the steps that are kept, are in memory together."""
        architecture, side = self.teacher.architecture, self.sampling.side
        branches = branches_of(self.teacher)
        states = branches * 4 * self._tokens * architecture.width
        kept = 2 * (1 + branches) * self.sampling.steps * side**2 * architecture.in_channels
        return max(8, min(PART, _IN_FLIGHT // (states + (kept if self.trajectories else 0))))

    def _sampled(
        self, blocks: Blocks, captions: EncodedPrompts, first: int, reporter: Reporter, taken: StepRecord
    ) -> Tensor:
        """Latents of these captions after the last step; `first` is the number of the first one."""
        config = config_of(self.teacher)
        recording: dict[str, Any] = {"record": taken} if self.trajectories else {}
        steps = sample(
            blocks,
            sampler(scheduler_of(self.teacher)),
            captions.to(blocks.device, blocks.dtype),
            replace(self.sampling, batch=max(1, min(_TOGETHER, _TOKENS // self._tokens))),
            lambda *_: None,
            config,
            offset=first,
            **recording,
        )
        latents = torch.empty(0)
        for _, latents in steps:
            reporter.advance(len(latents))
        return latents


def _turn(captions: EncodedPrompts, first: int, count: int) -> EncodedPrompts:
    """`count` prompts from number `first` on, cycling through all."""
    numbers = [number % len(captions) for number in range(first, first + count)]
    return replace(captions, embeddings=captions.embeddings[numbers], mask=captions.mask[numbers])
