"""Defaults of fine-tuning that follow from the size of a model: samples per batch, pictures that a teacher samples."""

import math

from sanac.finetune.settings import FinetuneSettings

TOKENS = 16_384  # tokens per batch that the default batch size aims at
FEWEST = 60  # pictures that are sampled at least
SHARE = 3 / 8  # forward passes of sampling for each of the targets, with --targets noised
REUSED = 2  # times that a step of a trajectory is trained on, before more pictures are sampled


def batch_size(settings: FinetuneSettings, tokens: int) -> int:
    """Samples per batch: the user's, or as many as keep it at the usual number of tokens."""
    return settings.batch or max(1, min(64, TOKENS // max(1, tokens)))


def usual_samples(examples: int, steps: int, branches: int, *, trajectories: bool) -> int:
    """Pictures that are sampled for a training on `examples` samples.

    Few finished latents are enough, as each gets new noise every time. Sampling many costs the teacher far more than
    the targets do, and recovered no more on sanac:tiny (docs/research/recovery.md).
    """
    needed = examples / (REUSED * steps) if trajectories else SHARE * examples / (branches * steps)
    return max(FEWEST, math.ceil(needed))
