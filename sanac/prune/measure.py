"""Scores of a model as its user asks for them: prompts chosen, time estimated, measured once and read afterwards."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sanac.core import jsonfile
from sanac.core.errors import Lacking
from sanac.core.model import Model
from sanac.core.stage import write_flushed
from sanac.core.talk import Talk
from sanac.core.units import duration_text
from sanac.nn.captions import encode
from sanac.nn.device import pick_device
from sanac.nn.trajectory import Sampling
from sanac.prune.analyze import Analysis, analyze, estimate
from sanac.prune.calibration import choose_prompts
from sanac.prune.scores import Scores, read_scores
from sanac.prune.surroundings import latent_side, scheduler_of, vocabulary_of

PATIENCE = 3600.0  # seconds that a job may take without being asked for


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user said about the measurement."""

    prompts: Path | None = None
    num_prompts: int | None = None
    timesteps: int = 20
    guidance: float = 4.5
    reduce: str = "token"
    memory_limit: int = 2_000_000_000
    yes: bool = False
    seed: int = 0
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores, the folder that they lie in, and whether they were there already."""

    status: str
    scores: Scores
    folder: Path


def measure(model: Model, wanted: Wanted, workspace: Path, out: Path | None, talk: Talk) -> Measured:
    """Scores of a model: read if these very ones were measured before, else measured."""
    prompts, source = choose_prompts(wanted.prompts, wanted.num_prompts, vocabulary_of(model))
    sampling = Sampling(wanted.timesteps, wanted.guidance, wanted.seed, latent_side(model))
    device = pick_device(wanted.device)
    whole = wanted.reduce == "sample"
    job = Analysis(model, tuple(prompts), sampling, scheduler_of(model), whole, wanted.memory_limit, device)
    folder = out or workspace / f"analyze-{job.key[:8]}"
    done = folder / "scores.json"
    if done.exists() and jsonfile.read_object(done).get("key") == job.key:
        return Measured("cached", read_scores(done), folder)
    seconds = estimate(job)
    talk.note(f"measuring {len(prompts)} prompts ({source}): about {duration_text(seconds)} on {device}")
    if seconds > PATIENCE and not wanted.yes:
        raise Lacking(
            f"this would take about {duration_text(seconds)} here",
            why="the model is big and there is no GPU" if device == "cpu" else "the model is big",
            hint="fewer prompts (--num-prompts 10), fewer steps (--timesteps 5), --scores FILE, or --yes",
        )
    folder.mkdir(parents=True, exist_ok=True)
    scores = analyze(job, encode(model, prompts, torch.device(device)), folder, talk)
    fresh = folder / "scores.json.new"
    write_flushed(fresh, jsonfile.pretty(scores.to_json() | {"key": job.key}))
    fresh.replace(done)
    for path in folder.glob("prompts-*.safetensors"):
        path.unlink()
    return Measured("ok", scores, folder)
