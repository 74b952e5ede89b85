"""From a model and prompts to scores: the job decided, estimated, run chunk by chunk, and continued after a stop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sanac.core import jsonfile
from sanac.core.errors import Misuse
from sanac.core.family import split_block
from sanac.core.header import DTYPE_BITS
from sanac.core.model import Model
from sanac.core.talk import Talk
from sanac.nn.captions import Captions
from sanac.nn.trajectory import Sampling, sample
from sanac.nn.weights import Blocks
from sanac.prune.importance import METRICS, Watcher
from sanac.prune.scores import Scores, score

SCHEMA = 1  # raised when the same settings would give other scores
_FP32 = 4


@dataclass(frozen=True)
class Analysis:
    """A job that is fully decided."""

    model: Model
    prompts: tuple[str, ...]
    sampling: Sampling
    scheduler: Mapping[str, Any]  # config of the model's sampler
    whole_samples: bool
    memory_limit: int
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {
            "sampling": {name: value for name, value in asdict(self.sampling).items() if name != "batch"},
            "prompts": jsonfile.key_of(list(self.prompts)),
            "num_prompts": len(self.prompts),
            "reduce": "sample" if self.whole_samples else "token",
            "scheduler": {key: value for key, value in sorted(self.scheduler.items()) if not key.startswith("_")},
        }

    @property
    def key(self) -> str:
        """Equal for jobs that give the same scores."""
        return jsonfile.key_of(["analyze", SCHEMA, self.settings, self.model.identity()])

    def chunk(self, captions: Captions) -> int:
        """How many prompts fit into the memory limit beside two blocks; Misuse if not even one does."""
        architecture = self.model.architecture
        biggest = _block_bytes(self.model)
        state = self.sampling.side**2 * architecture.width * _FP32
        _, length, width = captions.embeddings.shape
        caption = length * (architecture.width + width) * _FP32
        work = 12 * state * self.sampling.batch  # what one block computes with on its way
        room = self.memory_limit - 2 * biggest - _outside_bytes(self.model) - work
        fitting = room // (2 * (state + caption))
        if fitting < 1:
            least = 2 * biggest + _outside_bytes(self.model) + work + 2 * (state + caption)
            raise Misuse(
                f"--memory-limit {self.memory_limit:,} is too small",
                why="two blocks and the state of one prompt don't fit",
                hint=f"--memory-limit {least // 1_000_000 + 1}MB",
            )
        return int(min(fitting, len(self.prompts)))


def analyze(job: Analysis, captions: Captions, folder: Path, talk: Talk) -> Scores:
    """Sample trajectories of all prompts and watch the stream; `folder` holds what was finished before a stop."""
    device = torch.device(job.device)
    steps, blocks = job.sampling.steps, job.model.architecture.blocks
    chunk = job.chunk(captions)
    resident = (blocks + 2) * _block_bytes(job.model) + _outside_bytes(job.model) < job.memory_limit // 2
    weights = Blocks(job.model, device, torch.float32, resident=resident)
    values = []
    talk.begin("analyzing", steps * -(-len(captions) // chunk), "sampler steps")
    try:
        with torch.no_grad():
            for first in range(0, len(captions), chunk):
                part = captions.part(first, first + chunk)
                values.append(_chunk(job, weights, part, first, folder, talk))
    finally:
        talk.end()
    whole = Watcher(steps, blocks, len(captions))
    whole.values = torch.cat(values, dim=-1)
    return _scores(job, whole)


def _chunk(job: Analysis, weights: Blocks, captions: Captions, first: int, folder: Path, talk: Talk) -> Tensor:
    """One chunk of prompts through the whole trajectory; after each step what was seen is saved."""
    watcher = Watcher(job.sampling.steps, len(weights), len(captions), job.whole_samples, first)
    path = folder / f"prompts-{first}.safetensors"
    known = _resume(path, job.key, watcher)
    talk.advance(len(known))
    config = job.model.transformer.config or job.model.architecture.config()
    scheduler = _scheduler(job.scheduler)
    saved = time.monotonic()
    velocities = list(known)
    steps = sample(weights, scheduler, captions, job.sampling, watcher, config, offset=first, known=known)
    for step, (guided, _) in enumerate(steps):
        if step < len(known):
            continue
        velocities.append(guided)
        if time.monotonic() - saved > 2 or step + 1 == job.sampling.steps:
            _save(path, job.key, watcher, velocities)
            saved = time.monotonic()
        talk.advance(1)
    return watcher.values


def _resume(path: Path, key: str, watcher: Watcher) -> list[Tensor]:
    """Velocities of finished steps, and what was seen in them; nothing if there is nothing that can be used."""
    if not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return []
            watcher.values = file.get_tensor("values")
            return list(file.get_tensor("velocities"))
    except (SafetensorError, OSError):
        return []


def _save(path: Path, key: str, watcher: Watcher, velocities: Sequence[Tensor]) -> None:
    partial = path.with_suffix(".partial")
    save_file(
        {"values": watcher.values, "velocities": torch.stack(list(velocities)).cpu().contiguous()},
        partial,
        {"key": key},
    )
    partial.replace(path)


def _scores(job: Analysis, watcher: Watcher) -> Scores:
    metrics = {}
    for name in METRICS:
        by_prompt, by_step = watcher.by_prompt(name).tolist(), watcher.by_step(name).tolist()
        metrics[name] = tuple(score(prompts, steps) for prompts, steps in zip(by_prompt, by_step, strict=True))
    return Scores(metrics, job.model.identity(), job.model.located.name, job.settings)


def _scheduler(config: Mapping[str, Any]) -> Any:
    """The model's own sampler, by its config; only those that diffusers brings along."""
    import diffusers

    name = str(config.get("_class_name", ""))
    if name not in {"DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"}:
        raise Misuse(f"the sampler {name!r} is not supported here", hint="use a model with DPMSolverMultistepScheduler")
    return getattr(diffusers, name).from_config(dict(config))


def estimate(job: Analysis) -> float:
    """Seconds, from a short trial of the machine: each parameter of a block is used once per token."""
    tokens = job.sampling.side**2 * 2 * len(job.prompts) * job.sampling.steps
    parameters = sum(ref.count for ref in job.model.weights if split_block(ref.name))
    return 2.0 * parameters * tokens / _speed(torch.device(job.device))


def _speed(device: torch.device) -> float:
    """Operations a second that a matrix product reaches, the best of a few; a forward reaches about half of it."""
    one, other = torch.randn(1024, 1024, device=device), torch.randn(1024, 1024, device=device)
    best = float("inf")
    for _ in range(4):
        since = time.perf_counter()
        float((one @ other)[0, 0])
        best = min(best, time.perf_counter() - since)
    return 0.5 * 2 * 1024**3 / best


def _block_bytes(model: Model) -> int:
    """One block as it is computed with, and as it is read."""
    refs = [ref for ref in model.weights if (inside := split_block(ref.name)) and inside[0] == 0]
    return sum(ref.count * _FP32 + ref.count * DTYPE_BITS[ref.dtype] // 8 for ref in refs)


def _outside_bytes(model: Model) -> int:
    return sum(ref.count * _FP32 for ref in model.weights if split_block(ref.name) is None)
