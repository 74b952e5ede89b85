"""The one executor of plans: a model and a plan in, a sealed artifact out, tensor by tensor, nothing loaded."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sanac import __version__
from sanac.core import card, jsonfile, nvlabs
from sanac.core.copying import Range, Written, clone, digest_file, write_parts
from sanac.core.engines import ENGINE, check_file
from sanac.core.errors import BadInput, Misuse, SanacError
from sanac.core.family import Architecture, Start, block_name, dtype_counts, split_block, start_of
from sanac.core.fresh import fresh
from sanac.core.header import TensorRef
from sanac.core.lora import Addition, Patch, merge
from sanac.core.manifest import Ancestor, Manifest, changed_after_sealing
from sanac.core.model import SIDE_FILE, Component, Model, streaming_memory
from sanac.core.plan import Keep, New, Plan
from sanac.core.pth_writer import write_pth
from sanac.core.quantized import PACKED, TORCHAO
from sanac.core.repacked import Repacked
from sanac.core.resources import Needs, announce
from sanac.core.stage import ORIGIN, Stage, find_finished, held_bytes, open_stage, partial_name, replaced_name
from sanac.core.talk import Talk
from sanac.core.weights import plain_index, plain_name
from sanac.core.writer import (
    SHARD_BYTES,
    Piece,
    fused,
    kept,
    made,
    write_safetensors,
    write_weights,
)

SCHEMA = 2  # of what this executor writes: raised when the same plan would give other bytes


@dataclass(frozen=True, slots=True)
class Writing:
    """How an artifact is written, whatever the stage."""

    shard_bytes: int = SHARD_BYTES
    transformer_only: bool = False
    link: bool = False
    force: bool = False
    fresh: bool = False
    full_hash: bool = False
    layout: str = "diffusers"  # or nvlabs (.pth), single (.safetensors with NVlabs' names)


@dataclass(frozen=True, slots=True)
class Finish:
    """What is made of the files that were written, before they are sealed."""

    make: Callable[[Stage, Talk], None]
    disk: int  # bytes that it writes, about
    memory: int  # that it takes, about
    names: Mapping[str, str]  # of the files that it makes, and the key of each


@dataclass(frozen=True, slots=True)
class Surgery:
    """A job that is fully decided: `--dry-run` shows it, `execute` does it."""

    stage: str
    model: Model
    plan: Plan
    settings: Mapping[str, Any]
    writing: Writing
    key: str
    identity: str  # of the model
    witness: tuple[str, ...]  # of all inputs as they were when this was decided
    pipeline: Model | None = None  # the reference that completes a transformer to a pipeline
    additions: Mapping[str, Addition] = field(default_factory=dict)  # to the model's own tensors, when written
    replaced: Mapping[str, TensorRef] = field(default_factory=dict)  # instead of the model's own tensors
    filled_digest: str = ""  # of the file that holds what is added or put in their place
    repacked: Mapping[str, Repacked] = field(default_factory=dict)  # components that are written quantized
    how: str = ""  # for people, where the plan doesn't say it: '100 steps of distill'
    finish: Finish | None = None

    @property
    def architecture(self) -> Architecture:
        """The output's."""
        return self.model.architecture.changed(len(self.plan.blocks), dict(self.plan.config))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The output's tensors: what stands outside the blocks, then block by block; NVlabs' layouts have their own."""
        if "transformer" in self.repacked:
            return self.repacked["transformer"].pieces
        if self.model.weights.quantized:  # it goes along like other components
            return ()
        if self.writing.layout == "diffusers":
            return tuple(self._piece(name) for name in _in_order(self.architecture))
        names = nvlabs.sources(self.architecture)
        return (
            *(fused(name, [self._piece(old) for old in olds]) for name, olds in names.items()),
            *(kept(name, ref) for name, ref in sorted(self.model.extras.items())),
            *self.filled,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The output's config.json: the model's own; else the reference pipeline's, as far as shapes leave it open."""
        model, reference = self.model, self.pipeline
        found = dict(model.transformer.config)
        if not found and reference and reference.architecture.cross_width == model.architecture.cross_width:
            found = {**reference.transformer.config, **model.architecture.shape_config()}
        elif not found:
            found = model.architecture.config() | nvlabs.image_size(model.extras)
        return _without_paths(found | dict(self.plan.config))

    @property
    def filled(self) -> tuple[Piece, ...]:
        """What NVlabs' layout wants and nobody has: zeros. Its code makes the position embedding that it uses."""
        if self.writing.layout == "diffusers":
            return ()
        side = self.config.get("sample_size")
        wanted = nvlabs.own_tensors(self.model.architecture, side * side if type(side) is int else 1024)
        dtype = self.model.weights.tensors["proj_out.weight"].dtype
        return tuple(
            fresh(name, dtype, shape, Start()) for name, shape in wanted.items() if name not in self.model.extras
        )

    def _piece(self, name: str) -> Piece:
        """The output's tensor of this name: the source's, moved by the plan, or a new one."""
        inside = split_block(name)
        if inside is None:
            return self._kept(name, name)
        index, rest = inside
        origin = self.plan.blocks[index]
        old = block_name(origin.block, rest) if isinstance(origin, Keep) else ""
        if old in self.model.weights.tensors:
            return self._kept(name, old)
        identity = (origin.rule, origin.seed, origin.number, rest) if isinstance(origin, New) else ()
        return fresh(name, self._dtype(rest), self.architecture.block_tensors()[rest], start_of(rest), identity)

    def _dtype(self, rest: str) -> str:
        """A new tensor is stored as its namesake in the first block is; one that is new to all, as most are there."""
        tensors = self.model.weights.tensors
        namesake = tensors.get(block_name(0, rest))
        first = [tensors[block_name(0, name)] for name in self.model.architecture.block_tensors()]
        return namesake.dtype if namesake else next(iter(dtype_counts(first)))

    def _kept(self, name: str, old: str) -> Piece:
        """The source's tensor `old` under its new name, with LoRAs and additions merged."""
        if old in self.replaced:
            return kept(name, self.replaced[old])
        source = self.model.weights.tensors[old]
        patches: tuple[Patch | Addition, ...] = self.model.patches.get(old, ())
        if old in self.additions:
            patches = (*patches, self.additions[old])
        if patches:
            merged = functools.partial(merge, source, patches)
            return made(name, source.dtype, source.shape, source.size, merged)
        manifest = self.model.manifest
        return kept(name, source, manifest.tensors.get("transformer", {}).get(old, "") if manifest else "")

    @property
    def companions(self) -> Model | None:
        """The pipeline whose other components go along, if any do."""
        if self.writing.transformer_only or self.writing.layout != "diffusers":
            return None
        return self.pipeline or (self.model if self.model.model_index else None)

    @property
    def needs_sanac(self) -> bool:
        """Whether some of its weights are packed as stock diffusers can't read them."""
        return PACKED in self.layouts

    @property
    def layouts(self) -> set[str]:
        """Of what is quantized in the output."""
        carried = [part.weights.quantized for part in self.carried if part.weights and part.name not in self.repacked]
        found = [*(part.quantized for part in self.repacked.values()), *carried]
        return {quantized.layout for quantized in found if quantized}

    @property
    def carried(self) -> tuple[Component, ...]:
        """The components that go along: unchanged, or repacked."""
        others = self.companions.others if self.companions else ()
        packed = self.model.weights.quantized and "transformer" not in self.repacked
        return (*others, self.model.transformer) if packed else others

    def unchanged(self, part: Component) -> tuple[Path, ...]:
        """The files of a component that go along as they are."""
        if part.name not in self.repacked:
            return part.files
        weights = part.weights.files if part.weights else ()
        return tuple(path for path in part.files if path not in weights and path.name != "config.json")

    def repacked_pieces(self, part: Component) -> tuple[Piece, ...]:
        """The tensors of a component that is quantized."""
        return self.repacked[part.name].pieces if part.name in self.repacked else ()

    @property
    def needs(self) -> Needs:
        """What it takes to execute this."""
        weights = sum(piece.size for piece in self.pieces)
        carried = sum(path.stat().st_size for part in self.carried for path in self.unchanged(part))
        carried += sum(piece.size for part in self.carried for piece in self.repacked_pieces(part))
        written = weights if self.writing.link else weights + carried
        merged = max(
            (4 * self.model.weights.tensors[name].count for name in (*self.model.patches, *self.additions)), default=0
        )
        memory = streaming_memory(self.model) + 5 * merged  # base, change, sum, result and the one before, in fp32
        memory += max((part.memory for part in self.repacked.values()), default=0)
        if self.finish:
            written, memory = written + self.finish.disk, max(memory, self.finish.memory)
        return Needs(disk=written + (1 << 20), memory=memory, traffic=weights + carried)


