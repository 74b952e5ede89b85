"""The SANA family: tensor names, shapes and initial values. No other module knows them.

An architecture is recognised from tensor names and shapes, never from a path.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import TensorRef

TRANSFORMER_CLASS = "SanaTransformer2DModel"
Shape = tuple[int, ...]

_BLOCK = re.compile(r"transformer_blocks\.(0|[1-9]\d{0,5})\.(.+)")
_PIXART = re.compile(r"blocks\.\d+\.mlp\.fc1\.weight")

# The number of cross-attention heads can't be derived from a shape; these are the released widths.
_CROSS_HEADS = {1152: 16, 2240: 20}
_NAMES = {
    (1152, 28): "0.6B",
    (2240, 20): "1.6B",
    (2240, 30): "2.4B",
    (2240, 40): "3.2B",
    (2240, 60): "4.8B",
}
QUANTIZED = ("INT8", "INT4", "FP8")  # dtype names used for weights that quant.json lists as quantized
_LARGEST_SIDE = 1024  # of the latent: images of 32,768 px
_TOLD_OTHERWISE = {"_class_name", "mlp_ratio", "qk_norm"}  # compared separately: different values can mean the same
_PARTS = (
    ("patch_embed.", "patch embedding"),
    ("time_embed.", "time embedding"),
    ("caption_", "caption embedding"),
    ("attn1.", "self-attention"),
    ("attn2.", "cross-attention"),
    ("ff.", "feed-forward"),
)


@dataclass(frozen=True, slots=True)
class TensorInit:
    """Initial value of a new tensor: `constant` plus normal noise of standard deviation `deviation`."""

    constant: float = 0.0
    deviation: float = 0.0


# Partial Preservation Init, as in NVlabs' init_constant: the first matching pattern decides. The zero weights are the
# output projections, all that a block adds to its input, so a new block is the identity for any gate values.
_STARTS = (
    (re.compile(r"attn[12]\.to_out\.0\.(weight|bias)|ff\.conv_point\.weight"), TensorInit()),
    (re.compile(r"attn[12]\.norm_[qk]\.weight"), TensorInit(constant=1.0)),
    (re.compile(r"attn2\.to_[qkv]\.bias"), TensorInit()),
    (re.compile(r"ff\.conv_depth\.(weight|bias)"), TensorInit(deviation=0.2)),
    (re.compile(r".+"), TensorInit(deviation=0.02)),
)
_QK_NORM = "rms_norm_across_heads"
QK_NORM_CONFIG = ("qk_norm", _QK_NORM)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A SANA transformer's hyperparameters, close to its diffusers config."""

    blocks: int
    width: int
    hidden: int  # of the feed-forward: int(mlp_ratio * width)
    cross_width: int
    in_channels: int
    out_channels: int
    caption_channels: int
    patch_size: int
    qk_norm: bool
    guidance: bool
    attention_bias: bool

    @property
    def title(self) -> str:
        """Display name: 'SANA-1.5 4.8B', 'SANA-Sprint 1.6B', 'SANA-1.0 topology, 12 blocks of width 96'."""
        line = "SANA-Sprint" if self.guidance else "SANA-1.5" if self.qk_norm else "SANA-1.0"
        size = _NAMES.get((self.width, self.blocks))
        return f"{line} {size}" if size else f"{line} topology, {self.blocks} blocks of width {self.width}"

    @property
    def pipeline(self) -> str:
        """Name of the diffusers class of its pipeline."""
        return "SanaSprintPipeline" if self.guidance else "SanaPipeline"

    def tensors(self) -> dict[str, Shape]:
        """Shape of every tensor of this architecture: those outside the blocks first, then block by block."""
        table = self._outside()
        block = self.block_tensors()
        for index in range(self.blocks):
            table |= {block_name(index, rest): shape for rest, shape in block.items()}
        return table

    def block_tensors(self) -> dict[str, Shape]:
        """Shapes of one block's tensors, by name after `transformer_blocks.{i}.`."""
        width, cross, hidden = self.width, self.cross_width, self.hidden
        table: dict[str, Shape] = {"scale_shift_table": (6, width)}
        for attention, inner in (("attn1", width), ("attn2", cross)):
            if self.qk_norm:
                table |= {f"{attention}.norm_q.weight": (inner,), f"{attention}.norm_k.weight": (inner,)}
            for name in ("to_q", "to_k", "to_v"):
                table[f"{attention}.{name}.weight"] = (inner, width)
                if attention == "attn2" or self.attention_bias:
                    table[f"{attention}.{name}.bias"] = (inner,)
            table |= {f"{attention}.to_out.0.weight": (width, inner), f"{attention}.to_out.0.bias": (width,)}
        return table | {
            "ff.conv_inverted.weight": (2 * hidden, width, 1, 1),
            "ff.conv_inverted.bias": (2 * hidden,),
            "ff.conv_depth.weight": (2 * hidden, 1, 3, 3),
            "ff.conv_depth.bias": (2 * hidden,),
            "ff.conv_point.weight": (width, hidden, 1, 1),
        }

    def _outside(self) -> dict[str, Shape]:
        width, patch = self.width, self.patch_size
        table: dict[str, Shape] = {
            "scale_shift_table": (2, width),
            "patch_embed.proj.weight": (width, self.in_channels, patch, patch),
            "patch_embed.proj.bias": (width,),
            "caption_norm.weight": (width,),
            "proj_out.weight": (patch * patch * self.out_channels, width),
            "proj_out.bias": (patch * patch * self.out_channels,),
        }
        embedders = {"caption_projection": self.caption_channels}
        if self.guidance:
            embedders |= {"time_embed.timestep_embedder": 256, "time_embed.guidance_embedder": 256}
        else:
            embedders["time_embed.emb.timestep_embedder"] = 256
        for name, inputs in embedders.items():
            table |= _linear(f"{name}.linear_1", inputs, width) | _linear(f"{name}.linear_2", width, width)
        return table | _linear("time_embed.linear", width, 6 * width)

    def config(self) -> dict[str, Any]:
        """The diffusers config of this architecture; InvalidInput if the head count can't be derived from shapes."""
        cross_heads = _CROSS_HEADS.get(self.cross_width)
        if cross_heads is None or self.width % 32:
            raise InvalidInput(
                f"the config of a SANA of width {self.width} can't be derived from its shapes",
                why="the number of cross-attention heads isn't visible in them",
                hint="put the model's config.json next to the weights",
            )
        return self.shape_config() | {
            "attention_head_dim": 32,
            "cross_attention_head_dim": self.cross_width // cross_heads,
            "dropout": 0.0,
            "interpolation_scale": None,
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
            "num_attention_heads": self.width // 32,
            "num_cross_attention_heads": cross_heads,
            "sample_size": 32,
        }

    def shape_config(self) -> dict[str, Any]:
        """The config keys that tensor shapes determine completely."""
        return {
            "_class_name": TRANSFORMER_CLASS,
            "attention_bias": self.attention_bias,
            "caption_channels": self.caption_channels,
            "cross_attention_dim": self.cross_width,
            "guidance_embeds": self.guidance,
            "in_channels": self.in_channels,
            "mlp_ratio": self.hidden / self.width,
            "num_layers": self.blocks,
            "out_channels": self.out_channels,
            "patch_size": self.patch_size,
            "qk_norm": _QK_NORM if self.qk_norm else None,
        }

    def changed(self, blocks: int, config: Mapping[str, Any]) -> "Architecture":
        """This architecture with `blocks` blocks and a config patch applied."""
        return replace(self, blocks=blocks, qk_norm=bool(config.get("qk_norm", self.qk_norm)))


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def block_name(index: int, rest: str) -> str:
    """The full name of a block's tensor: `transformer_blocks.{index}.{rest}`."""
    return f"transformer_blocks.{index}.{rest}"


