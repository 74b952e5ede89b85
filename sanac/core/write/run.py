"""Runs an artifact job: shows what it would do, or writes it and records it in the workspace."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sanac.core.artifact.staging import check_replaceable
from sanac.core.artifact.workspace import read_workspace, record
from sanac.core.context import Context, Outcome
from sanac.core.errors import UsageError
from sanac.core.units import bytes_text
from sanac.core.view import Block, path_text
from sanac.core.write.executor import preflight, write_artifact
from sanac.core.write.in_place import add, is_complete
from sanac.core.write.job import ArtifactJob
from sanac.core.write.settings import StageSettings

_MOVES_NO_BLOCK = ("finetune", "reinforce", "quantize", "schedule")
_CHANGES_NO_VALUE = ("convert", "export")
Sizes = Mapping[str, tuple[int, int]]  # bytes of each component's weights, before and after


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """What there is to show of an artifact job."""

    job: ArtifactJob
    sizes: Sizes
    done: str  # one sentence: what was done, or would be
    written: bool = False


def run_job(
    word: str,
    job: ArtifactJob,
    settings: StageSettings,
    context: Context,
    complete: Callable[[ArtifactJob], ArtifactJob] = lambda job: job,
) -> Outcome:
    """Show the plan, or complete the job, write it and record the result in the workspace."""
    head = read_workspace(settings.workspace).head  # an unreadable one is an error before anything is written
    out = settings.out or settings.workspace / f"{job.stage}-{job.key[:8]}"
    _check_place(out, settings.workspace)
    sizes = sizes_of(job)
    data = {**_data(job, sizes), "dry_run": settings.dry_run}
    if job.options.link:
        context.reporter.warn("--link shares files with the source: editing one in place changes both")
    if job.schedule and not job.new_schedule and job.stage not in _CHANGES_NO_VALUE:
        context.reporter.note(
            f"the schedule stays, unmeasured: sanac schedule finds one for the result ({job.schedule})"
        )
    known = preflight(job, out, context.reporter)
    if settings.dry_run:
        status = "cached" if known else "ok"
        needs = f"{bytes_text(job.needs.disk)} of disk and {bytes_text(job.needs.memory)} of memory"
        done = f"{out} already holds this" if known else f"would write {out}, with {needs}"
        return _outcome(status, data, out, ArtifactView(job, sizes, done))
    status = "cached"
    if known is None:
        status, _ = write_artifact(complete(job), out, context.reporter)
    now = record(settings.workspace, word, out).head
    if status == "cached" and head and now != head:
        context.reporter.note(f"HEAD of {settings.workspace} moves back from {head} to {now}")
    done = f"{out} already holds this (cached)" if status == "cached" else f"wrote {out}"
    return _outcome(status, data, out, ArtifactView(job, sizes, done, written=True))


def _outcome(status: str, data: Mapping[str, Any], out: Path, view: ArtifactView) -> Outcome:
    return Outcome(status, data, out, view, partial(show_artifact, view, out))


def show_artifact(view: ArtifactView, out: Path) -> Iterator[Block]:
    """The plan, the sizes, what was done, and how to load the result."""
    job, sizes = view.job, view.sizes
    yield f"{job.model.located.name}: {job.model.architecture.title}"
    if job.stage not in _MOVES_NO_BLOCK:
        yield f"plan: {job.plan}"
    if job.model.patches:
        yield f"LoRA: merged into {len(job.model.patches)} tensors"
    shown = {name: size for name, size in sizes.items() if name in (job.rewrites or {"transformer"})}
    if job.rewrites and len(sizes) > 1:
        shown["all weights"] = (sum(old for old, _ in sizes.values()), sum(new for _, new in sizes.values()))
    for name, (old, new) in shown.items():
        yield f"{name}: {bytes_text(old)} -> {bytes_text(new)} ({new / old:.0%})"
    yield view.done
    if view.written:
        yield _how_to_load(job, out)


def _how_to_load(job: ArtifactJob, out: Path) -> str:
    layout = job.options.layout
    if layout != "diffusers":
        return f"the weights: {out}/model.{'pth' if layout == 'nvlabs' else 'safetensors'}"
    if job.schedule and job.companions:
        return f'load it with sanac.load_pipeline("{out}"): it follows the schedule, which a stock pipeline ignores'
    if job.needs_sanac:
        return f'load it with sanac.{"load_pipeline" if job.companions else "load_transformer"}("{out}")'
    if job.companions:
        return f'load it with {job.model.architecture.pipeline}.from_pretrained("{out}")'
    return f'load it with SanaTransformer2DModel.from_pretrained("{out}", subfolder="transformer")'


def unfinished_plan(first: str, alike: ArtifactJob) -> Outcome:
    """A dry run whose plan depends on something that has to be computed first; `alike` is a job of the same size."""
    sizes = sizes_of(alike)
    blocks = alike.model.architecture.blocks, len(alike.plan.sources)
    data = {
        "dry_run": True,
        "computed_first": first,
        "blocks": list(blocks),
        "sizes": {k: list(v) for k, v in sizes.items()},
    }

    def show() -> Iterator[Block]:
        yield f"{alike.model.located.name}: {alike.model.architecture.title}"
        yield f"plan: {blocks[1]} of {blocks[0]} blocks; which of them depends on {first}, to be computed first"
        old, new = sizes["transformer"]
        yield f"transformer: {bytes_text(old)} -> {bytes_text(new)} ({new / old:.0%})"
        yield f"would need {bytes_text(alike.needs.disk)} of disk"

    return Outcome("ok", data, show=show)


def add_in_place(word: str, job: ArtifactJob, shown: str, settings: StageSettings, context: Context) -> Outcome:
    """Run the job's last step in the model's own folder, and record it as the newest artifact."""
    read_workspace(settings.workspace)
    assert job.post_process
    folder = job.model.located.path
    place = path_text(folder)
    data: dict[str, Any] = {"key": job.key, "added": list(job.post_process.names), "dry_run": settings.dry_run}
    status = "cached" if is_complete(job) and not settings.force else "ok"
    if settings.dry_run:
        done = f"would add {shown} to {place}, with {bytes_text(job.post_process.disk)} of disk"
    else:
        status, _ = add(job, context.reporter)
        record(settings.workspace, word, folder)
        done = f"added {shown} to {place}"
    if status == "cached":
        done = f"{place} already has {shown} (cached)"
    return Outcome(status, data, folder, done, lambda: [done])


def check_out(settings: StageSettings) -> None:
    """Raise for an unusable --out or workspace before hours go into what is to be written there."""
    read_workspace(settings.workspace)
    if settings.out:
        _check_place(settings.out, settings.workspace)
        check_replaceable(settings.out)


def _check_place(out: Path, workspace: Path) -> None:
    """OUT is a folder of its own: not a file's name, and not a folder that contains the workspace."""
    if out.suffix in {".pth", ".safetensors"}:
        hint = f"--out {out.with_suffix('')}"
        raise UsageError(f"--out {out} looks like a file", why="it names the folder of the artifact", hint=hint)
    if Path(os.path.realpath(workspace)).is_relative_to(os.path.realpath(out)):
        raise UsageError(
            f"--out {out} holds the workspace {workspace}",
            why="replacing the artifact would delete the workspace's other artifacts",
            hint=f"--out {workspace / 'model'}",
        )


def sizes_of(job: ArtifactJob) -> dict[str, tuple[int, int]]:
    """Bytes of each component's weights, before and after."""
    before = job.model.weights.size
    found = {"transformer": (before, sum(piece.size for piece in job.tensors) or before)}  # or it is copied unchanged
    for part in job.carried:
        old = part.weights.size if part.weights else 0
        found[part.name] = (old, sum(piece.size for piece in job.rewritten_tensors(part)) or old)
    return found


def _data(job: ArtifactJob, sizes: Sizes) -> dict[str, Any]:
    """The plan, its key and its needs, for --json."""
    data: dict[str, Any] = {"plan": job.plan.to_json(), "key": job.key, "needs": asdict(job.needs)}
    data |= {"family": job.model.architecture.title, "layout": job.options.layout}
    if job.rewrites:
        data["sizes"] = {name: {"before": old, "after": new} for name, (old, new) in sizes.items()}
        counts = {name: part.quantized for name, part in job.rewrites.items()}
        data["quantized"] = {n: {"weights": len(q.weights), "left": len(q.skipped)} for n, q in counts.items()}
    return data