def _in_order(architecture: Architecture) -> list[str]:
    """Names in the order they are written: by the alphabet outside the blocks, then block by block."""
    outside = sorted(name for name in architecture.tensors() if split_block(name) is None)
    rests = sorted(architecture.block_tensors())
    return [*outside, *(block_name(index, rest) for index in range(architecture.blocks) for rest in rests)]


def refuse_quantized(model: Model, stage: str) -> None:
    """What changes weights comes before they are quantized; said before anything is computed."""
    if model.weights.quantized:
        raise Misuse(
            f"{model.located.name} is quantized",
            why="what changes its weights comes before that",
            hint=f"{stage} the model that it was made from, then quantize again",
        )


def decide(
    stage: str,
    model: Model,
    plan: Plan,
    settings: Mapping[str, Any],
    writing: Writing,
    pipeline: Model | None = None,
) -> Surgery:
    """Everything that is to be done, named by its content key, before anything is."""
    architecture = model.architecture
    if stage not in {"quantize", "export"}:
        refuse_quantized(model, stage)
    if plan.source_blocks != architecture.blocks:
        raise Misuse(
            "the plan is for another model",
            why=f"it expects {plan.source_blocks} blocks, {model.located.name} has {architecture.blocks}",
        )
    settings = {
        **settings,
        "shard_bytes": writing.shard_bytes,
        "transformer_only": writing.transformer_only,
        "layout": writing.layout,
        **({"loras": list(model.patch_identity)} if model.patch_identity else {}),
        **({"completed_from": pipeline.located.name} if pipeline else {}),
    }
    identities = [found.identity(full_hash=writing.full_hash) for found in (model, pipeline) if found]
    key = jsonfile.key_of([stage, SCHEMA, settings, plan.to_json(), identities])
    witness = _witness(model, pipeline)
    job = Surgery(stage, model, plan, settings, writing, key, identities[0], witness, pipeline)
    assert job.config, "a config that can't be told is found out before anything is written"
    return job


