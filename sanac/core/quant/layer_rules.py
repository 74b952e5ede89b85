"""Layer rules: which weights of a component are quantized, and why the others are not."""

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.core.errors import UsageError
from sanac.core.family.architecture import dtype_counts, split_block
from sanac.core.quant.schemes import Scheme
from sanac.core.safetensors_header import TensorRef

COMPONENTS = {"transformer": "transformer", "text-encoder": "text_encoder", "vae": "vae"}
INCLUDES = {"kv": "keys and values of captions", "ends": "the first and last blocks"}

ENDS, DEPTH_PER_END = 2, 10  # at most so many blocks at either end stay unquantized: one per ten blocks of depth
SMOOTHED = ("attn1.to_out.0.weight", "attn2.to_out.0.weight", "ff.conv_inverted.weight", "ff.conv_point.weight")
_BLOCK = r"transformer_blocks\.\d+\."
_KV = "keys and values of captions: few tokens pass them, and errors there reach every pixel (--include kv)"
_RULES: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {  # the first match decides; '' means quantized
    "transformer": (
        (re.compile(_BLOCK + r"attn2\.to_[kv]\.weight"), _KV),
        (re.compile(_BLOCK + r"(attn[12]\.to_(q|k|v|out\.0)|ff\.conv_(inverted|point))\.weight"), ""),
        (
            re.compile(_BLOCK + r"ff\.conv_depth\.weight"),
            "depthwise: nine weights a channel, no fast kernels",
        ),
        (re.compile(r"(.+\.)?scale_shift_table"), "modulation: added to every token"),
        (re.compile(r"time_embed\..+"), "timestep embedding: moves the whole model"),
        (re.compile(r"(patch_embed|caption_projection)\..+"), "embedding: all that follows builds on it"),
        (re.compile(r"proj_out\..+"), "output layer: its errors are in the picture"),
    ),
    "text_encoder": (
        (re.compile(r"(.+\.)?embed_tokens\.weight"), "embedding: looked up, not multiplied"),
        (re.compile(r"(.+\.)?layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight"), ""),
    ),
    "vae": (
        (re.compile(r"(encoder|decoder)\.conv_(in|out)\.(conv\.)?weight"), "first and last layer: pixels and latents"),
        (re.compile(r".+\.weight"), ""),
    ),
}


@dataclass(frozen=True, slots=True)
class QuantRequest:
    """The user's settings for a component's weights; None means the scheme's default."""

    scheme: Scheme
    group_size: int | None = None
    rounding: str | None = None
    include: frozenset[str] = frozenset()
    skip: tuple[str, ...] = ()  # name patterns of weights to skip
    smooth: bool = False  # smooth the activations of outlier-prone layers


@dataclass(frozen=True)
class QuantPlan:
    """How each weight of a component will be stored."""

    request: QuantRequest
    layout: str
    specs: Mapping[str, WeightSpec]
    skipped: Mapping[str, str]  # weight -> why it is not quantized
    dtype: str  # most common dtype of the quantized weights, used for their scales


def plan_quantization(part: str, tensors: Mapping[str, TensorRef], request: QuantRequest) -> QuantPlan:
    """Plan which weights of component `part` are quantized, and how; UsageError if none can be."""
    scheme = request.scheme
    names, skipped = split_quantizable(part, tensors, request)
    specs: dict[str, WeightSpec] = {}
    for name in names:
        shape = tensors[name].shape
        if reason := scheme.refusal(shape, request.group_size or scheme.group_size):
            skipped[name] = reason
        else:
            smooth = request.smooth and name.endswith(SMOOTHED)
            specs[name] = scheme.weight_spec(shape, request.group_size, request.rounding, smooth=smooth)
    if not specs:
        raise UsageError(
            f"no weight of the {part} can be quantized with --group-size {request.group_size}", why=skipped[names[0]]
        )
    dtype = next(iter(dtype_counts([tensors[name] for name in names])))
    return QuantPlan(request, scheme.layout, specs, skipped, dtype)


def split_quantizable(
    part: str, tensors: Mapping[str, TensorRef], request: QuantRequest
) -> tuple[list[str], dict[str, str]]:
    """(names of weights to quantize, other matrices and kernels -> why they are skipped)."""
    quantized: list[str] = []
    skipped: dict[str, str] = {}
    weights = {name: ref for name, ref in sorted(tensors.items()) if len(ref.shape) > 1}
    ends = _ends(weights) if request.scheme.activations and "ends" not in request.include else {}
    for name, ref in weights.items():
        reason = next((reason for pattern, reason in _RULES[part] if pattern.fullmatch(name)), "not known to sanac")
        if reason == _KV and "kv" in request.include:
            reason = ""
        if not reason:
            reason = _reason(name, ref, request.skip) or ends.get(name, "")
        if reason:
            skipped[name] = reason
        else:
            quantized.append(name)
    if not quantized:
        hint = "--include ends" if ends else ""
        raise UsageError(
            f"the {part} has no weights that can be quantized", why=next(iter(ends.values()), ""), hint=hint
        )
    return quantized, skipped


def ends_of(blocks: int) -> int:
    """Blocks at either end of a model of `blocks` blocks that stay unquantized if activations are quantized.

    Two of a deep model. Two of a shallow one would be most of it: four of six blocks.
    """
    return min(ENDS, math.ceil(blocks / DEPTH_PER_END))


def check_patterns(skip: Sequence[str], plans: Mapping[str, QuantPlan]) -> None:
    """UsageError for patterns that match no weight that would otherwise be quantized."""
    skipped = [reason for plan in plans.values() for reason in plan.skipped.values()]
    if idle := [pattern for pattern in skip if f"--leave {pattern}" not in skipped]:
        names = next(iter(next(iter(plans.values())).specs))
        problems = [f"--skip {pattern} matches no weight that would be quantized" for pattern in idle]
        raise UsageError(problems[0], problems=problems, hint=f"for example --skip {names}")


def _reason(name: str, ref: TensorRef, skip: Sequence[str]) -> str:
    """Why a weight that the rules allow is still skipped; '' if it is quantized."""
    if pattern := next((pattern for pattern in skip if fnmatch.fnmatchcase(name, pattern)), ""):
        return f"--leave {pattern}"
    if len(ref.shape) > 2 and ref.shape[1] == 1:
        return "depthwise: few weights a channel"
    return "" if ref.dtype in {"F32", "F16", "BF16"} else f"stored as {ref.dtype}"


def _ends(names: Iterable[str]) -> dict[str, str]:
    """The weights of the first and last blocks -> why they are skipped."""
    places = {name: place[0] for name in names if (place := split_block(name))}
    blocks = 1 + max(places.values(), default=-1)
    ends = ends_of(blocks)
    which = "block" if ends == 1 else f"{ends} blocks"
    why = f"first and last {which}: activations are hardest there (--include ends)"
    return {name: why for name, index in places.items() if index < ends or index >= blocks - ends}
