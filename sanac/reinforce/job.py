"""`sanac reinforce`: a model taught by its own judge, written as an artifact, or as a token generator's folder."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.artifact.token_model import TRANSFORMER, TokenModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.errors import UsageError
from sanac.core.file_copy import digest_file
from sanac.core.safetensors_header import read_header
from sanac.core.view import Block, path_text
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.core.write.run import run_job
from sanac.finetune.student import save_weights
from sanac.nn.save_tensors import save_tensors
from sanac.nn.streaming import DTYPES
from sanac.reinforce.rounds import Rounds
from sanac.reinforce.samples_job import requests_for
from sanac.reinforce.settings import ReinforceSettings
from sanac.search.generators import check_generates
from sanac.train.loop import Callbacks

ABOUT = "reinforce.json"


def run(word: str | None, settings: ReinforceSettings, context: Context) -> Outcome:
    """Sample, judge and train for some rounds, and write the result."""
    opened: Any = context.open_any(word) if word else context.open_newest(None, settings.workspace, "reinforce")[1]
    word = word or str(opened.located.path)
    check_generates(opened)
    if settings.loss == "nft" and isinstance(opened, TokenModel):
        raise UsageError(
            f"--loss nft can't be used with {opened.located.name}",
            why="it compares squared distances, and a token generator has none",
            hint="--loss rft, dpo or dgpo",
        )
    requests = requests_for(settings, opened)
    rounds = Rounds(opened, settings, requests, ConfinedPath(settings.workspace), context.reporter)
    for line in rounds.describe():
        context.reporter.note(line)
    if isinstance(opened, Model):
        return _artifact(word, rounds, context)
    return _token_folder(rounds, context)


def _artifact(word: str, rounds: Rounds, context: Context) -> Outcome:
    """A SANA model, as an artifact."""
    model, settings = rounds.model, rounds.settings
    assert isinstance(model, Model)
    blocks = model.architecture.blocks
    plan = keep_blocks(blocks, list(range(blocks)))
    options = WriteOptions(force=settings.force, fresh=settings.fresh)
    job = plan_artifact("reinforce", model, plan, rounds.how, options)
    description = f"{settings.rounds} round{'s' * (settings.rounds > 1)} of {settings.loss}"
    job = replace(job, description=description)

    def complete(planned: ArtifactJob) -> ArtifactJob:
        folder = _state(rounds, planned.key)
        file = folder / "trained.safetensors"
        if not file.is_file():
            save_weights(rounds.trained(folder, Callbacks()), model, file)
        refs = read_header(Path(file)).tensors
        return replace(planned, replaced=refs, overrides_digest=digest_file(Path(file)))

    outcome = run_job(word, job, settings, context, complete)
    return replace(outcome, data={**outcome.data, "loss": settings.loss, "rounds": settings.rounds})


def _state(rounds: Rounds, key: str) -> ConfinedPath:
    """The folder of samples, checkpoints and finished rounds."""
    folder = rounds.workspace / f"reinforcing-{key[:8]}"
    if rounds.settings.fresh:
        folder.rmtree(ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _token_folder(rounds: Rounds, context: Context) -> Outcome:
    """A token generator, as a folder of the same layout."""
    model, settings = rounds.model, rounds.settings
    assert isinstance(model, TokenModel)
    key = json_files.key_of(["reinforce", model.identity(), rounds.how])
    out = settings.out or settings.workspace / f"reinforce-{key[:8]}"
    data: dict[str, Any] = {"key": key, "loss": settings.loss, "rounds": settings.rounds, "dry_run": settings.dry_run}
    known = _known(out, key, force=settings.force)
    if settings.dry_run or known:
        done = f"{out} already holds this (cached)" if known else f"would write {out}"
        return Outcome("cached" if known else "ok", data, out, show=lambda: [done])
    weights = rounds.trained(_state(rounds, key), Callbacks())
    partial_out = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    for part in model.components:
        (partial_out / part.name).mkdir(parents=True)
        for file in part.files:
            if part is not model.transformer or file.name == "config.json":
                shutil.copyfile(file, partial_out / part.name / file.name)
    stored = model.transformer.weights
    assert stored is not None
    tensors = {name: weights[name].to(DTYPES[ref.dtype]) for name, ref in stored.tensors.items() if name in weights}
    save_tensors(tensors, partial_out / TRANSFORMER / "model.safetensors", {"format": "pt"})
    about = {"key": key, "from": model.located.name, "loss": settings.loss, "rounds": settings.rounds}
    (partial_out / ABOUT).write_bytes(json_files.pretty(about))
    _ = open_any_model(locate(str(partial_out))).identity()
    shutil.rmtree(out, ignore_errors=True)
    partial_out.rename(out)
    context.reporter.detail(f"trained from {model.located.name}")
    return Outcome("ok", data, out, show=partial(_show, out))


def _known(out: Path, key: str, *, force: bool) -> bool:
    """Whether OUT holds this very result; UsageError if it holds anything else."""
    if not out.exists():
        return False
    about = json_files.read_object(out / ABOUT) if (out / ABOUT).is_file() else {}
    if about.get("key") == key:
        return True
    if not force or not about:
        raise UsageError(f"{out} holds something else", hint="another --out" + (", or --force" if about else ""))
    return False


def _show(out: Path) -> Iterator[Block]:
    yield f"wrote {path_text(out)}"
    yield f'sanac generate {out} "PROMPT"'
