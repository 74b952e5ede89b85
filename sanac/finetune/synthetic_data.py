"""Data-free training: latents that the teacher samples for a list of prompts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.progress import Reporter
from sanac.finetune.encode_dataset import PART, Folder
from sanac.nn.calibration.sampling import SamplerSettings, sample
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode
from sanac.nn.pipeline_config import sampler, scheduler_of
from sanac.nn.streaming import Blocks

SCHEMA = 1  # raised when the same prompts would give other latents


@dataclass(frozen=True)
class SyntheticLatents:
    """A job that samples `count` latents from a teacher, cycling through the prompts, each with its own noise."""

    teacher: Model
    prompts: Sequence[str]
    count: int
    sampling: SamplerSettings

    @property
    def key(self) -> str:
        """Content key of the latents; the teacher's identity covers its scheduler and text encoder."""
        settings = [self.sampling.to_json(), list(self.prompts), self.count]
        return json_files.key_of(["data-free", SCHEMA, settings, self.teacher.identity()])


def sample_latents(job: SyntheticLatents, blocks: Blocks, path: Path, reporter: Reporter) -> Path:
    """Sample latents into a folder in the format of encoded data, continuing a stopped run."""
    model, count, sampling, prompts = job.teacher, job.count, job.sampling, job.prompts
    folder = Folder(path, job.key)
    record = folder.record()
    if record["finished"]:
        return path
    scheduler = scheduler_of(model)
    config = model.transformer.config or model.architecture.config()
    captions: EncodedPrompts | None = None
    reporter.begin("sampling from the teacher", count * sampling.steps, "latents")
    reporter.advance(record["seen"] * sampling.steps)
    try:
        with torch.no_grad():
            while record["seen"] < count:
                captions = captions or encode(model, prompts, blocks.device)
                first = record["seen"]
                some = min(PART, count - first)
                encoded = _turn(captions, first, some)
                steps = sample(
                    blocks,
                    sampler(scheduler),
                    encoded.to(blocks.device, blocks.dtype),
                    replace(sampling, batch=64),
                    lambda *_: None,
                    config,
                    offset=first,
                )
                sampled = []
                for _, latents in steps:
                    sampled = [latents]
                    reporter.advance(some)
                record = {**record, "seen": first + some, "parts": record["parts"] + 1}
                folder.put(record["parts"] - 1, sampled[0].float(), encoded, record)
    finally:
        reporter.end()
    folder.note({**record, "finished": True})
    return path


def _turn(captions: EncodedPrompts, first: int, count: int) -> EncodedPrompts:
    """`count` prompts from number `first` on, cycling through all."""
    numbers = [number % len(captions) for number in range(first, first + count)]
    return replace(captions, embeddings=captions.embeddings[numbers], mask=captions.mask[numbers])
