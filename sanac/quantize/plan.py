"""Which weights are quantized, and how: the artifact job of `sanac quantize`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sanac.core.artifact.model import Component, Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.checkpoint.quant_json import PACKED, PACKED_FILE, TORCHAO, QuantConfig
from sanac.core.checkpoint.weights import Weights
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.quant.layer_rules import (
    COMPONENTS,
    ENDS,
    QuantPlan,
    QuantRequest,
    check_patterns,
    ends_of,
    plan_quantization,
)
from sanac.core.write.component_rewrite import ComponentRewrite
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.nn.silence_libraries import silent
from sanac.quantize.activation_scales import RANGES
from sanac.quantize.settings import QuantizeSettings
from sanac.quantize.tensor_packing import TOGETHER, CalibratedWeight, WeightQuantizer, pieces_of, torchao_metadata

SCHEMA = 1  # raised when the same settings would give other bytes
_TORCH = 500_000_000  # bytes of imported torch plus freed memory that its allocator retains: 0.47 to 0.54 GB at 4.8B
_STEMS = {"text_encoder": "model"}


def plan_quantize(model: Model, settings: QuantizeSettings, options: WriteOptions) -> ArtifactJob:
    """The job that quantizes the selected components with one scheme and copies the rest."""
    settings.check()
    scheme = settings.weight_scheme
    parts = parts_of(model, settings.component, options)
    group_size, rounding = settings.group_size or scheme.group_size, settings.rounding or scheme.rounding
    recorded = {
        "schema": SCHEMA,
        "scheme": scheme.name,
        "components": sorted(settings.component),
        "block": group_size,
        "rounding": rounding,
        "include": sorted(settings.include),
        "leave": sorted(settings.skip),
    }
    if scheme.activations:
        recorded["given"] = [scheme.activations, settings.smooth, settings.activation_range or RANGES[0]]
        if "ends" not in settings.include and (ends := ends_of(model.architecture.blocks)) != ENDS:
            recorded["ends"] = ends  # deeper models keep the content keys that they had
    said = [
        f"{' and '.join(sorted(settings.component))} to {scheme.name}",
        f"block {group_size}" if group_size else "",
        rounding,
    ]
    said += [f"with {name}" for name in sorted(settings.include)]
    said += [f"without {pattern}" for pattern in sorted(settings.skip)] + (["smoothed"] if settings.smooth else [])
    chosen = {part.name: plan_quantization(part.name, weights_of(part).tensors, settings.request) for part in parts}
    check_patterns(settings.skip, chosen)
    if scheme.activations and not options.force:
        _refuse_half(model, chosen["transformer"].dtype)
    return plan_chosen(model, chosen, recorded, ", ".join(filter(None, said)), options)


def _refuse_half(model: Model, dtype: str) -> None:
    """Raise UsageError for SANA-1.5 in fp16: it was trained in bf16, and its activations overflow fp16."""
    if dtype == "F16" and model.architecture.qk_norm:
        raise UsageError(
            f"{model.located.name} is stored in fp16, but SANA-1.5 was trained in bf16",
            why="its activations can exceed 65,504, the largest fp16 value, so calibration would see infinities",
            hint="quantize the bf16 checkpoint, or pass --force if this one was trained in fp16",
        )


def plan_chosen(
    model: Model, chosen: Mapping[str, QuantPlan], settings: Mapping[str, Any], how: str, options: WriteOptions
) -> ArtifactJob:
    """The job that stores the weights of components by the chosen plans."""
    blocks = model.architecture.blocks
    plan = keep_blocks(blocks, list(range(blocks)))
    job = plan_artifact("quantize", model, plan, dict(settings), options)
    parts = [part for part in model.components if part.name in chosen]
    configs = {part.name: job.config if part is model.transformer else part.config for part in parts}
    repacked = {part.name: repack(part, configs[part.name], chosen[part.name]) for part in parts}
    return replace(job, rewrites=repacked, description=how)


def parts_of(model: Model, components: Sequence[str], options: WriteOptions) -> list[Component]:
    """The components to quantize, by name; UsageError if one can't be quantized."""
    parts = [part_named(model, COMPONENTS[name]) for name in components]
    if options.transformer_only and tuple(components) != ("transformer",):
        raise UsageError(
            "--transformer-only and --component contradict each other",
            why=f"only the transformer would be written, not {', '.join(components)}",
            hint="drop one of both options",
        )
    if model.patches:
        raise UsageError("a LoRA must be merged before quantizing", hint="run sanac convert --lora first")
    return parts


def weights_of(part: Component) -> Weights:
    """Weights of a component that has weights."""
    assert part.weights is not None
    return part.weights


def part_named(model: Model, name: str) -> Component:
    """The component called `name`; raises if it is missing, has no weights, or is already quantized."""
    part = next((part for part in model.components if part.name == name), None)
    if part is None:
        raise UsageError(f"{model.located.name} has no {name}", why="it is not a complete pipeline")
    if part.weights is None:
        raise InvalidInput(f"the {name} has no .safetensors weights", hint="save it with safe_serialization=True")
    if part.weights.quantized:
        schemes = sorted({spec.scheme for spec in part.weights.quantized.weights.values()})
        raise UsageError(
            f"the {name} of {model.located.name} is already quantized ({', '.join(schemes)})",
            why="quantizing twice adds error and saves nothing",
            hint="quantize the unquantized model that it was made from",
        )
    return part


def repack(
    part: Component, config: Mapping[str, Any], chosen: QuantPlan, fits: Mapping[str, CalibratedWeight] | None = None
) -> ComponentRewrite:
    """The rewrite of a component with quantized weights; reads headers only. `fits`: calibration results by weight."""
    tensors, fits = weights_of(part).tensors, fits or {}
    specs = {name: fits.get(name, CalibratedWeight()).applied_to(spec) for name, spec in chosen.specs.items()}
    skipped, dtype, layout = chosen.skipped, chosen.dtype, chosen.layout
    quantizers = {
        name: WeightQuantizer(tensors[name], spec, layout, dtype, fits.get(name, CalibratedWeight()))
        for name, spec in specs.items()
    }
    if layout == TORCHAO:
        config = {**config, "quantization_config": torchao_config(chosen.request, skipped)}
    return ComponentRewrite(
        tensors=pieces_of(tensors, quantizers),
        stem=PACKED_FILE if layout == PACKED else _STEMS.get(part.name, "diffusion_pytorch_model"),
        config=config,
        metadata=torchao_metadata(tensors, specs, dtype) if layout == TORCHAO else {},
        quantized=QuantConfig(layout, dtype, specs, skipped, {}),
        memory=_TORCH
        + 24 * max([TOGETHER, *(how.columns for how in specs.values())])
        + max((2 * tensors[name].size for name, how in specs.items() if how.rounding == "tensor"), default=0)
        + sum(4 * how.shape[0] * how.groups for how in specs.values()),
    )


def torchao_config(request: QuantRequest, skipped: Mapping[str, str]) -> dict[str, Any]:
    """The `quantization_config` that diffusers and transformers expect in config.json, serialised by torchao."""
    import torch

    with silent():
        from torchao.core.config import config_to_dict
        from torchao.quantization import IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerAxis, PerGroup

    group_size = request.group_size or request.scheme.group_size
    how = IntxWeightOnlyConfig(
        getattr(torch, request.scheme.dtype), granularity=PerGroup(group_size) if group_size else PerAxis(0)
    )
    modules = sorted(name.removesuffix(".weight") for name in skipped if name.endswith(".weight"))
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config_to_dict(how)},
        "modules_to_not_convert": modules,
    }
