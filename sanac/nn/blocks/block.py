"""One SANA block as a function over its tensors: diffusers' operations in diffusers' order, with bitwise equal results.

Shapes: B samples, N = height x width tokens, C channels, S caption tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

Tensors = Mapping[str, Tensor]  # of one block, under the names that follow `transformer_blocks.<i>.`
ActivationHook = Callable[
    [str, Tensor], None
]  # called with each weight's name and input activations, in the layer's layout
ActivationTransform = Callable[[Tensor], Tensor]  # replaces a layer's input activations

INVERTED, POINT = "ff.conv_inverted.weight", "ff.conv_point.weight"
QK_EPSILON = 1e-5
LINEAR_EPSILON = 1e-15
LARGEST_HALF = 65504


@dataclass(frozen=True, slots=True)
class Geometry:
    """What tensor shapes don't determine: head counts, the norm's epsilon, and options for exported graphs."""

    heads: int
    cross_heads: int
    epsilon: float = 1e-6
    clamp_denominator: bool = (
        False  # clamp denominators instead of adding 1e-15: graph optimizers delete such a small sum
    )
    depthwise_dtype: torch.dtype | None = None  # dtype of the depthwise convolution; None: the model's dtype
    pointwise_as_linear: bool = False  # compute 1x1 convolutions as linear layers over tokens

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Geometry":
        """The geometry of a transformer with this config."""
        heads, cross_heads = config["num_attention_heads"], config["num_cross_attention_heads"]
        return cls(heads, cross_heads, config.get("norm_eps", 1e-6))


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The conditioning of a forward pass: block inputs other than the hidden state."""

    modulation: Tensor  # (B, 6 C), from the timestep
    caption: Tensor  # (B, S, C)
    bias: Tensor | None  # (B, 1, S): 0 for caption tokens, -10000 for padding
    height: int
    width: int


class QuantizedBlock(dict[str, Tensor]):
    """A block's tensors, with transforms that quantize the activations of some weights."""

    def __init__(self, tensors: Tensors, transforms: Mapping[str, ActivationTransform]) -> None:
        """`tensors` and activation `transforms`, both by weight name."""
        super().__init__(tensors)
        self.transforms = transforms


def no_hook(_name: str, _activations: Tensor) -> None:
    """Ignore the activations."""


def block(
    tensors: Tensors, state: Tensor, conditioning: Conditioning, geometry: Geometry, hook: ActivationHook = no_hook
) -> Tensor:
    """(B, N, C) -> (B, N, C): linear self-attention, cross-attention, gated convolutional feed-forward."""
    state, activations, gate = before_conv_point(tensors, state, conditioning, geometry, hook)
    return state + gate * conv_point(
        tensors, _transformed(tensors, POINT, activations, hook), as_linear=geometry.pointwise_as_linear
    )


def before_conv_point(
    tensors: Tensors, state: Tensor, conditioning: Conditioning, geometry: Geometry, hook: ActivationHook = no_hook
) -> tuple[Tensor, Tensor, Tensor]:
    """A block up to its last operation: (residual stream, input of `conv_point`, gate on its output)."""
    shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation(tensors, conditioning.modulation)
    normed = layer_norm(state, geometry.epsilon) * (1 + scale) + shift
    state = state + gate * linear_attention(tensors, normed.to(state.dtype), geometry, hook)
    state = cross_attention(tensors, state, conditioning, geometry, hook) + state
    normed = layer_norm(state, geometry.epsilon) * (1 + ff_scale) + ff_shift
    return state, gated(tensors, normed, conditioning, geometry, hook), ff_gate