def split_block(name: str) -> tuple[int, str] | None:
    """`transformer_blocks.7.ff.conv_depth.bias` -> (7, 'ff.conv_depth.bias'); None outside the blocks."""
    match = _BLOCK.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def init_of(rest: str) -> TensorInit:
    """The initial value of a new block's tensor, by its name after `transformer_blocks.{i}.`."""
    return next(start for pattern, start in _STARTS if pattern.fullmatch(rest))


def part_of(name: str) -> str:
    """Display name of the part of the model that a tensor belongs to, such as 'self-attention'."""
    inside = split_block(name)
    rest = inside[1] if inside else name
    for prefix, part in _PARTS:
        if rest.startswith(prefix):
            return part
    return "block modulation" if inside else "output layer"


def recognise(tensors: Mapping[str, TensorRef], where: str) -> Architecture:
    """The architecture of `tensors`, all of them checked; InvalidInput, naming `where`, says what doesn't fit."""
    try:
        architecture = _derive({name: ref.shape for name, ref in tensors.items()})
    except KeyError as error:
        raise _stranger(tensors, where, f"{error.args[0]} is missing") from error
    except (IndexError, ValueError) as error:
        raise _stranger(tensors, where, "one of its main weights has the wrong rank") from error
    problems = _misfits(architecture, tensors)
    if problems:
        raise InvalidInput(
            f"{where} is not a complete {architecture.title}",
            why=problems[0],
            problems=problems,
            hint="fetch the checkpoint again, or name the tool that wrote it when you report this",
        )
    return architecture


