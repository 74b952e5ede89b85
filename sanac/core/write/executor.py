"""The executor: writes an ArtifactJob as a sealed artifact, streaming tensor by tensor without loading the model."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sanac import __version__
from sanac.core import json_files
from sanac.core.artifact import model_card
from sanac.core.artifact.engine_record import ENGINE, check_file
from sanac.core.artifact.manifest import Manifest, changed_after_sealing
from sanac.core.artifact.model import SIDE_FILE, Component, Model
from sanac.core.artifact.schedule import SCHEDULE
from sanac.core.artifact.staging import (
    ORIGIN,
    StagingArea,
    find_finished,
    held_bytes,
    open_stage,
    partial_name,
    replaced_name,
)
from sanac.core.checkpoint.quant_json import TORCHAO
from sanac.core.checkpoint.weights import plain_index, plain_name
from sanac.core.errors import InvalidInput, SanacError, UsageError
from sanac.core.file_copy import FileRecord, Range, clone, digest_file, write_parts
from sanac.core.progress import Reporter
from sanac.core.resources import check_room
from sanac.core.write.job import ArtifactJob, _absolute, _left_out, _lineage, _without_paths, _witness, size_text
from sanac.core.write.pth_writer import write_pth
from sanac.core.write.safetensors_writer import copied_tensor, write_safetensors, write_weights


def preflight(job: ArtifactJob, out: Path, reporter: Reporter) -> Manifest | None:
    """Check everything before the first byte is written: the manifest if `out` is already complete, None if not."""
    out = _absolute(out)
    for model in filter(None, (job.model, job.pipeline)):
        _keep_clear_of(out, model)
    finished = find_finished(out, job.key, force=job.options.force)
    if finished is None:
        check_room(replace(job.needs, disk=max(0, job.needs.disk - held_bytes(out))), out.parent, reporter)
    return finished


def write_partial(job: ArtifactJob, out: Path, reporter: Reporter) -> tuple[str, Manifest]:
    """Check, then write the artifact to `out`: ('ok', manifest), or ('cached', manifest) if it is already there."""
    finished = preflight(job, out, reporter)
    return ("cached", finished) if finished else write_artifact(job, out, reporter)


def write_artifact(job: ArtifactJob, out: Path, reporter: Reporter) -> tuple[str, Manifest]:
    """Write the artifact to `out` after `preflight`; ('cached', manifest) if another run finished it meanwhile."""
    out = _absolute(out)
    variant_of_bytes = (["linked"] if job.options.link else []) + (
        [job.overrides_digest] if job.overrides_digest else []
    )
    journal_key = json_files.key_of([job.key, *variant_of_bytes]) if variant_of_bytes else job.key
    with open_stage(out, journal_key, fresh=job.options.fresh, reporter=reporter) as staging:
        try:  # checked again: a run that held the lock until now may have finished it
            finished = find_finished(out, job.key, force=job.options.force)
        except SanacError:
            staging.discard()
            raise
        if finished is not None:
            staging.discard()
            return "cached", finished
        if staging.files:
            reporter.note(f"resuming {staging.partial}: {len(staging.files)} files are already written")
        tensors = _write(staging, job, reporter)
        if job.schedule:
            staging.place_bytes(SCHEDULE, json_files.pretty(job.schedule.to_json()))
        if job.post_process:
            job.post_process.make(staging, reporter)
        engines = {name: check_file(staging.existing(name)) for name in sorted(staging.files) if name.endswith(ENGINE)}
        about = (_lineage(job), _left_out(job), job.model.architecture, engines, size_text(job))
        whole, own = job.companions is not None, job.needs_sanac
        text = model_card.render(*about, whole=whole, own=own, torchao=TORCHAO in job.layouts, schedule=job.schedule)
        staging.place_bytes("README.md", text.encode(errors="backslashreplace"))
        if _witness(job.model, job.pipeline) != job.input_stamps:
            raise InvalidInput(
                f"{job.model.located.path} was changed while it was read", hint="run the same command again"
            )
        manifest = _manifest(staging, job, tensors)
        origin = str(job.model.located.path).encode(errors="backslashreplace").decode()
        staging.seal(manifest, {ORIGIN: json_files.pretty({"source": origin})})
    for name, file in sorted(manifest.files.items()):
        reporter.detail(f"{file.blake3[:16]}  {file.size:>14,}  {name}")
    return "ok", manifest


def _write(staging: StagingArea, job: ArtifactJob, reporter: Reporter) -> dict[str, str]:
    """Write all components; returns the digests of the transformer's tensors."""
    reporter.begin("writing", job.needs.traffic)
    try:
        for part in job.carried:
            _carry(staging, job, part, reporter)
        return _place_transformer(staging, job, reporter)
    finally:
        reporter.end()


