"""Scores of a model as its user asks for them: prompts chosen, time estimated, measured once and read afterwards."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.atomic import write_atomically
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.nn.calibration.cost import CostEstimate, not_computed_yet
from sanac.nn.calibration.inputs import Inputs, choose_inputs
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.tensor_files import write_captions
from sanac.nn.calibration.text_encoding import EncodedPrompts
from sanac.nn.device import pick_device
from sanac.nn.pipeline_config import check_computable, latent_side, scheduler_of
from sanac.prune.importance_job import PROGRESS, ImportanceJob, analyze, estimate
from sanac.prune.scores import Scores, read_scores

EULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class ScoringJob:
    """A measurement that is fully decided, and the folder that its scores lie in."""

    job: ImportanceJob
    inputs: Inputs
    settings: CalibrationSettings
    folder: Path

    @property
    def file(self) -> Path:
        """The scores."""
        return self.folder / "scores.json"

    def known(self) -> Scores | None:
        """Those of this very job, if they lie there whole."""
        try:
            if json_files.read_object(self.file).get("key") == self.job.key:
                return read_scores(self.file)
        except InvalidInput:  # nothing there, or nothing that can be read: measured anew
            pass
        return None

    def refuse_other_scores(self) -> None:
        """Misuse where other scores lie already."""
        if self.file.exists():
            raise UsageError(
                f"{self.file} holds other scores", hint="--out another folder, or replace them with --force"
            )

    def clear_progress(self) -> None:
        """Begin anew, whatever a stopped run left."""
        shutil.rmtree(self.folder / PROGRESS, ignore_errors=True)

    def check_budget(self, reporter: Reporter, cheaper: Sequence[str] = ()) -> None:
        """Say how long it will take; what takes long only goes on when told to."""
        inputs, steps = self.inputs, self.job.sampling.steps
        what = f"measuring {inputs.count} {'pictures' if inputs.latents else 'prompts'}"
        cost = CostEstimate(what, estimate(self.job, inputs.encoding), self.job.device, inputs, inputs.count, steps)
        cost.check_budget(reporter, yes=self.settings.yes, cheaper=cheaper)
        if inputs.latents and not inputs.latents.captioned:
            reporter.note(f"{inputs.source} brings no captions: all pictures get the empty one")

    def captions(self, reporter: Reporter) -> EncodedPrompts:
        """Encoded or read, and kept if the user wants them."""
        found = self.inputs.captions(torch.device(self.job.device))
        if self.settings.save_embeddings:
            write_captions(found, self.settings.save_embeddings)
            reporter.note(f"wrote {self.settings.save_embeddings}: {len(found)} captions")
        return found

    def run(self, reporter: Reporter) -> Scores:
        """Measure, going on from what a stopped run left; the file appears whole."""
        self.job.fitting(1, 0)  # whatever is too little even for the shortest captions is said before they are encoded
        captions, data = self.captions(reporter), self.inputs.data()
        self.job.chunk(captions)  # too small a limit leaves no folder
        self.folder.mkdir(parents=True, exist_ok=True)
        scores = analyze(self.job, captions, self.folder, reporter, data)
        write_atomically(self.file, json_files.pretty(scores.to_json() | {"key": self.job.key}))
        shutil.rmtree(self.folder / PROGRESS, ignore_errors=True)
        return scores


def plan_scoring(model: Model, settings: CalibrationSettings, workspace: Path, out: Path | None = None) -> ScoringJob:
    """Prompts, sampler and place chosen; nothing encoded or computed yet."""
    settings.check()
    check_computable(model)
    device = pick_device(settings.device)
    inputs = choose_inputs(
        model, prompts=settings.prompts, count=settings.num_prompts, embeddings=settings.embeddings, data=settings.data
    )
    sampling = SamplerSettings(settings.timesteps, settings.guidance, settings.seed, latent_side(model))
    scheduler, whole_samples = scheduler_of(model), settings.reduce == "sample"
    if settings.data and scheduler.get("_class_name") != EULER and not scheduler.get("use_flow_sigmas"):
        raise UsageError("--inputs noised needs a sampler of flow matching", why="its noise levels mean something else")
    how = (sampling, scheduler, whole_samples, settings.limit, device, inputs.settings, settings.velocity)
    job = ImportanceJob(model, inputs.prompts, *how)
    return ScoringJob(job, inputs, settings, out or workspace / f"analyze-{job.key[:8]}")


def measured(
    model: Model, settings: CalibrationSettings, workspace: Path, reporter: Reporter, cheaper: Sequence[str] = ()
) -> Scores:
    """Scores of a model: read if these very ones were measured before, else measured, unless it is a dry run.

    `cheaper` are ways that the user has where it would take long.
    """
    job = plan_scoring(model, settings, workspace)
    scores = job.known()
    if scores is not None:
        return scores
    job.check_budget(reporter, cheaper)
    if settings.dry:
        raise not_computed_yet("scores")
    return job.run(reporter)
