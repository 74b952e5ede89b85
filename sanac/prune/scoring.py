"""Block scores from user settings: chooses the prompts, checks the time budget, measures once and caches the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from sanac.core import json_files
from sanac.core.artifact.cached_step import CachedStep, run_step
from sanac.core.artifact.model import Model
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.nn.calibration.cost import PATIENCE, CostEstimate
from sanac.nn.calibration.inputs import Inputs, choose_inputs
from sanac.nn.calibration.memory import default_limit
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.tensor_files import write_captions
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.device import pick_device
from sanac.nn.guidance import usual_steps
from sanac.nn.pipeline_config import check_computable, latent_side, scheduler_of
from sanac.nn.precision import choose_precision
from sanac.nn.samplers import knows_noise_levels
from sanac.prune.importance_job import PROGRESS, ImportanceJob, analyze, estimate
from sanac.prune.scores import Scores, read_scores

FEWER = ((32, 10), (16, 5))  # prompts and sampler steps, where the defaults would take more than an hour


@dataclass(frozen=True)
class ScoringJob(CachedStep[Scores]):
    """A scoring job with all settings resolved, and the folder of its scores."""

    job: ImportanceJob
    inputs: Inputs
    settings: CalibrationSettings
    folder: ConfinedPath
    cheaper: Sequence[str] = ()  # faster alternatives to suggest if the estimate exceeds the time budget

    reduced_from: str = ""  # the defaults, if fewer prompts and steps were chosen for the sake of time

    @property
    def what(self) -> str:
        """Name of the result in messages."""
        return "the block scores"

    @cached_property
    def seconds(self) -> float:
        """Estimated seconds of the job."""
        return estimate(self.job, self.inputs.encoding)

    @property
    def key(self) -> str:
        """Content key of the scores."""
        return self.job.key

    @property
    def file(self) -> ConfinedPath:
        """Path of the scores file."""
        return self.folder / "scores.json"

    def load(self) -> Scores | None:
        """Cached scores of this job, or None."""
        try:
            if json_files.read_object(self.file).get("key") == self.key:
                return read_scores(Path(self.file))
        except InvalidInput:  # a missing or unreadable file is a cache miss
            pass
        return None

    def refuse_other_scores(self) -> None:
        """Raise UsageError if the output file already exists with other scores."""
        if self.file.exists():
            raise UsageError(
                f"{self.file} holds other scores", hint="choose another folder with --out, or overwrite with --force"
            )

    def forget(self) -> None:
        """Delete the resume state of a stopped run."""
        (self.folder / PROGRESS).rmtree(ignore_errors=True)

    def check_budget(self, reporter: Reporter) -> None:
        """Report the estimated time; above one hour it requires --yes."""
        inputs, steps = self.inputs, self.job.sampling.steps
        what = f"scoring blocks on {inputs.count} {'images' if inputs.latents else 'prompts'} x {steps} steps"
        cost = CostEstimate(what, self.seconds, self.job.memory, self.job.device, inputs, inputs.count, steps)
        if self.reduced_from:
            reporter.note(f"{self.reduced_from} would take over an hour: scores settle long before")
        cost.check_budget(reporter, yes=self.settings.yes, cheaper=self.cheaper)
        if inputs.latents and not inputs.latents.captioned:
            reporter.note(f"{inputs.source} has no captions: all images use the empty caption")

    def captions(self, reporter: Reporter) -> EncodedPrompts:
        """Captions of the inputs, encoded or read from a file; written to --save-embeddings if set."""
        found = self.inputs.captions(torch.device(self.job.device))
        if self.settings.save_embeddings:
            write_captions(found, self.settings.save_embeddings)
            reporter.note(f"wrote {self.settings.save_embeddings}: {len(found)} captions")
        return found

    def compute(self, reporter: Reporter) -> Scores:
        """Measure, continuing a stopped run, and write the scores file atomically."""
        self.job.fitting(1, 0)  # a limit too small for even the shortest caption is rejected before encoding
        captions, data = self.captions(reporter), self.inputs.data()
        self.job.chunk(captions)  # check the limit before creating the folder
        self.folder.mkdir(parents=True, exist_ok=True)
        scores = analyze(self.job, captions, self.folder, reporter, data)
        write_atomically(self.file, json_files.pretty(scores.to_json() | {"key": self.key}))
        (self.folder / PROGRESS).rmtree(ignore_errors=True)
        return scores


def plan_scoring(model: Model, settings: CalibrationSettings, workspace: Path, out: Path | None = None) -> ScoringJob:
    """Choose prompts, sampler and output folder. Encodes and computes nothing yet.

    Where the user left prompts and steps open and the defaults would take more than an hour, fewer are chosen.
    """
    full = _plan(model, settings, workspace, out)
    if not settings.sizes_are_open or settings.yes or full.load() or full.seconds <= PATIENCE:
        return full
    defaults = f"{full.inputs.count} prompts x {full.job.sampling.steps} steps"
    most = full.job.sampling.steps
    sizes = (replace(settings, num_prompts=prompts, timesteps=min(steps, most)) for prompts, steps in FEWER)
    smaller = [replace(_plan(model, size, workspace, out), reduced_from=defaults) for size in sizes]
    known = next((plan for plan in smaller if plan.load()), None)  # what a machine measured once, it keeps
    return known or next((plan for plan in smaller if plan.seconds <= PATIENCE), full)


def _plan(model: Model, settings: CalibrationSettings, workspace: Path, out: Path | None) -> ScoringJob:
    settings.check()
    check_computable(model)
    device = pick_device(settings.device)
    inputs = choose_inputs(
        model, prompts=settings.prompts, count=settings.num_prompts, embeddings=settings.embeddings, data=settings.data
    )
    steps = settings.timesteps or usual_steps(model)
    sampling = SamplerSettings(steps, settings.guidance, settings.seed, latent_side(model))
    scheduler, whole_samples = scheduler_of(model), settings.reduce == "sample"
    if settings.data and not knows_noise_levels(scheduler):
        raise UsageError(
            "--inputs noised requires a flow-matching Euler scheduler",
            why=f"{scheduler.get('_class_name')} defines its noise levels differently",
        )
    limit = settings.memory_limit or default_limit(device)
    precision = choose_precision(settings.precision, device, model)
    how = (sampling, scheduler, whole_samples, limit, device, inputs.settings, settings.velocity, precision)
    job = ImportanceJob(model, inputs.prompts, *how)
    folder = ConfinedPath(out) if out else ConfinedPath(workspace) / f"analyze-{job.key[:8]}"
    return ScoringJob(job, inputs, settings, folder)


def measured(
    model: Model, settings: CalibrationSettings, workspace: Path, reporter: Reporter, cheaper: Sequence[str] = ()
) -> Scores:
    """Scores of a model, from the cache or measured now; a dry run raises where they would have to be measured.

    `cheaper` lists faster alternatives to suggest if the estimate exceeds the time budget.
    """
    job = replace(plan_scoring(model, settings, workspace), cheaper=cheaper)
    return run_step(job, reporter, dry=settings.dry)
