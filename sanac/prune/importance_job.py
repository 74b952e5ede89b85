"""The block scoring job: its settings, memory plan and time estimate, and its resumable run in chunks of prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import split_block
from sanac.core.progress import Reporter
from sanac.nn.calibration.sampling import WORK, SamplerSettings, StepSample, SweepProgress, sample
from sanac.nn.calibration.states import CalibrationStates, SweepBatch
from sanac.nn.calibration.text_encoding import LONGEST, EncodedPrompts
from sanac.nn.guidance import branches_of, config_of
from sanac.nn.pipeline_config import forward_seconds, sampler, scheduler_settings
from sanac.nn.precision import bytes_of, open_blocks, result_settings
from sanac.nn.streaming import Blocks
from sanac.prune.importance import METRICS, WATCHED, ImportanceRecorder
from sanac.prune.leave_one_out import leave_one_out
from sanac.prune.resume import ResumeFile, ResumeState
from sanac.prune.scores import Scores, score

SCHEMA = 1  # raised when the same settings would give other scores
_LATENT = 4  # bytes of one number of latents and caption embeddings
VELOCITY = METRICS.index("velocity")
PROGRESS = ".progress"  # folder of the resume state, next to the unfinished scores


@dataclass(frozen=True)
class ImportanceJob:
    """A block scoring job with all settings resolved."""

    model: Model
    prompts: tuple[str, ...]
    sampling: SamplerSettings
    scheduler: Mapping[str, Any]  # config of the model's scheduler
    whole_samples: bool
    memory_limit: int
    device: str
    inputs: Mapping[str, Any] = field(default_factory=dict)  # overrides for embeddings or images instead of prompts
    velocity: bool = False  # also compute the leave-one-out velocity error
    precision: str = "fp32"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that are measured."""
        return METRICS if self.velocity else WATCHED

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that the scores depend on."""
        prompts = {"prompts": json_files.key_of(list(self.prompts))} if self.prompts else {}
        return {
            "sampling": self.sampling.to_json(),
            "num_prompts": len(self.prompts),
            "inputs": "sampled",
            "reduce": "sample" if self.whole_samples else "token",
            "scheduler": scheduler_settings(self.scheduler),
            **prompts,
            **self.inputs,
            **({"velocity": True} if self.velocity else {}),
            **result_settings(self.precision),
        }

    @property
    def key(self) -> str:
        """Content key: equal for jobs that produce the same scores."""
        return json_files.key_of(["analyze", SCHEMA, self.settings, self.model.identity()])

    @property
    def count(self) -> int:
        """Number of prompts, or of images."""
        return int(self.inputs.get("num_prompts", len(self.prompts)))

    @property
    def branches(self) -> int:
        """Number of guidance branches."""
        return branches_of(self.model)

    @property
    def tokens(self) -> int:
        """Number of tokens per image."""
        height, width = self.inputs.get("size", (self.sampling.side, self.sampling.side))
        return int(height * width) // self.model.architecture.patch_size**2

    @property
    def state_bytes(self) -> int:
        """Bytes of one prompt's hidden states on one guidance branch."""
        return self.tokens * self.model.architecture.width * bytes_of(self.precision)

    @property
    def resident(self) -> bool:
        """Whether the weights are read once and stay in memory: they fit into half of the limit."""
        return self._all_bytes + self._two_blocks < self.memory_limit // 2

    @property
    def batch(self) -> int:
        """Number of prompts per block call; their activations take at most a quarter of the limit."""
        return max(1, min(self.sampling.batch, self.memory_limit // 4 // (WORK * self.state_bytes)))

    @property
    def sweep_batch(self) -> SweepBatch:
        """Number of prompts and of block subsets per sweep of the leave-one-out evaluation."""
        return SweepBatch.of(self.memory_limit // 4, self.branches * self.state_bytes, self.model.architecture.blocks)

    def chunk(self, captions: EncodedPrompts) -> int:
        """Number of prompts per chunk; UsageError if the memory limit is too small for one."""
        embeddings = captions.embeddings
        return self.fitting(embeddings.shape[1], embeddings.numel() * embeddings.element_size())

    def fitting(self, length: int, caption_bytes: int) -> int:
        """Number of prompts per chunk, from the token length of captions and their bytes in total."""
        fixed, each = self.taken(length, caption_bytes)
        fitting = (self.memory_limit - fixed) // each
        if fitting < 1:
            enough = self
            while (needed := sum(enough.taken(length, caption_bytes))) > enough.memory_limit:
                enough = replace(enough, memory_limit=needed)  # a higher limit can also mean larger batches
            raise UsageError(
                f"--memory-limit {self.memory_limit:,} is too small",
                why="two blocks and the states of one prompt don't fit",
                hint=f"--memory-limit {enough.memory_limit // 1_000_000 + 1}MB",
            )
        return int(min(fitting, self.count))

    @property
    def memory(self) -> int:
        """Peak bytes of the job, with captions of the largest length."""
        fixed, each = self.longest
        return fixed + each * max(1, min(self.count, (self.memory_limit - fixed) // each))

    @property
    def longest(self) -> tuple[int, int]:
        """`taken` for captions of the largest length."""
        return self.taken(LONGEST, self.count * LONGEST * self.model.architecture.caption_channels * _LATENT)

    def taken(self, length: int, caption_bytes: int) -> tuple[int, int]:
        """(fixed bytes, bytes per prompt), from the token length of captions and their bytes in total."""
        architecture = self.model.architecture
        caption = length * architecture.width * bytes_of(self.precision)
        latents = self.tokens * architecture.patch_size**2 * architecture.in_channels * _LATENT
        trajectory = (self.sampling.steps + 4) * latents  # velocities, noise, guidance
        each = self.branches * self.state_bytes + caption + trajectory
        caption_bytes += self.count * latents if "size" in self.inputs else 0  # latents of all images
        work = self.batch * (WORK * self.state_bytes + 3 * caption)
        weights = self._all_bytes if self.resident else self._outside_bytes
        if self.velocity:
            work = max(work, self.sweep_batch.taken(self.branches * self.state_bytes))
        return self._two_blocks + weights + caption_bytes + work, each

    @property
    def _two_blocks(self) -> int:
        """Bytes of the block in use and the block read ahead, plus one tensor during its dtype conversion."""
        refs = [ref for ref in self.model.weights if (inside := split_block(ref.name)) and inside[0] == 0]
        return 2 * sum(ref.count for ref in refs) * bytes_of(self.precision) + max(ref.size for ref in refs)

    @property
    def _all_bytes(self) -> int:
        return sum(ref.count for ref in self.model.weights) * bytes_of(self.precision)

    @property
    def _outside_bytes(self) -> int:
        counts = [ref.count for ref in self.model.weights if split_block(ref.name) is None]
        return sum(counts) * bytes_of(self.precision)


def analyze(
    job: ImportanceJob, captions: EncodedPrompts, folder: ConfinedPath, reporter: Reporter, data: Tensor | None = None
) -> Scores:
    """Score all blocks on sampled trajectories, or on noised `data` (latents of images).

    `folder` holds the resume state of a stopped run.
    """
    blocks, chunk = job.model.architecture.blocks, job.chunk(captions)
    weights = open_blocks(job.model, job.device, job.precision, resident=job.resident)
    run = _Run(job, weights, folder, reporter)
    values = []
    reporter.begin("analyzing", job.sampling.steps * blocks * -(-len(captions) // chunk), "block passes")
    try:
        with torch.no_grad():
            for first in range(0, len(captions), chunk):
                part = slice(first, first + chunk)
                some = None if data is None else data[part]
                values.append(run.chunk(captions.part(part.start, part.stop), some, first))
    finally:
        reporter.end()
    whole = ImportanceRecorder(job.sampling.steps, blocks, len(captions), branches=job.branches)
    whole.values = torch.cat(values, dim=-1)
    return _scores(job, whole)


@dataclass(frozen=True, slots=True)
class _Run:
    """State shared by all chunks of prompts."""

    job: ImportanceJob
    weights: Blocks
    folder: ConfinedPath
    reporter: Reporter

    def chunk(self, captions: EncodedPrompts, data: Tensor | None, first: int) -> Tensor:
        """Metrics of one chunk of prompts over all steps; saves the resume state between blocks from time to time."""
        job, depth = self.job, len(self.weights)
        sampling = replace(job.sampling, batch=job.batch)
        recorder = ImportanceRecorder(sampling.steps, depth, len(captions), job.whole_samples, first, job.branches)
        resume_file = ResumeFile(self.folder / PROGRESS / f"prompts-{first}.safetensors", job.key)
        state = resume_file.load(recorder.values.shape) or ResumeState(recorder.values, ())
        recorder.values, known, progress = state.values, list(state.velocities), state.progress
        if state.finished:
            self.reporter.advance(sampling.steps * depth)
            return recorder.values
        self.reporter.advance(len(known) * depth + (progress.block if progress else 0))
        velocities = list(known)

        def on_progress(progress: SweepProgress) -> None:
            self.reporter.advance(1)
            if resume_file.due:
                resume_file.save(ResumeState(recorder.values, tuple(velocities), progress))

        steps = sample(
            self.weights,
            sampler(job.scheduler),
            captions,
            sampling,
            recorder,
            self.config,
            offset=first,
            known_velocities=known,
            resume_from=progress,
            on_progress=on_progress,
            data=data,
        )
        for step, (moment, _) in enumerate(steps):
            if job.velocity and recorder.values[VELOCITY, step].isnan().any():
                recorder.values[VELOCITY, step] = self._left_out(captions, moment)[:, None]
            if step >= len(known):
                velocities.append(moment.velocity)
                self.reporter.advance(1)
                if resume_file.due:
                    resume_file.save(ResumeState(recorder.values, tuple(velocities)))
        resume_file.save(ResumeState(recorder.values, (), finished=True))
        return recorder.values

    @property
    def config(self) -> Mapping[str, Any]:
        """Config of the transformer."""
        return config_of(self.job.model)

    def _left_out(self, captions: EncodedPrompts, moment: StepSample) -> Tensor:
        """Relative velocity error without each block: (blocks, prompts)."""
        encoded = captions.to(self.weights.device, self.weights.dtype)
        outside, guidance = self.weights.outside(), self.job.sampling.guidance
        states = CalibrationStates(self.weights, outside, self.config, encoded, guidance, (moment,), self.job.batch)
        return leave_one_out(states, self.job.sweep_batch)


def _scores(job: ImportanceJob, recorder: ImportanceRecorder) -> Scores:
    metrics = {}
    for name in job.metrics:
        _check(name, recorder.values[METRICS.index(name)])
        by_prompt, by_step = recorder.by_prompt(name).tolist(), recorder.by_step(name).tolist()
        metrics[name] = tuple(score(prompts, steps) for prompts, steps in zip(by_prompt, by_step, strict=True))
    return Scores(metrics, job.model.identity(), job.model.content(), job.model.located.name, job.settings)


def _check(metric: str, values: Tensor) -> None:
    """Raise InvalidInput if a metric's values (steps, blocks, branches, prompts) are not all finite."""
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        step, block = bad[0][:2].tolist()
        what = f"leaving out block {block}" if metric == METRICS[VELOCITY] else f"block {block}"
        raise InvalidInput(f"{what} gives NaN or infinity at step {step}", why=f"{metric} can't be computed from that")


def estimate(job: ImportanceJob, encoding: float = 0.0) -> float:
    """Estimated seconds of a job, from a short trial on this machine; assumes captions of maximum length."""
    forwards = 1 + (job.model.architecture.blocks - 1) / 2 if job.velocity else 1
    tokens = job.tokens * job.branches * job.count * job.sampling.steps * forwards
    fixed, each = job.longest
    chunk = max(1, min(job.count, (job.memory_limit - fixed) // each))
    sweeps = 1 + (job.sweep_batch.sweeps(chunk, job.model.architecture.blocks) if job.velocity else 0)
    readings = 1 if job.resident else job.sampling.steps * -(-job.count // chunk) * sweeps
    return forward_seconds(job.model, tokens, job.device, job.precision, more=encoding, readings=readings)
