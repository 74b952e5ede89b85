"""A write, fully decided: which tensors, from where, under which name and key."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.manifest import Ancestor
from sanac.core.artifact.model import Component, Model, streaming_memory
from sanac.core.artifact.plan import BlockPlan, Keep, New
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.lora import Addition, Patch, merge
from sanac.core.checkpoint.quant_json import PACKED
from sanac.core.errors import UsageError
from sanac.core.family import nvlabs
from sanac.core.family.architecture import Architecture, TensorInit, block_name, dtype_counts, init_of, split_block
from sanac.core.progress import Reporter
from sanac.core.resources import Needs
from sanac.core.safetensors_header import TensorRef
from sanac.core.write.component_rewrite import ComponentRewrite
from sanac.core.write.new_tensors import new_tensor
from sanac.core.write.safetensors_writer import SHARD_BYTES, TensorSource, computed_tensor, copied_tensor, fused_tensor

SCHEMA = 2  # of what this executor writes: raised when the same plan would give other bytes


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How an artifact is written, whatever the stage."""

    shard_bytes: int = SHARD_BYTES
    transformer_only: bool = False
    link: bool = False
    force: bool = False
    fresh: bool = False
    full_hash: bool = False
    layout: str = "diffusers"  # or nvlabs (.pth), single (.safetensors with NVlabs' names)


@dataclass(frozen=True, slots=True)
class PostProcess:
    """What is made of the files that were written, before they are sealed."""

    make: Callable[[StagingArea, Reporter], None]
    disk: int  # bytes that it writes, about
    memory: int  # that it takes, about
    names: Mapping[str, str]  # of the files that it makes, and the key of each


@dataclass(frozen=True, slots=True)
class ArtifactJob:
    """A job that is fully decided: `--dry-run` shows it, `execute` does it."""

    stage: str
    model: Model
    plan: BlockPlan
    settings: Mapping[str, Any]
    writing: WriteOptions
    key: str
    identity: str  # of the model
    witness: tuple[str, ...]  # of all inputs as they were when this was decided
    pipeline: Model | None = None  # the reference that completes a transformer to a pipeline
    additions: Mapping[str, Addition] = field(default_factory=dict)  # to the model's own tensors, when written
    replaced: Mapping[str, TensorRef] = field(default_factory=dict)  # instead of the model's own tensors
    filled_digest: str = ""  # of the file that holds what is added or put in their place
    repacked: Mapping[str, ComponentRewrite] = field(default_factory=dict)  # components that are written quantized
    how: str = ""  # for people, where the plan doesn't say it: '100 steps of distill'
    finish: PostProcess | None = None

    @property
    def architecture(self) -> Architecture:
        """The output's."""
        return self.model.architecture.changed(len(self.plan.blocks), dict(self.plan.config))

    @property
    def pieces(self) -> tuple[TensorSource, ...]:
        """The output's tensors: what stands outside the blocks, then block by block; NVlabs' layouts have their own."""
        if "transformer" in self.repacked:
            return self.repacked["transformer"].pieces
        if self.model.weights.quantized:  # it goes along like other components
            return ()
        if self.writing.layout == "diffusers":
            return tuple(self._piece(name) for name in _in_order(self.architecture))
        names = nvlabs.sources(self.architecture)
        return (
            *(fused_tensor(name, [self._piece(old) for old in olds]) for name, olds in names.items()),
            *(copied_tensor(name, ref) for name, ref in sorted(self.model.extras.items())),
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
    def filled(self) -> tuple[TensorSource, ...]:
        """What NVlabs' layout wants and nobody has: zeros. Its code makes the position embedding that it uses."""
        if self.writing.layout == "diffusers":
            return ()
        side = self.config.get("sample_size")
        wanted = nvlabs.own_tensors(self.model.architecture, side * side if type(side) is int else 1024)
        dtype = self.model.weights.tensors["proj_out.weight"].dtype
        return tuple(
            new_tensor(name, dtype, shape, TensorInit())
            for name, shape in wanted.items()
            if name not in self.model.extras
        )

    def _piece(self, name: str) -> TensorSource:
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
        return new_tensor(name, self._dtype(rest), self.architecture.block_tensors()[rest], init_of(rest), identity)

    def _dtype(self, rest: str) -> str:
        """A new tensor is stored as its namesake in the first block is; one that is new to all, as most are there."""
        tensors = self.model.weights.tensors
        namesake = tensors.get(block_name(0, rest))
        first = [tensors[block_name(0, name)] for name in self.model.architecture.block_tensors()]
        return namesake.dtype if namesake else next(iter(dtype_counts(first)))

    def _kept(self, name: str, old: str) -> TensorSource:
        """The source's tensor `old` under its new name, with LoRAs and additions merged."""
        if old in self.replaced:
            return copied_tensor(name, self.replaced[old])
        source = self.model.weights.tensors[old]
        patches: tuple[Patch | Addition, ...] = self.model.patches.get(old, ())
        if old in self.additions:
            patches = (*patches, self.additions[old])
        if patches:
            merged = functools.partial(merge, source, patches)
            return computed_tensor(name, source.dtype, source.shape, source.size, merged)
        manifest = self.model.manifest
        return copied_tensor(name, source, manifest.tensors.get("transformer", {}).get(old, "") if manifest else "")

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

    def repacked_pieces(self, part: Component) -> tuple[TensorSource, ...]:
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
        raise UsageError(
            f"{model.located.name} is quantized",
            why="what changes its weights comes before that",
            hint=f"{stage} the model that it was made from, then quantize again",
        )


def plan_artifact(
    stage: str,
    model: Model,
    plan: BlockPlan,
    settings: Mapping[str, Any],
    writing: WriteOptions,
    pipeline: Model | None = None,
) -> ArtifactJob:
    """Everything that is to be done, named by its content key, before anything is."""
    architecture = model.architecture
    if stage not in {"quantize", "export"}:
        refuse_quantized(model, stage)
    if plan.source_blocks != architecture.blocks:
        raise UsageError(
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
    key = json_files.key_of([stage, SCHEMA, settings, plan.to_json(), identities])
    witness = _witness(model, pipeline)
    job = ArtifactJob(stage, model, plan, settings, writing, key, identities[0], witness, pipeline)
    assert job.config, "a config that can't be told is found out before anything is written"
    return job


def _absolute(out: Path) -> Path:
    absolute = Path(os.path.abspath(out))  # noqa: PTH100 (links stay links: they are refused, not followed)
    if not absolute.name:
        raise UsageError(f"{out} can't be an artifact", why="it is the root of the file system")
    return absolute


def _witness(model: Model, pipeline: Model | None) -> tuple[str, ...]:
    return tuple(found.identity() for found in (model, pipeline) if found)


def _lineage(job: ArtifactJob) -> tuple[Ancestor, ...]:
    manifest = job.model.manifest
    before = manifest.lineage if manifest else (Ancestor("source", job.identity, job.model.located.name),)
    return (*before, Ancestor(job.stage, job.key, job.how, job.plan))


def _left_out(job: ArtifactJob) -> tuple[str, ...]:
    """Components that belong to the model and don't go along."""
    names = set(job.model.manifest.left_out if job.model.manifest else ())
    names |= {part.name for part in job.model.others}
    return tuple(sorted(names - {part.name for part in job.carried}))


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configs remember where they were loaded from; an artifact doesn't."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
