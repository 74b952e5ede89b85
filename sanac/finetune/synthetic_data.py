"""Data-free: what the teacher itself paints for a list of prompts is what is learned from."""

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
    """`count` latents by a teacher, prompts in turn, each with noise of its own."""

    teacher: Model
    prompts: Sequence[str]
    count: int
    sampling: SamplerSettings

    @property
    def key(self) -> str:
        """Equal where the same is painted; the teacher's identity covers its sampler and its text encoder."""
        settings = [self.sampling.to_json(), list(self.prompts), self.count]
        return json_files.key_of(["data-free", SCHEMA, settings, self.teacher.identity()])


def sample_latents(job: SyntheticLatents, blocks: Blocks, path: Path, reporter: Reporter) -> Path:
    """Paint into a folder like prepared data, going on behind what lies there."""
    model, count, sampling, prompts = job.teacher, job.count, job.sampling, job.prompts
    folder = Folder(path, job.key)
    record = folder.record()
    if record["finished"]:
        return path
    scheduler = scheduler_of(model)
    config = model.transformer.config or model.architecture.config()
    captions: EncodedPrompts | None = None
    reporter.begin("painting with the teacher", count * sampling.steps, "latents")
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
    """Prompts in turn, from number `first` on."""
    numbers = [number % len(captions) for number in range(first, first + count)]
    return replace(captions, embeddings=captions.embeddings[numbers], mask=captions.mask[numbers])