def _derive(shapes: Mapping[str, Shape]) -> Architecture:
    indices = {found[0] for name in shapes if (found := split_block(name))}
    first = block_name(min(indices, default=0), "")
    width, in_channels, patch, _ = shapes["patch_embed.proj.weight"]
    return Architecture(
        blocks=len(indices),
        width=width,
        hidden=shapes[first + "ff.conv_point.weight"][1],
        cross_width=shapes[first + "attn2.to_q.weight"][0],
        in_channels=in_channels,
        out_channels=shapes["proj_out.weight"][0] // max(1, patch * patch),
        caption_channels=shapes["caption_projection.linear_1.weight"][1],
        patch_size=patch,
        qk_norm=first + "attn1.norm_q.weight" in shapes,
        guidance=any(name.startswith("time_embed.guidance_embedder.") for name in shapes),
        attention_bias=first + "attn1.to_q.bias" in shapes,
    )


def _misfits(architecture: Architecture, tensors: Mapping[str, TensorRef]) -> list[str]:
    """Missing, extra and misshapen tensors. Blocks are counted before names are built: a file may claim a million."""
    indices = {found[0] for name in tensors if (found := split_block(name))}
    if indices != set(range(architecture.blocks)):
        gaps = sorted(set(range(max(indices) + 1 if len(tensors) > max(indices) else 0)) - indices)
        named = f"blocks {', '.join(map(str, gaps[:8]))} are missing" if gaps else "they don't count up from 0"
        return [f"the block numbers have gaps: {named}"]
    if not all((architecture.width, architecture.hidden, architecture.cross_width, architecture.patch_size)):
        return ["its main weights are empty: a width of zero"]
    expected = architecture.tensors()
    problems = [f"{name} is missing" for name in expected if name not in tensors]
    problems += [f"{name} is not a tensor of this family" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    floats = {"F32", "F16", "BF16", "F64", *QUANTIZED}
    problems += [
        f"{name} has dtype {ref.dtype}, expected a float" for name, ref in tensors.items() if ref.dtype not in floats
    ]
    return problems


def _stranger(names: Iterable[str], where: str, missing: str) -> InvalidInput:
    names = list(names)
    found = f"it has {len(names)} tensors, the first is {names[0]}" if names else "it has no tensors"
    why = f"{missing}; {found}"
    hint = "point at a SANA transformer: a diffusers folder or its .safetensors file"
    if any(name.startswith(("double_blocks.", "single_transformer_blocks.")) for name in names):
        why = "its tensors look like Flux"
    elif any(name.startswith("adaln_single.") or _PIXART.fullmatch(name) for name in names):
        why = "its tensors look like PixArt"
    return InvalidInput(f"{where} is not a SANA transformer", why=why, hint=hint)


def config_problems(config: Mapping[str, Any], architecture: Architecture) -> list[str]:
    """Where config.json contradicts the tensors or itself."""
    told = {key: value for key, value in architecture.shape_config().items() if key not in _TOLD_OTHERWISE}
    problems = [
        f"config.json says {key} = {config[key]!r}, the tensors say {value!r}"
        for key, value in told.items()
        if key in config and config[key] != value
    ]
    if "qk_norm" in config and bool(config["qk_norm"]) != architecture.qk_norm:
        word = "have" if architecture.qk_norm else "lack"
        problems.append(f"config.json says qk_norm = {config['qk_norm']!r}, the tensors {word} QK norm")
    for keys, width in (
        (("num_attention_heads", "attention_head_dim"), architecture.width),
        (("num_cross_attention_heads", "cross_attention_head_dim"), architecture.cross_width),
    ):
        factors = [config.get(key) for key in keys]
        if all(key in config for key in keys) and not _multiply_to(factors, width):
            problems.append(f"config.json says {keys[0]} x {keys[1]} = {factors}, the tensors say {width}")
    side = config.get("sample_size", 32)
    if type(side) is not int or not 0 < side <= _LARGEST_SIDE:
        problems.append(f"config.json says sample_size = {side!r}, it must be between 1 and {_LARGEST_SIDE}")
    return problems


def _multiply_to(factors: list[Any], product: int) -> bool:
    return all(type(factor) is int and factor > 0 for factor in factors) and math.prod(factors) == product


def training_note(architecture: Architecture, dtypes: Iterable[str]) -> str:
    """A hint about the checkpoint's training dtype, derived from its names and dtypes; '' if none is needed."""
    if architecture.qk_norm:
        return ""
    if "F16" in dtypes:
        return (
            "fp16-trained SANA-1.0: training clamped its attention to +-65504, so run it in fp16; "
            "bf16 and fp32 don't clamp and give noise"
        )
    return "SANA-1.0 without QK norm: its attention overflows fp16 unless clamped; run it in its training dtype"


def dtype_counts(tensors: Iterable[TensorRef]) -> dict[str, int]:
    """Number of parameters per dtype, most common first."""
    counts: Counter[str] = Counter()
    for ref in tensors:
        counts[ref.dtype] += ref.count
    return dict(counts.most_common())
