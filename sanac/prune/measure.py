"""Scores of a model as its user asks for them: prompts chosen, time estimated, measured once and read afterwards."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sanac.core import jsonfile
from sanac.core.errors import BadInput, Lacking, Misuse
from sanac.core.model import Model
from sanac.core.stage import write_flushed
from sanac.core.talk import Talk
from sanac.core.units import duration_text
from sanac.nn.brought import write_captions
from sanac.nn.device import pick_device
from sanac.nn.surroundings import check_computable, latent_side, scheduler_of
from sanac.nn.trajectory import Sampling
from sanac.prune.analyze import PROGRESS, Analysis, analyze, estimate
from sanac.prune.inputs import Inputs, choose_inputs
from sanac.prune.scores import Scores, read_scores

EULER = "FlowMatchEulerDiscreteScheduler"
LIMIT = 2_000_000_000  # bytes
PATIENCE = 3600.0  # seconds that a job may take without being asked for


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user said about the measurement."""

    prompts: Path | None = None
    num_prompts: int | None = None
    timesteps: int = 20
    guidance: float = 4.5
    reduce: str = "token"
    memory_limit: int | None = None  # LIMIT; what searches and repairs may take half of what is free
    yes: bool = False
    seed: int = 0
    device: str | None = None
    embeddings: Path | None = None
    inputs: str = "sampled"
    data: Path | None = None
    save_embeddings: Path | None = None
    velocity: bool = False
    dry: bool = False  # nothing is computed: what was not measured before is lacking

    def check(self) -> None:
        """What was said contradicts itself: all of it at once."""
        problems = []
        if self.inputs == "noised" and self.data is None:
            problems.append("--inputs noised needs --data DIR, a folder of latents")
        if self.inputs != "noised" and self.data is not None:
            problems.append("--data is for --inputs noised")
        if self.prompts and self.embeddings:
            problems.append("--prompts and --embeddings contradict each other")
        if self.prompts and self.data:
            problems.append("--prompts and --data contradict each other: captions lie beside the latents")
        if self.save_embeddings and (self.embeddings or self.data):
            problems.append("--save-embeddings is for prompts that are encoded here")
        if self.save_embeddings and self.save_embeddings.is_dir():
            problems.append(f"--save-embeddings {self.save_embeddings} is a folder")
        if problems:
            raise Misuse(problems[0], problems=problems)


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores, the folder that they lie in, and whether they were there already."""

    status: str
    scores: Scores
    folder: Path


def measure(
    model: Model, wanted: Wanted, workspace: Path, out: Path | None, talk: Talk, *, cheaper: Sequence[str] = ()
) -> Measured:
    """Scores of a model: read if these very ones were measured before, else measured.

    `cheaper` are ways that the user has where it would take long.
    """
    wanted.check()
    check_computable(model)
    device = pick_device(wanted.device)
    inputs = choose_inputs(
        model, prompts=wanted.prompts, count=wanted.num_prompts, embeddings=wanted.embeddings, data=wanted.data
    )
    sampling = Sampling(wanted.timesteps, wanted.guidance, wanted.seed, latent_side(model))
    scheduler, whole = scheduler_of(model), wanted.reduce == "sample"
    if wanted.data and scheduler.get("_class_name") != EULER and not scheduler.get("use_flow_sigmas"):
        raise Misuse("--inputs noised needs a sampler of flow matching", why="its noise levels mean something else")
    limit = wanted.memory_limit or LIMIT
    job = Analysis(model, inputs.prompts, sampling, scheduler, whole, limit, device, inputs.settings, wanted.velocity)
    folder = out or workspace / f"analyze-{job.key[:8]}"
    done = folder / "scores.json"
    cached = _is_of(done, job.key)
    if cached and not wanted.save_embeddings:
        return Measured("cached", read_scores(done), folder)
    if out and done.exists() and not cached:
        raise Misuse(f"{done} holds other scores", hint="--out another folder, or delete it")
    if not cached:
        what = f"measuring {inputs.count} {'pictures' if inputs.latents else 'prompts'}"
        announce(what, inputs, estimate(job, inputs.encoding), device, talk, yes=wanted.yes, cheaper=cheaper)
    if inputs.latents and not inputs.latents.captioned:
        talk.note(f"{inputs.source} brings no captions: all pictures get the empty one")
    if wanted.dry:
        raise not_without("scores")
    captions = inputs.captions(torch.device(device))
    if wanted.save_embeddings:
        write_captions(captions, wanted.save_embeddings)
        talk.note(f"wrote {wanted.save_embeddings}: {len(captions)} captions")
    if cached:
        return Measured("cached", read_scores(done), folder)
    data = inputs.data()
    job.chunk(captions)  # too small a limit leaves no folder
    folder.mkdir(parents=True, exist_ok=True)
    scores = analyze(job, captions, folder, talk, data)
    fresh = folder / "scores.json.new"
    write_flushed(fresh, jsonfile.pretty(scores.to_json() | {"key": job.key}))
    fresh.replace(done)
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)
    return Measured("ok", scores, folder)


def _is_of(scores: Path, key: str) -> bool:
    """Whether scores of this very job lie there; what can't be read doesn't."""
    try:
        return scores.exists() and jsonfile.read_object(scores).get("key") == key
    except BadInput:
        return False


def announce(
    what: str, inputs: Inputs, seconds: float, device: str, talk: Talk, *, yes: bool, cheaper: Sequence[str] = ()
) -> None:
    """Say how long it will take; what takes long only goes on when told to."""
    talk.note(f"{what} ({inputs.source}): about {duration_text(seconds)} on {device}")
    if seconds > PATIENCE and not yes:
        ways = ["fewer prompts (--num-prompts 10)", "fewer steps (--timesteps 5)", *cheaper]
        if inputs.needs_encoder:
            ways.append("--embeddings FILE (it has no text encoder)")
        raise Lacking(
            f"{what} would take about {duration_text(seconds)} here",
            why="the model is big and there is no GPU" if device == "cpu" else "the model is big",
            hint=f"{', '.join(ways)}, a machine with a GPU, or --yes",
        )


def not_without(what: str) -> Lacking:
    """A dry run doesn't compute for hours."""
    return Lacking(f"the plan hangs on {what}, not done before", hint="run the command without --dry-run")
