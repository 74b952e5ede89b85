"""Quantization as its user asks for it: what is to be done, fully decided, as a job of the one executor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sanac.core.artifact.model import Component, Model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.checkpoint.quant_json import PACKED, PACKED_FILE, STATIC, TOKEN, TORCHAO, QuantConfig
from sanac.core.checkpoint.weights import Weights
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.quant.layer_rules import (
    COMPONENTS,
    INCLUDES,
    QuantPlan,
    QuantRequest,
    check_patterns,
    plan_quantization,
)
from sanac.core.quant.schemes import SCHEMES, Scheme, scheme_of
from sanac.core.write.component_rewrite import ComponentRewrite
from sanac.core.write.job import ArtifactJob, WriteOptions, plan_artifact
from sanac.nn.silence_libraries import quiet
from sanac.quantize.activation_scales import RANGES
from sanac.quantize.tensor_packing import TOGETHER, CalibratedWeight, WeightQuantizer, pieces_of, torchao_metadata

SCHEMA = 1  # raised when the same settings would give other bytes
_TORCH = 500_000_000  # imported, and what the allocator keeps of what was freed: 0.47 to 0.54 GB in all at 4.8B
_STEMS = {"text_encoder": "model"}


@dataclass(frozen=True, slots=True)
class QuantizeSettings:
    """What the user said."""

    scheme: str
    components: tuple[str, ...] = ("transformer",)
    block: int | None = None
    rounding: str | None = None
    include: frozenset[str] = frozenset()
    leave: tuple[str, ...] = ()
    smoothing: str | None = None  # search, or none
    ranges: str | None = None

    @property
    def needs_calibration(self) -> bool:
        """Whether what layers are given has to be looked at."""
        scheme = SCHEMES[self.scheme]
        return self.rounding == "gptq" or scheme.activations == STATIC or self.smooth

    @property
    def smooth(self) -> bool:
        """Whether outlier-prone layers are smoothed."""
        return bool(SCHEMES[self.scheme].activations) and self.smoothing != "none"

    @property
    def request(self) -> QuantRequest:
        """About each component's weights."""
        return QuantRequest(scheme_of(self.scheme), self.block, self.rounding, self.include, self.leave, self.smooth)

    def check(self) -> Scheme:
        """All that contradicts itself."""
        problems = [f"there is no component {name!r}" for name in self.components if name not in COMPONENTS]
        try:
            scheme = scheme_of(self.scheme, self.block)
        except UsageError as error:
            problems.insert(0, f"{error.message}: {error.hint}")
        activations = SCHEMES[self.scheme].activations if self.scheme in SCHEMES else None
        if self.rounding == "gptq" and self.components != ("transformer",):
            problems.append("--rounding gptq is for the transformer, whose blocks are swept: quantize others apart")
        if activations and self.components != ("transformer",):
            problems.append(f"--scheme {self.scheme} is for the transformer; for others those that end in -wo")
        if self.scheme in SCHEMES and not activations:
            activation_options = {
                "--smoothing": self.smoothing,
                "--ranges": self.ranges,
                "--include ends": "ends" in self.include,
            }
            set_options = [name for name, value in activation_options.items() if value]
            problems += [f"{name} is about activations, which {self.scheme} leaves alone" for name in set_options]
        if activations == TOKEN and self.ranges:
            problems.append(f"--ranges is for static scales: {self.scheme} takes each token's own")
        if activations and SCHEMES[self.scheme].dtype == "fp8" and self.rounding:
            problems.append(f"--rounding {self.rounding}: {self.scheme} has one way to round")
        problems += [f"there is nothing called {name!r} to include" for name in self.include if name not in INCLUDES]
        if problems:
            known = f"components: {', '.join(COMPONENTS)}; --include {', '.join(INCLUDES)}"
            raise UsageError(problems[0], problems=problems, hint=known)
        return scheme


