"""Which weights of a component are quantized, and why the others are not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sanac.core.errors import Misuse
from sanac.core.family import dtype_counts
from sanac.core.header import TensorRef
from sanac.core.quantized import Packing
from sanac.core.schemes import Scheme

COMPONENTS = {"transformer": "transformer", "text-encoder": "text_encoder", "vae": "vae"}
INCLUDES = {"kv": "keys and values of captions"}

_BLOCK = r"transformer_blocks\.\d+\."
_KV = "keys and values of captions: few tokens pass them, and errors there reach every pixel (--include kv)"
_RULES: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {  # the first that matches; '' means: quantized
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


@dataclass(frozen=True)
class Chosen:
    """How a component's weights will be stored."""

    packings: Mapping[str, Packing]
    left: Mapping[str, str]  # weight -> why it stays as it is
    dtype: str  # of most that are quantized: that of their scales


def choose(
    part: str,
    tensors: Mapping[str, TensorRef],
    scheme: Scheme,
    block: int | None = None,
    rounding: str | None = None,
    include: frozenset[str] = frozenset(),
) -> Chosen:
    """Which weights of a component are quantized by a scheme, and how."""
    names, left = sort_out(part, tensors, include)
    packings: dict[str, Packing] = {}
    for name in names:
        shape = tensors[name].shape
        if reason := scheme.refusal(shape, block or scheme.block):
            left[name] = reason
        else:
            packings[name] = scheme.packing(shape, block, rounding)
    if not packings:
        raise Misuse(f"no weight of the {part} takes --block {block}", why=left[names[0]])
    return Chosen(packings, left, next(iter(dtype_counts([tensors[name] for name in names]))))


def sort_out(part: str, tensors: Mapping[str, TensorRef], include: frozenset[str]) -> tuple[list[str], dict[str, str]]:
    """(weights to quantize, the others with more than one dimension and why not)."""
    chosen, left = [], {}
    for name, ref in sorted(tensors.items()):
        if len(ref.shape) < 2:
            continue
        reason = next((reason for pattern, reason in _RULES[part] if pattern.fullmatch(name)), "not known to sanac")
        if reason == _KV and "kv" in include:
            reason = ""
        if not reason and len(ref.shape) > 2 and ref.shape[1] == 1:
            reason = "depthwise: few weights a channel"
        if not reason and ref.dtype not in {"F32", "F16", "BF16"}:
            reason = f"stored as {ref.dtype}"
        if reason:
            left[name] = reason
        else:
            chosen.append(name)
    if not chosen:
        raise Misuse(f"the {part} has no weights that can be quantized")
    return chosen, left