def _keep_clear_of(out: Path, model: Model) -> None:
    """UsageError if OUT, OUT.partial or OUT.replaced is the input, contains it or is inside it."""
    source = Path(os.path.realpath(model.located.path))
    for name in (out, partial_name(out), replaced_name(out)):
        real = Path(os.path.realpath(name))
        if source.is_relative_to(real) or (source.is_dir() and real.is_relative_to(source)):
            raise UsageError(
                f"{name} and the input {source} overlap",
                why="sanac never writes into an input model",
                hint="choose an --out outside the model's folder",
            )


def _manifest(staging: StagingArea, job: ArtifactJob, tensors: Mapping[str, str]) -> Manifest:
    return Manifest(
        stage=job.stage,
        key=job.key,
        settings=job.settings,
        lineage=_lineage(job),
        builder={"sanac": __version__},
        files={name: FileRecord(file.size, file.blake3) for name, file in staging.files.items()},
        tensors={"transformer": tensors},
        left_out=_left_out(job),
    )


def _place_transformer(staging: StagingArea, job: ArtifactJob, reporter: Reporter) -> dict[str, str]:
    """Write the transformer in the job's layout, with the small files of that layout; returns tensor digests."""
    model, tensors = job.model, job.tensors
    config = json_files.pretty(job.config)
    rewrite = job.rewrites.get("transformer")
    if job.options.layout == "nvlabs":
        staging.place_bytes("config.json", config)
        return write_pth(staging, "model.pth", tensors, reporter=reporter)
    if job.options.layout == "single":
        staging.place_bytes("config.json", config)
        return write_safetensors(staging, "model.safetensors", tensors, reporter=reporter)
    if rewrite is None and tensors:
        staging.place_bytes("transformer/config.json", config)
    if model.extras:
        write_safetensors(
            staging,
            SIDE_FILE,
            [copied_tensor(name, ref) for name, ref in sorted(model.extras.items())],
            reporter=reporter,
        )
    if job.companions and job.companions.model_index:
        staging.place_bytes("model_index.json", json_files.pretty(_without_paths(job.companions.model_index)))
        for path in job.companions.root_files:
            _carry_file(staging, job, path, path.name, reporter)
    if rewrite is not None:
        return rewrite.place(staging, "transformer", job.options.shard_bytes, reporter)
    if not tensors:  # it is among the carried components
        return dict(model.manifest.tensors.get("transformer", {})) if model.manifest else {}
    return write_weights(staging, "transformer", tensors, shard_bytes=job.options.shard_bytes, reporter=reporter)


def _carry(staging: StagingArea, job: ArtifactJob, part: Component, reporter: Reporter) -> None:
    """Copy a component's unchanged files, dropping the variant suffix from names so that default loading finds them."""
    variant = part.weights.variant if part.weights else ""
    if part.name in job.rewrites:
        job.rewrites[part.name].place(staging, part.name, job.options.shard_bytes, reporter)
    for path in job.unchanged(part):
        name = f"{part.name}/{plain_name(path.name, variant)}"
        if part.weights and path == part.weights.index and variant:
            staging.place_bytes(name, plain_index(part.weights, variant))
        else:
            _carry_file(staging, job, path, name, reporter)


def _carry_file(staging: StagingArea, job: ArtifactJob, source: Path, name: str, reporter: Reporter) -> None:
    owner = job.companions
    sealed = owner.manifest.files if owner and owner.manifest else {}
    known = sealed.get(source.relative_to(owner.located.path).as_posix()) if owner else None
    staging.place(name, lambda target: _take(source, target, known, link=job.options.link, reporter=reporter))


def _take(source: Path, target: Path, known: FileRecord | None, *, link: bool, reporter: Reporter) -> FileRecord:
    """Hard-link `source` to `target` if `link`, else clone (copy on write), else copy it; returns size and digest."""
    real = source.resolve()
    target.unlink(missing_ok=True)
    if link:
        os.link(real, target)
    if link or clone(real, target):
        written = FileRecord(target.stat().st_size, digest_file(target, reporter=reporter))
    else:
        written = write_parts(target, [Range("", real, 0, real.stat().st_size)], reporter=reporter)
    if known and known.blake3 != written.blake3:
        raise changed_after_sealing(
            source, [f"its digest is {written.blake3[:16]}, the sealed one is {known.blake3[:16]}"]
        )
    return written