def plan_quantize(model: Model, settings: QuantizeSettings, writing: WriteOptions) -> ArtifactJob:
    """The job that quantizes these components by one scheme and takes the rest along."""
    scheme = settings.check()
    parts = parts_of(model, settings.components, writing)
    group_size, rounding = settings.block or scheme.group_size, settings.rounding or scheme.rounding
    recorded = {
        "schema": SCHEMA,
        "scheme": scheme.name,
        "components": sorted(settings.components),
        "block": group_size,
        "rounding": rounding,
        "include": sorted(settings.include),
        "leave": sorted(settings.leave),
    }
    if scheme.activations:
        recorded["given"] = [scheme.activations, settings.smooth, settings.ranges or RANGES[0]]
    said = [
        f"{' and '.join(sorted(settings.components))} to {scheme.name}",
        f"block {group_size}" if group_size else "",
        rounding,
    ]
    said += [f"with {name}" for name in sorted(settings.include)]
    said += [f"without {pattern}" for pattern in sorted(settings.leave)] + (["smoothed"] if settings.smooth else [])
    chosen = {part.name: plan_quantization(part.name, weights_of(part).tensors, settings.request) for part in parts}
    check_patterns(settings.leave, chosen)
    if scheme.activations and not writing.force:
        _refuse_half(model, chosen["transformer"].dtype)
    return plan_chosen(model, chosen, recorded, ", ".join(filter(None, said)), writing)


def _refuse_half(model: Model, dtype: str) -> None:
    """The range of activations is a property of the checkpoint: SANA-1.5 was trained in bf16."""
    if dtype == "F16" and model.architecture.qk_norm:
        raise UsageError(
            f"{model.located.name} is stored in fp16, but SANA-1.5 was trained in bf16",
            why="what its layers give can go beyond 65,504, the largest number of fp16: nothing to calibrate on",
            hint="quantize the checkpoint in bf16; --force if it was trained in fp16 after all",
        )


def plan_chosen(
    model: Model, chosen: Mapping[str, QuantPlan], settings: Mapping[str, Any], how: str, writing: WriteOptions
) -> ArtifactJob:
    """The job that stores components' weights as was chosen."""
    blocks = model.architecture.blocks
    plan = keep_blocks(blocks, list(range(blocks)))
    job = plan_artifact("quantize", model, plan, dict(settings), writing)
    parts = [part for part in model.components if part.name in chosen]
    configs = {part.name: job.config if part is model.transformer else part.config for part in parts}
    repacked = {part.name: repack(part, configs[part.name], chosen[part.name]) for part in parts}
    return replace(job, repacked=repacked, how=how)


def parts_of(model: Model, components: Sequence[str], writing: WriteOptions) -> list[Component]:
    """The components that are to be quantized; Misuse where they can't be."""
    parts = [part_named(model, COMPONENTS[name]) for name in components]
    if writing.transformer_only and tuple(components) != ("transformer",):
        raise UsageError("--transformer-only leaves behind what --component would quantize")
    if model.patches:
        raise UsageError("a LoRA is merged before quantizing", hint="sanac convert --lora first")
    return parts


def weights_of(part: Component) -> Weights:
    """Of a component that has some."""
    assert part.weights is not None
    return part.weights


def part_named(model: Model, name: str) -> Component:
    """A component with weights."""
    part = next((part for part in model.components if part.name == name), None)
    if part is None:
        raise UsageError(f"{model.located.name} has no {name}", why="it is not a whole pipeline")
    if part.weights is None:
        raise InvalidInput(f"the {name} has no .safetensors weights", hint="save it again with safe serialization")
    if part.weights.quantized:
        schemes = sorted({spec.scheme for spec in part.weights.quantized.weights.values()})
        raise UsageError(
            f"the {name} of {model.located.name} is quantized already ({', '.join(schemes)})",
            why="rounding what was rounded adds errors and saves nothing",
            hint="quantize the model that it was made from",
        )
    return part


def repack(
    part: Component, config: Mapping[str, Any], chosen: QuantPlan, fits: Mapping[str, CalibratedWeight] | None = None
) -> ComponentRewrite:
    """A component, quantized; nothing is read but headers. `fits` are what looking at inputs found, by weight."""
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
        pieces=pieces_of(tensors, quantizers),
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
    """What diffusers and transformers want in config.json, by torchao's own hand."""
    import torch

    with quiet():
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
