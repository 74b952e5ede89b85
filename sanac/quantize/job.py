"""Quantization as its user asks for it: what is to be done, fully decided, as a job of the one executor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sanac.core.errors import BadInput, Misuse
from sanac.core.execute import Surgery, Writing, decide
from sanac.core.model import Component, Model
from sanac.core.plan import keep_blocks
from sanac.core.quantizable import COMPONENTS, INCLUDES, choose
from sanac.core.quantized import PACKED, PACKED_FILE, TORCHAO, Quantized
from sanac.core.repacked import Repacked
from sanac.core.schemes import Scheme, scheme_of
from sanac.nn.quantize import PIECE
from sanac.nn.quiet import quiet
from sanac.quantize.packing import Rounded, pieces_of, torchao_metadata

SCHEMA = 1  # raised when the same settings would give other bytes
_TORCH = 800_000_000  # imported, and what the allocator keeps of what was freed: 0.66 to 0.91 GB in all at 4.8B
_STEMS = {"text_encoder": "model"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user said."""

    scheme: str
    components: tuple[str, ...] = ("transformer",)
    block: int | None = None
    rounding: str | None = None
    include: frozenset[str] = frozenset()

    def check(self) -> Scheme:
        """All that contradicts itself."""
        problems = [f"there is no component {name!r}" for name in self.components if name not in COMPONENTS]
        try:
            scheme = scheme_of(self.scheme, self.block)
        except Misuse as error:
            problems.insert(0, f"{error.message}: {error.hint}")
        if self.rounding == "gptq" and self.components != ("transformer",):
            problems.append("--rounding gptq is for the transformer, whose blocks are swept: quantize others apart")
        problems += [f"there is nothing called {name!r} to include" for name in self.include if name not in INCLUDES]
        if problems:
            known = f"components: {', '.join(COMPONENTS)}; --include {', '.join(INCLUDES)}"
            raise Misuse(problems[0], problems=problems, hint=known)
        return scheme


def decide_quantizing(model: Model, wanted: Wanted, writing: Writing) -> Surgery:
    """The job that quantizes these components and takes the rest along."""
    scheme = wanted.check()
    blocks = model.architecture.blocks
    parts = [part_named(model, COMPONENTS[name]) for name in wanted.components]
    if writing.transformer_only and wanted.components != ("transformer",):
        raise Misuse("--transformer-only leaves behind what --component would quantize")
    if model.patches:
        raise Misuse("a LoRA is merged before quantizing", hint="sanac convert --lora first")
    block, rounding = wanted.block or scheme.block, wanted.rounding or scheme.rounding
    settings = {
        "schema": SCHEMA,
        "scheme": scheme.name,
        "components": sorted(wanted.components),
        "block": block,
        "rounding": rounding,
        "include": sorted(wanted.include),
    }
    plan = keep_blocks(blocks, list(range(blocks)))
    job = decide("quantize", model, plan, settings, writing)
    configs = {part.name: job.config if part is model.transformer else part.config for part in parts}
    repacked = {part.name: repack(part, configs[part.name], scheme, wanted) for part in parts}
    said = [f"{' and '.join(sorted(wanted.components))} to {scheme.name}", f"block {block}" if block else "", rounding]
    said += [f"with {name}" for name in sorted(wanted.include)]
    return replace(job, repacked=repacked, how=", ".join(filter(None, said)))


def part_named(model: Model, name: str) -> Component:
    """A component with weights."""
    part = next((part for part in model.components if part.name == name), None)
    if part is None:
        raise Misuse(f"{model.located.name} has no {name}", why="it is not a whole pipeline")
    if part.weights is None:
        raise BadInput(f"the {name} has no .safetensors weights", hint="save it again with safe serialization")
    if part.weights.quantized:
        schemes = sorted({packing.scheme for packing in part.weights.quantized.weights.values()})
        raise Misuse(
            f"the {name} of {model.located.name} is quantized already ({', '.join(schemes)})",
            why="rounding what was rounded adds errors and saves nothing",
            hint="quantize the model that it was made from",
        )
    return part


def repack(part: Component, config: Mapping[str, Any], scheme: Scheme, wanted: Wanted) -> Repacked:
    """A component, quantized; nothing is read but headers."""
    assert part.weights is not None
    tensors = part.weights.tensors
    chosen = choose(part.name, tensors, scheme, wanted.block, wanted.rounding, wanted.include)
    packings, left, dtype = chosen.packings, chosen.left, chosen.dtype
    layout = scheme.layout
    rounded = {name: Rounded(tensors[name], packing, layout, dtype) for name, packing in packings.items()}
    if layout == TORCHAO:
        config = {**config, "quantization_config": torchao_config(scheme, wanted, left)}
    return Repacked(
        pieces=pieces_of(tensors, rounded),
        stem=PACKED_FILE if layout == PACKED else _STEMS.get(part.name, "diffusion_pytorch_model"),
        config=config,
        metadata=torchao_metadata(tensors, packings, dtype) if layout == TORCHAO else {},
        quantized=Quantized(layout, dtype, packings, left, {}),
        memory=_TORCH
        + 24 * max(PIECE, *(how.columns for how in packings.values()))
        + sum(4 * how.shape[0] * how.groups for how in packings.values()),
    )


def torchao_config(scheme: Scheme, wanted: Wanted, left: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers and transformers want in config.json, by torchao's own hand."""
    import torch

    with quiet():
        from torchao.core.config import config_to_dict
        from torchao.quantization import IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerAxis, PerGroup

    block = wanted.block or scheme.block
    how = IntxWeightOnlyConfig(getattr(torch, scheme.form), granularity=PerGroup(block) if block else PerAxis(0))
    modules = sorted(name.removesuffix(".weight") for name in left if name.endswith(".weight"))
    return {
        "quant_method": "torchao",
        "quant_type": {"default": config_to_dict(how)},
        "modules_to_not_convert": modules,
    }
