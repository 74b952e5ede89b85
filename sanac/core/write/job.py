"""The artifact job: a fully planned write, with every output tensor's source, name and the content key."""

import functools
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.differences import precision_text
from sanac.core.artifact.manifest import Ancestor
from sanac.core.artifact.model import Component, Model, streaming_memory
from sanac.core.artifact.plan import BlockPlan, Keep, New
from sanac.core.artifact.schedule import Schedule
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.locate import hub_id, hub_id_of
from sanac.core.checkpoint.lora import Addition, Patch, merge
from sanac.core.checkpoint.quant_json import PACKED
from sanac.core.errors import UsageError
from sanac.core.family import nvlabs
from sanac.core.family.architecture import Architecture, TensorInit, block_name, dtype_counts, init_of, split_block
from sanac.core.progress import Reporter
from sanac.core.resources import Needs
from sanac.core.safetensors_header import TensorRef
from sanac.core.units import bytes_text
from sanac.core.write.component_rewrite import ComponentRewrite
from sanac.core.write.new_tensors import new_tensor
from sanac.core.write.safetensors_writer import SHARD_BYTES, TensorSource, computed_tensor, copied_tensor, fused_tensor

SCHEMA = 2  # part of every content key: raised when the same plan would give other bytes


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Options for writing an artifact, common to all stages."""

    shard_bytes: int = SHARD_BYTES
    transformer_only: bool = False
    link: bool = False
    force: bool = False
    fresh: bool = False
    full_hash: bool = False
    layout: str = "diffusers"  # or nvlabs (.pth), single (.safetensors with NVlabs' names)


@dataclass(frozen=True, slots=True)
class PostProcess:
    """A step that derives more files (graphs, engines) from the written ones, before the artifact is sealed."""

    make: Callable[[StagingArea, Reporter], None]
    disk: int  # estimated bytes that it writes
    memory: int  # estimated bytes of memory
    names: Mapping[str, str]  # file that it writes -> content key


@dataclass(frozen=True, slots=True)
class ArtifactJob:
    """A fully planned job: `--dry-run` shows it, `write_artifact` executes it."""

    stage: str
    model: Model
    plan: BlockPlan
    settings: Mapping[str, Any]
    options: WriteOptions
    key: str
    identity: str  # digest of the model
    input_stamps: tuple[str, ...]  # digests of all inputs at planning time, compared again before sealing
    pipeline: Model | None = None  # supplies the other components for a lone transformer
    additions: Mapping[str, Addition] = field(default_factory=dict)  # tensor -> change added while it is written
    replaced: Mapping[str, TensorRef] = field(default_factory=dict)  # tensor -> what is written instead of the model's
    overrides_digest: str = ""  # digest of the file with the additions or replacements
    rewrites: Mapping[str, ComponentRewrite] = field(default_factory=dict)  # components that are rewritten quantized
    description: str = ""  # description for the lineage where the plan says too little: '100 steps of distill'
    post_process: PostProcess | None = None
    new_schedule: Schedule | None = None  # replaces the model's

    @property
    def schedule(self) -> Schedule | None:
        """The output's schedule: a new one, or the model's with the blocks moved as the plan moves them."""
        known = self.model.schedule
        return self.new_schedule or (known.after(self.plan) if known else None)

    @property
    def architecture(self) -> Architecture:
        """The output's architecture."""
        return self.model.architecture.changed(len(self.plan.blocks), dict(self.plan.config))

    @property
    def tensors(self) -> tuple[TensorSource, ...]:
        """The output's tensors: those outside the blocks, then block by block; in NVlabs' order for its layouts."""
        if "transformer" in self.rewrites:
            return self.rewrites["transformer"].tensors
        if self.model.weights.quantized:  # copied like the other components
            return ()
        if self.options.layout == "diffusers":
            return tuple(self._tensor(name) for name in _in_order(self.architecture))
        names = nvlabs.sources(self.architecture)
        return (
            *(fused_tensor(name, [self._tensor(old) for old in olds]) for name, olds in names.items()),
            *(copied_tensor(name, ref) for name, ref in sorted(self.model.extras.items())),
            *self.zero_filled,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The output's config.json: the model's own, else derived from shapes and the reference pipeline."""
        model, reference = self.model, self.pipeline
        found = dict(model.transformer.config)
        if not found and reference and reference.architecture.cross_width == model.architecture.cross_width:
            found = {**reference.transformer.config, **model.architecture.shape_config()}
        elif not found:
            found = model.architecture.config() | nvlabs.image_size(model.extras)
        return _without_paths(found | dict(self.plan.config))

    @property
    def zero_filled(self) -> tuple[TensorSource, ...]:
        """Zeros for tensors that NVlabs' layout requires and no input has; its code computes the position embedding."""
        if self.options.layout == "diffusers":
            return ()
        side = self.config.get("sample_size")
        shapes = nvlabs.own_tensors(self.model.architecture, side * side if type(side) is int else 1024)
        dtype = self.model.weights.tensors["proj_out.weight"].dtype
        return tuple(
            new_tensor(name, dtype, shape, TensorInit())
            for name, shape in shapes.items()
            if name not in self.model.extras
        )

    def _tensor(self, name: str) -> TensorSource:
        """The output tensor `name`: the source's, as the plan moves it, or a new one."""
        inside = split_block(name)
        if inside is None:
            return self._source_tensor(name, name)
        index, rest = inside
        origin = self.plan.blocks[index]
        old = block_name(origin.block, rest) if isinstance(origin, Keep) else ""
        if old in self.model.weights.tensors:
            return self._source_tensor(name, old)
        identity = (origin.rule, origin.seed, origin.number, rest) if isinstance(origin, New) else ()
        return new_tensor(name, self._dtype(rest), self.architecture.block_tensors()[rest], init_of(rest), identity)

    def _dtype(self, rest: str) -> str:
        """The dtype of a new block tensor: that of the same tensor in block 0, else the most common one in block 0."""
        tensors = self.model.weights.tensors
        namesake = tensors.get(block_name(0, rest))
        first = [tensors[block_name(0, name)] for name in self.model.architecture.block_tensors()]
        return namesake.dtype if namesake else next(iter(dtype_counts(first)))

    def _source_tensor(self, name: str, old: str) -> TensorSource:
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
        """The pipeline whose other components are copied; None if only the transformer is written."""
        if self.options.transformer_only or self.options.layout != "diffusers":
            return None
        return self.pipeline or (self.model if self.model.model_index else None)

    @property
    def needs_sanac(self) -> bool:
        """Whether some weights are packed in a layout that stock diffusers can't read."""
        return PACKED in self.layouts

    @property
    def layouts(self) -> set[str]:
        """The layouts of the output's quantized components."""
        carried = [part.weights.quantized for part in self.carried if part.weights and part.name not in self.rewrites]
        found = [*(part.quantized for part in self.rewrites.values()), *carried]
        return {quantized.layout for quantized in found if quantized}

    @property
    def carried(self) -> tuple[Component, ...]:
        """The components that are copied unchanged or rewritten quantized."""
        others = self.companions.others if self.companions else ()
        packed = self.model.weights.quantized and "transformer" not in self.rewrites
        return (*others, self.model.transformer) if packed else others

    def unchanged(self, part: Component) -> tuple[Path, ...]:
        """The files of a component that are copied unchanged."""
        if part.name not in self.rewrites:
            return part.files
        weights = part.weights.files if part.weights else ()
        return tuple(path for path in part.files if path not in weights and path.name != "config.json")

    def rewritten_tensors(self, part: Component) -> tuple[TensorSource, ...]:
        """The output tensors of a component that is rewritten quantized; () for the others."""
        return self.rewrites[part.name].tensors if part.name in self.rewrites else ()

    @property
    def needs(self) -> Needs:
        """Resource estimate of the job: disk, memory, bytes to copy."""
        weights = sum(tensor.size for tensor in self.tensors)
        carried = sum(path.stat().st_size for part in self.carried for path in self.unchanged(part))
        carried += sum(tensor.size for part in self.carried for tensor in self.rewritten_tensors(part))
        written = weights if self.options.link else weights + carried
        merged = max(
            (4 * self.model.weights.tensors[name].count for name in (*self.model.patches, *self.additions)), default=0
        )
        memory = (
            streaming_memory(self.model.components) + 5 * merged
        )  # base, change, sum, result and the previous result, in fp32
        memory += max((part.memory for part in self.rewrites.values()), default=0)
        if self.post_process:
            written, memory = written + self.post_process.disk, max(memory, self.post_process.memory)
        return Needs(disk=written + (1 << 20), memory=memory, traffic=weights + carried)


def _in_order(architecture: Architecture) -> list[str]:
    """Tensor names in the order they are written: alphabetical outside the blocks, then block by block."""
    outside = sorted(name for name in architecture.tensors() if split_block(name) is None)
    rests = sorted(architecture.block_tensors())
    return [*outside, *(block_name(index, rest) for index in range(architecture.blocks) for rest in rests)]


def refuse_quantized(model: Model, stage: str) -> None:
    """UsageError if `model` is quantized: stages that change weights run before quantization."""
    if model.weights.quantized:
        raise UsageError(
            f"{model.located.name} is already quantized",
            why=f"{stage} changes weights, so it runs before quantize",
            hint=f"sanac {stage} the unquantized model, then quantize again",
        )


def plan_artifact(
    stage: str,
    model: Model,
    plan: BlockPlan,
    settings: Mapping[str, Any],
    options: WriteOptions,
    pipeline: Model | None = None,
) -> ArtifactJob:
    """The fully planned job, with its content key; nothing is written."""
    architecture = model.architecture
    if stage not in {"quantize", "export", "schedule"}:
        refuse_quantized(model, stage)
    if plan.source_blocks != architecture.blocks:
        raise UsageError(
            "the plan is for another model",
            why=f"it expects {plan.source_blocks} blocks, {model.located.name} has {architecture.blocks}",
        )
    settings = {
        **settings,
        "shard_bytes": options.shard_bytes,
        "transformer_only": options.transformer_only,
        "layout": options.layout,
        **({"loras": list(model.patch_identity)} if model.patch_identity else {}),
        **({"completed_from": pipeline.located.name} if pipeline else {}),
    }
    identities = [found.identity(full_hash=options.full_hash) for found in (model, pipeline) if found]
    key = json_files.key_of([stage, SCHEMA, settings, plan.to_json(), identities])
    stamps = _witness(model, pipeline)
    job = ArtifactJob(stage, model, plan, settings, options, key, identities[0], stamps, pipeline)
    assert job.config, "a config that can't be derived is reported before anything is written"
    _ = job.schedule  # neither is a schedule that the plan contradicts
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
    before = manifest.lineage if manifest else (_source(job),)
    return (*before, Ancestor(job.stage, job.key, job.description, job.plan))


def _source(job: ArtifactJob) -> Ancestor:
    """The job's model as the first step of a lineage, with the hub id that a local folder's configuration names."""
    model = job.model
    written = (str(config.get("_name_or_path", "")) for config in (model.model_index or {}, model.transformer.config))
    hub = next(filter(None, map(hub_id_of, written)), "") if not hub_id(model.located.name) else ""
    return Ancestor("source", job.identity, model.located.name, hub=hub)


def size_text(job: ArtifactJob) -> str:
    """Blocks, precision and bytes of the output, as a sentence for its model card."""
    tensors, weights = job.tensors, job.model.weights
    rewrite = job.rewrites.get("transformer")
    quantized = rewrite.quantized if rewrite else weights.quantized
    dtypes: Counter[str] = Counter()
    for tensor in tensors:
        dtypes[tensor.dtype] += math.prod(tensor.shape)
    precision = precision_text(quantized, [dtype for dtype, _ in dtypes.most_common()])
    transformer = sum(tensor.size for tensor in tensors) or weights.size
    others = 0
    for part in job.carried:
        if part.name != "transformer":
            rewritten = job.rewritten_tensors(part)
            others += sum(one.size for one in rewritten) if rewritten else part.weights.size if part.weights else 0
    whole = f", all weights {bytes_text(transformer + others)}" if others else ""
    return f"{job.architecture.blocks} blocks, {precision}: transformer {bytes_text(transformer)}{whole}."


def _left_out(job: ArtifactJob) -> tuple[str, ...]:
    """Components of the model that are not written."""
    names = set(job.model.manifest.left_out if job.model.manifest else ())
    names |= {part.name for part in job.model.others}
    return tuple(sorted(names - {part.name for part in job.carried}))


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without `_name_or_path`: an artifact doesn't record machine paths."""
    return {key: value for key, value in config.items() if key != "_name_or_path"}
