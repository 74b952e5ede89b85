"""The one executor of plans: a model and a plan in, a sealed artifact out, tensor by tensor, nothing loaded."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core import card, jsonfile
from sanac.core.copying import Range, Written, clone, digest_file, write_ranges
from sanac.core.errors import Misuse
from sanac.core.family import block_name, split_block
from sanac.core.manifest import Ancestor, Manifest, changed_after_sealing
from sanac.core.model import Component, Model, streaming_memory
from sanac.core.plan import Plan
from sanac.core.resources import Needs, announce
from sanac.core.stage import Stage, find_finished, open_stage
from sanac.core.talk import Talk
from sanac.core.weights import Weights
from sanac.core.writer import SHARD_BYTES, Piece, write_weights

ORIGIN = "origin.json"  # where the source lay on the machine that ran the stage; not sealed
SCHEMA = 1  # of what this executor writes: raised when the same plan would give other bytes


@dataclass(frozen=True, slots=True)
class Writing:
    """How an artifact is written, whatever the stage."""

    shard_bytes: int = SHARD_BYTES
    transformer_only: bool = False
    link: bool = False
    force: bool = False
    fresh: bool = False
    full_hash: bool = False


@dataclass(frozen=True, slots=True)
class Surgery:
    """A job that is fully decided: `--dry-run` shows it, `execute` does it."""

    stage: str
    model: Model
    plan: Plan
    settings: Mapping[str, Any]
    writing: Writing
    key: str

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The output's tensors: what stands outside the blocks, then block by block."""
        tensors = self.model.weights.tensors
        manifest = self.model.manifest
        sealed = manifest.tensors.get("transformer", {}) if manifest else {}
        outside = [
            Piece(name, ref, sealed.get(name, "")) for name, ref in sorted(tensors.items()) if split_block(name) is None
        ]
        rests = sorted(found[1] for name in tensors if (found := split_block(name)) and found[0] == 0)
        inside = [
            Piece(block_name(index, rest), tensors[old], sealed.get(old, ""))
            for index, origin in enumerate(self.plan.blocks)
            for rest in rests
            for old in [block_name(origin.block, rest)]
        ]
        return (*outside, *inside)

    @property
    def carried(self) -> tuple[Component, ...]:
        """The components that go along unchanged."""
        return () if self.writing.transformer_only else self.model.others

    @property
    def needs(self) -> Needs:
        """What it takes to execute this."""
        weights = sum(piece.source.size for piece in self.pieces)
        carried = sum(path.stat().st_size for part in self.carried for path in part.files)
        written = weights if self.writing.link else weights + carried
        return Needs(disk=written + (1 << 20), memory=streaming_memory(self.model), traffic=weights + carried)


def decide(stage: str, model: Model, plan: Plan, settings: Mapping[str, Any], writing: Writing) -> Surgery:
    """Everything that is to be done, named by its content key, before anything is."""
    architecture = model.architecture
    if plan.source_blocks != architecture.blocks:
        raise Misuse(
            "the plan is for another model",
            why=f"it expects {plan.source_blocks} blocks, {model.located.name} has {architecture.blocks}",
        )
    settings = {**settings, "shard_bytes": writing.shard_bytes, "transformer_only": writing.transformer_only}
    identity = model.identity(full_hash=writing.full_hash)
    key = jsonfile.key_of([stage, SCHEMA, settings, plan.to_json(), identity])
    return Surgery(stage, model, plan, settings, writing, key)


def execute(job: Surgery, out: Path, talk: Talk) -> tuple[str, Manifest]:
    """Write the artifact to `out`: ('ok', manifest), or ('cached', manifest) when it already stands there."""
    _keep_clear_of_source(out, job.model)
    finished = find_finished(out, job.key, force=job.writing.force)
    if finished is not None:
        return "cached", finished
    announce(job.needs, out.parent, talk)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_stage(out, job.key, fresh=job.writing.fresh) as stage:
        if stage.files:
            talk.note(f"continuing {stage.partial}: {len(stage.files)} files are already there")
        talk.begin("writing", job.needs.traffic)
        for part in job.carried:
            _carry(stage, job, part, talk)
        _place_small_files(stage, job)
        tensors = write_weights(stage, "transformer", job.pieces, shard_bytes=job.writing.shard_bytes, talk=talk)
        talk.end()
        manifest = _manifest(stage, job, tensors)
        stage.place_bytes("README.md", card.render(manifest, job.model.architecture, job.model.kind).encode())
        manifest = _manifest(stage, job, tensors)
        stage.seal(manifest, {ORIGIN: jsonfile.pretty({"source": str(job.model.located.path)})})
    return "ok", manifest