def _absolute(out: Path) -> Path:
    absolute = Path(os.path.abspath(out))  # noqa: PTH100 (links stay links: they are refused, not followed)
    if not absolute.name:
        raise Misuse(f"{out} can't be an artifact", why="it is the root of the file system")
    return absolute


def _witness(model: Model, pipeline: Model | None) -> tuple[str, ...]:
    return tuple(found.identity() for found in (model, pipeline) if found)


def foresee(job: Surgery, out: Path, talk: Talk) -> Manifest | None:
    """All that can be said before the first byte: the artifact if it stands already; raises what would stop the run."""
    out = _absolute(out)
    for model in filter(None, (job.model, job.pipeline)):
        _keep_clear_of(out, model)
    finished = find_finished(out, job.key, force=job.writing.force)
    if finished is None:
        announce(replace(job.needs, disk=max(0, job.needs.disk - held_bytes(out))), out.parent, talk)
    return finished


def execute(job: Surgery, out: Path, talk: Talk) -> tuple[str, Manifest]:
    """Write the artifact to `out`: ('ok', manifest), or ('cached', manifest) when it already stands there."""
    finished = foresee(job, out, talk)
    return ("cached", finished) if finished else carry_out(job, out, talk)


def carry_out(job: Surgery, out: Path, talk: Talk) -> tuple[str, Manifest]:
    """The same, for what was foreseen."""
    out = _absolute(out)
    how = (["linked"] if job.writing.link else []) + ([job.filled_digest] if job.filled_digest else [])
    journal_key = jsonfile.key_of([job.key, *how]) if how else job.key
    with open_stage(out, journal_key, fresh=job.writing.fresh) as stage:
        try:  # once more: a run that held the lock until now may have finished
            finished = find_finished(out, job.key, force=job.writing.force)
        except SanacError:
            stage.discard()
            raise
        if finished is not None:
            stage.discard()
            return "cached", finished
        if stage.files:
            talk.note(f"continuing {stage.partial}: {len(stage.files)} files are already there")
        tensors = _write(stage, job, talk)
        if job.finish:
            job.finish.make(stage, talk)
        engines = {name: check_file(stage.partial / name) for name in sorted(stage.files) if name.endswith(ENGINE)}
        about = (_lineage(job), _left_out(job), job.model.architecture, engines)
        whole, own = job.companions is not None, job.needs_sanac
        text = card.render(*about, whole=whole, own=own, torchao=TORCHAO in job.layouts)
        stage.place_bytes("README.md", text.encode(errors="backslashreplace"))
        if _witness(job.model, job.pipeline) != job.witness:
            raise BadInput(f"{job.model.located.path} was changed while it was read", hint="run the same command again")
        manifest = _manifest(stage, job, tensors)
        origin = str(job.model.located.path).encode(errors="backslashreplace").decode()
        stage.seal(manifest, {ORIGIN: jsonfile.pretty({"source": origin})})
    for name, file in sorted(manifest.files.items()):
        talk.detail(f"{file.blake3[:16]}  {file.size:>14,}  {name}")
    return "ok", manifest


def _write(stage: Stage, job: Surgery, talk: Talk) -> dict[str, str]:
    """Everything but card and manifest; returns the digests of the transformer's tensors."""
    talk.begin("writing", job.needs.traffic)
    try:
        for part in job.carried:
            _carry(stage, job, part, talk)
        return _place_transformer(stage, job, talk)
    finally:
        talk.end()


