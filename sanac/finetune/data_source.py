"""Where training data comes from: the user's images, encoded data, the shapes world, or the teacher's sampling.

Sizes are known before anything is encoded or sampled, so that memory can be planned first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sanac.core.artifact.cached_step import run_step
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import UsageError
from sanac.core.progress import Reporter
from sanac.finetune import image_text_data
from sanac.finetune.defaults import usual_samples
from sanac.finetune.encode_dataset import EncodingJob
from sanac.finetune.encoded_dataset import Prepared, open_prepared
from sanac.finetune.guidance_distillation import guidance_inside
from sanac.finetune.settings import FinetuneSettings
from sanac.finetune.synthetic_data import SyntheticLatents
from sanac.nn.calibration.memory import default_limit
from sanac.nn.calibration.prompts import choose_prompts
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.calibration.text_encoding import LONGEST
from sanac.nn.guidance import SCALE, branches_of, usual_steps
from sanac.nn.pipeline_config import latent_side, vocabulary_of
from sanac.nn.precision import bytes_of, open_blocks
from sanac.nn.streaming import Blocks

SCENES = 2048  # of --data shapes
_TAGS = 8  # tokens of a caption besides its words, with a word-level tokenizer


@dataclass(frozen=True)
class DataSource:
    """Training data that need not exist yet."""

    size: tuple[int, int]  # of the latents
    longest: int  # tokens of the longest caption, at most
    open: Callable[[Reporter], Prepared]  # encodes or samples what isn't there yet
    sampling: SyntheticLatents | None = None  # the job that samples it from a teacher

    @property
    def trajectories(self) -> bool:
        """Whether every step of the sampler is an example."""
        return self.sampling is not None and self.sampling.trajectories


def choose_data(
    model: Model,
    teacher: Model | None,
    settings: FinetuneSettings,
    workspace: ConfinedPath,
    device: str,
    precision: str,
    examples: Callable[[int], int],
) -> DataSource:
    """The data that the settings ask for; `examples` says how many a training takes, from the tokens of each."""
    if settings.data is None:
        if teacher is None:
            raise UsageError(
                "there is no training data",
                why="--data is not set, and there is no teacher to generate data",
                hint="--data DIR, --data shapes or --teacher MODEL",
            )
        return _sampled(model, teacher, settings, workspace, device, precision, examples)
    place, architecture = Path(settings.data), model.architecture
    if settings.data != "shapes" and place.is_dir() and any(place.glob("*.safetensors")):
        found = open_prepared(place, architecture)
        return DataSource(found.latents.size, found.longest, lambda _: found)
    scenes = settings.samples or SCENES
    source = image_text_data.open_source(settings.data, scene_count=scenes, seed=settings.seed)
    side = latent_side(model)
    job = EncodingJob(model, source, side, workspace, torch.device(device))

    def encoded(reporter: Reporter) -> Prepared:
        return open_prepared(run_step(job, reporter, dry=settings.dry_run), architecture)

    return DataSource((side, side), LONGEST, encoded)


def _sampled(
    model: Model,
    teacher: Model,
    settings: FinetuneSettings,
    workspace: ConfinedPath,
    device: str,
    precision: str,
    examples: Callable[[int], int],
) -> DataSource:
    """Data sampled from the teacher: its trajectories, or its latents to add noise to."""
    side = latent_side(teacher)
    steps, scale = settings.teacher_steps or usual_steps(teacher), guidance_inside(settings, model) or SCALE
    sampling = SamplerSettings(steps, scale, seed=settings.seed + 1, side=side)
    trajectories = settings.takes_trajectories
    tokens = (side // model.architecture.patch_size) ** 2
    samples = settings.samples or usual_samples(
        examples(tokens), sampling.steps, branches_of(teacher), trajectories=trajectories
    )
    vocabulary = vocabulary_of(teacher)
    closed = bool(vocabulary) and settings.prompts is None
    prompts, origin = choose_prompts(settings.prompts, samples if closed else None, vocabulary)
    opened = partial(teacher_blocks, teacher, settings, device, precision)
    job = SyntheticLatents(teacher, prompts, samples, sampling, workspace, opened, origin, trajectories, precision)
    longest = longest_caption(prompts, vocabulary)

    def made(reporter: Reporter) -> Prepared:
        return open_prepared(run_step(job, reporter, dry=settings.dry_run), model.architecture)

    return DataSource((side, side), longest, made, job)


def teacher_blocks(teacher: Model, settings: FinetuneSettings, device: str, precision: str) -> Blocks:
    """The teacher's blocks."""
    return open_blocks(teacher, device, precision, resident=stays_in_memory(teacher, settings, device, precision))


def stays_in_memory(teacher: Model, settings: FinetuneSettings, device: str, precision: str) -> bool:
    """Whether the teacher's weights are read once: they fit into half of the memory limit."""
    size = sum(ref.count for ref in teacher.weights) * bytes_of(precision)
    return bool(size < (settings.memory_limit or default_limit(device)) // 2)


def longest_caption(prompts: Sequence[str], vocabulary: Sequence[str]) -> int:
    """Tokens of the longest of some prompts, at most."""
    return max(len(prompt.split()) for prompt in prompts) + _TAGS if vocabulary else LONGEST