def modulation(tensors: Tensors, timestep: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale and gate of the self-attention, then of the feed-forward; each (B, 1, C)."""
    values = tensors["scale_shift_table"][None] + timestep.reshape(timestep.shape[0], 6, -1)
    return tuple(values.chunk(6, dim=1))


def layer_norm(state: Tensor, epsilon: float) -> Tensor:
    """LayerNorm over channels, without weights."""
    return F.layer_norm(state, state.shape[-1:], eps=epsilon)


def rms_norm(values: Tensor, weight: Tensor, epsilon: float = QK_EPSILON) -> Tensor:
    """RMSNorm over all channels (heads together), with the variance in fp32."""
    variance = values.to(torch.float32).pow(2).mean(-1, keepdim=True)
    scaled = values * torch.rsqrt(variance + epsilon)
    if weight.dtype in {torch.float16, torch.bfloat16}:
        scaled = scaled.to(weight.dtype)
    return scaled * weight


def projections(
    tensors: Tensors, part: str, query_source: Tensor, key_source: Tensor, hook: ActivationHook
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries from `query_source`, keys and values from `key_source`, normalised if the model has QK norm."""
    query, key, value = (
        _linear(tensors, f"{part}.{name}", source, hook)
        for name, source in (("to_q", query_source), ("to_k", key_source), ("to_v", key_source))
    )
    if f"{part}.norm_q.weight" in tensors:
        query = rms_norm(query, tensors[f"{part}.norm_q.weight"])
        key = rms_norm(key, tensors[f"{part}.norm_k.weight"])
    return query, key, value


def _linear(tensors: Tensors, name: str, activations: Tensor, hook: ActivationHook) -> Tensor:
    weight = f"{name}.weight"
    return F.linear(_transformed(tensors, weight, activations, hook), tensors[weight], tensors.get(f"{name}.bias"))


def _transformed(tensors: Tensors, name: str, activations: Tensor, hook: ActivationHook) -> Tensor:
    hook(name, activations)
    transform = tensors.transforms.get(name) if isinstance(tensors, QuantizedBlock) else None
    return transform(activations) if transform else activations


def linear_attention(tensors: Tensors, state: Tensor, geometry: Geometry, hook: ActivationHook) -> Tensor:
    """Linear attention in fp32: ReLU(q) times the sum over tokens of v ReLU(k)', divided by the same sum with v = 1."""
    query, key, value = projections(tensors, "attn1", state, state, hook)
    heads = (geometry.heads, -1)
    query = F.relu(query.transpose(1, 2).unflatten(1, heads)).float()
    key = F.relu(key.transpose(1, 2).unflatten(1, heads).transpose(2, 3)).float()
    value = value.transpose(1, 2).unflatten(1, heads).float()
    ones = F.pad(value, (0, 0, 0, 1), mode="constant", value=1.0)
    mixed = torch.matmul(torch.matmul(ones, key), query)
    divisor = mixed[:, :, -1:]
    divisor = divisor.clamp(min=LINEAR_EPSILON) if geometry.clamp_denominator else divisor + LINEAR_EPSILON
    mixed = mixed[:, :, :-1] / divisor
    result = _linear(tensors, "attn1.to_out.0", mixed.flatten(1, 2).transpose(1, 2).to(state.dtype), hook)
    return result.clip(-LARGEST_HALF, LARGEST_HALF) if state.dtype == torch.float16 else result


def cross_attention(
    tensors: Tensors, state: Tensor, conditioning: Conditioning, geometry: Geometry, hook: ActivationHook
) -> Tensor:
    """Softmax attention from image tokens to caption tokens."""
    query, key, value = (
        part.unflatten(-1, (geometry.cross_heads, -1)).transpose(1, 2)
        for part in projections(tensors, "attn2", state, conditioning.caption, hook)
    )
    bias = None if conditioning.bias is None else conditioning.bias[:, None].expand(-1, geometry.cross_heads, -1, -1)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return _linear(tensors, "attn2.to_out.0", mixed.transpose(1, 2).flatten(2).to(query.dtype), hook)


def gated(
    tensors: Tensors, normed: Tensor, conditioning: Conditioning, geometry: Geometry, hook: ActivationHook
) -> Tensor:
    """GLUMBConv up to `conv_point`: 1x1 expansion, depthwise 3x3, one half gating the other. (B, H, height, width)."""
    features = normed.unflatten(1, (conditioning.height, conditioning.width)).permute(0, 3, 1, 2)
    features = _transformed(tensors, INVERTED, features, hook)
    wide = F.silu(
        _pointwise(
            features,
            tensors[INVERTED],
            tensors["ff.conv_inverted.bias"],
            as_linear=geometry.pointwise_as_linear,
        )
    )
    depthwise_dtype = geometry.depthwise_dtype or wide.dtype
    depthwise, bias = (tensors[f"ff.conv_depth.{part}"].to(depthwise_dtype) for part in ("weight", "bias"))
    mixed = F.conv2d(wide.to(depthwise_dtype), depthwise, bias, padding=1, groups=depthwise.shape[0]).to(wide.dtype)
    values, gate = mixed.chunk(2, dim=1)
    return values * F.silu(gate)


def conv_point(tensors: Tensors, activations: Tensor, *, as_linear: bool = False) -> Tensor:
    """The block's last operation, `conv_point`: (B, H, height, width) -> (B, N, C)."""
    return _pointwise(activations, tensors[POINT], None, as_linear=as_linear).flatten(2, 3).permute(0, 2, 1)


def _pointwise(features: Tensor, weight: Tensor, bias: Tensor | None, *, as_linear: bool) -> Tensor:
    """A 1x1 convolution; if `as_linear`, computed as a linear layer over positions."""
    if not as_linear:
        return F.conv2d(features, weight, bias)
    return F.linear(features.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