def _keep_clear_of(out: Path, model: Model) -> None:
    """Neither OUT nor the names it needs on the way may be, hold or lie in an input."""
    source = Path(os.path.realpath(model.located.path))
    for name in (out, partial_name(out), replaced_name(out)):
        real = Path(os.path.realpath(name))
        if source.is_relative_to(real) or (source.is_dir() and real.is_relative_to(source)):
            raise Misuse(
                f"{name} and the input {source} overlap",
                why="the input is never touched",
                hint="choose an --out outside the model's folder",
            )


def _lineage(job: Surgery) -> tuple[Ancestor, ...]:
    manifest = job.model.manifest
    before = manifest.lineage if manifest else (Ancestor("source", job.identity, job.model.located.name),)
    return (*before, Ancestor(job.stage, job.key, job.how, job.plan))


def _left_out(job: Surgery) -> tuple[str, ...]:
    """Components that belong to the model and don't go along."""
    names = set(job.model.manifest.left_out if job.model.manifest else ())
    names |= {part.name for part in job.model.others}
    return tuple(sorted(names - {part.name for part in job.carried}))


def _manifest(stage: Stage, job: Surgery, tensors: Mapping[str, str]) -> Manifest:
    return Manifest(
        stage=job.stage,
        key=job.key,
        settings=job.settings,
        lineage=_lineage(job),
        builder={"sanac": __version__},
        files={name: Written(file.size, file.blake3) for name, file in stage.files.items()},
        tensors={"transformer": tensors},
        left_out=_left_out(job),
    )


def _place_transformer(stage: Stage, job: Surgery, talk: Talk) -> dict[str, str]:
    """The weights in the layout asked for, and the small files that belong to it; returns the tensors' digests."""
    model, pieces = job.model, job.pieces
    config = jsonfile.pretty(job.config)
    repacked = job.repacked.get("transformer")
    if job.writing.layout == "nvlabs":
        stage.place_bytes("config.json", config)
        return write_pth(stage, "model.pth", pieces, talk=talk)
    if job.writing.layout == "single":
        stage.place_bytes("config.json", config)
        return write_safetensors(stage, "model.safetensors", pieces, talk=talk)
    if repacked is None and pieces:
        stage.place_bytes("transformer/config.json", config)
    if model.extras:
        write_safetensors(stage, SIDE_FILE, [kept(name, ref) for name, ref in sorted(model.extras.items())], talk=talk)
    if job.companions and job.companions.model_index:
        stage.place_bytes("model_index.json", jsonfile.pretty(_without_paths(job.companions.model_index)))
        for path in job.companions.root_files:
            _carry_file(stage, job, path, path.name, talk)
    if repacked is not None:
        return repacked.place(stage, "transformer", job.writing.shard_bytes, talk)
    if not pieces:  # carried
        return dict(model.manifest.tensors.get("transformer", {})) if model.manifest else {}
    return write_weights(stage, "transformer", pieces, shard_bytes=job.writing.shard_bytes, talk=talk)


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configs remember where they were loaded from; an artifact doesn't."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def _carry(stage: Stage, job: Surgery, part: Component, talk: Talk) -> None:
    """Take a component along unchanged. A variant's files lose the variant in their names: plain loading finds them."""
    variant = part.weights.variant if part.weights else ""
    if part.name in job.repacked:
        job.repacked[part.name].place(stage, part.name, job.writing.shard_bytes, talk)
    for path in job.unchanged(part):
        name = f"{part.name}/{plain_name(path.name, variant)}"
        if part.weights and path == part.weights.index and variant:
            stage.place_bytes(name, plain_index(part.weights, variant))
        else:
            _carry_file(stage, job, path, name, talk)


def _carry_file(stage: Stage, job: Surgery, source: Path, name: str, talk: Talk) -> None:
    owner = job.companions
    sealed = owner.manifest.files if owner and owner.manifest else {}
    known = sealed.get(source.relative_to(owner.located.path).as_posix()) if owner else None
    stage.place(name, lambda target: _take(source, target, known, link=job.writing.link, talk=talk))


def _take(source: Path, target: Path, known: Written | None, *, link: bool, talk: Talk) -> Written:
    """A hard link if asked for, shared blocks where the file system can, else a copy; its digest either way."""
    real = source.resolve()
    target.unlink(missing_ok=True)
    if link:
        os.link(real, target)
    if link or clone(real, target):
        written = Written(target.stat().st_size, digest_file(target, talk=talk))
    else:
        written = write_parts(target, [Range("", real, 0, real.stat().st_size)], talk=talk)
    if known and known.blake3 != written.blake3:
        raise changed_after_sealing(source, [f"its digest is {written.blake3[:16]}, sealed was {known.blake3[:16]}"])
    return written