def _keep_clear_of_source(out: Path, model: Model) -> None:
    real, source = out.resolve(), model.located.path
    folder = source if source.is_dir() else source.parent
    if real == source or source.is_relative_to(real) or (source.is_dir() and real.is_relative_to(folder)):
        raise Misuse(
            f"{out} and the input {source} overlap",
            why="the input is never touched",
            hint="choose an --out outside the model's folder",
        )


def _manifest(stage: Stage, job: Surgery, tensors: Mapping[str, str]) -> Manifest:
    model = job.model
    lineage = (
        model.manifest.lineage
        if model.manifest
        else (Ancestor("source", model.identity(full_hash=job.writing.full_hash), model.located.name),)
    )
    left_out = set(model.manifest.left_out if model.manifest else ())
    left_out |= {part.name for part in model.others} - {part.name for part in job.carried}
    return Manifest(
        stage=job.stage,
        key=job.key,
        settings=job.settings,
        lineage=(*lineage, Ancestor(job.stage, job.key, plan=job.plan)),
        builder={"sanac": __version__},
        files={name: Written(file.size, file.blake3) for name, file in stage.files.items()},
        tensors={"transformer": tensors},
        left_out=tuple(sorted(left_out)),
    )


def _place_small_files(stage: Stage, job: Surgery) -> None:
    model = job.model
    config = dict(model.transformer.config) or model.architecture.config()
    config |= dict(job.plan.config)
    stage.place_bytes("transformer/config.json", jsonfile.pretty(_without_paths(config)))
    if model.model_index is not None and not job.writing.transformer_only:
        stage.place_bytes("model_index.json", jsonfile.pretty(_without_paths(model.model_index)))
        for path in model.root_files:
            stage.place_bytes(path.name, path.read_bytes())


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configs remember where they were loaded from; an artifact doesn't."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def _carry(stage: Stage, job: Surgery, part: Component, talk: Talk) -> None:
    """Take a component along unchanged. A variant's files lose the variant in their names: plain loading finds them."""
    variant = part.weights.variant if part.weights else ""
    sealed = job.model.manifest.files if job.model.manifest else {}
    for path in part.files:
        name = f"{part.name}/{_plain_name(path.name, variant)}"
        if part.weights and path == part.weights.index and variant:
            stage.place_bytes(name, _plain_index(part.weights, variant))
            continue
        known = sealed.get(f"{part.name}/{path.name}")

        def write(target: Path, source: Path = path, known: Written | None = known) -> Written:
            return _take(source, target, known, link=job.writing.link, talk=talk)

        stage.place(name, write)


def _take(source: Path, target: Path, known: Written | None, *, link: bool, talk: Talk) -> Written:
    """A hard link if asked for, shared blocks where the file system can, else a copy; its digest either way."""
    real = source.resolve()
    target.unlink(missing_ok=True)
    if link:
        os.link(real, target)
    if link or clone(real, target):
        size = target.stat().st_size
        return known or Written(size, digest_file(target, talk=talk))
    written = write_ranges(target, b"", [Range("", real, 0, real.stat().st_size)], talk=talk)
    if known and known.blake3 != written.blake3:
        raise changed_after_sealing(source, [f"its digest is {written.blake3[:16]}, sealed was {known.blake3[:16]}"])
    return written


def _plain_name(name: str, variant: str) -> str:
    return name.replace(f".{variant}", "", 1) if variant else name


def _plain_index(weights: Weights, variant: str) -> bytes:
    weight_map = {ref.name: _plain_name(ref.path.name, variant) for ref in weights}
    return jsonfile.pretty({"metadata": {"total_size": weights.size}, "weight_map": weight_map})
