"""The quantization schemes by name: dtype, group size, layout, rounding, activation quantization."""

import math
from dataclasses import dataclass

from sanac.core.checkpoint.quant_json import PACKED, STATIC, TOKEN, TORCHAO, ActivationSpec, WeightSpec
from sanac.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantization scheme: how weights, and possibly activations, are quantized."""

    name: str
    dtype: str
    group_size: int | None  # default group size; None: one scale per output channel
    group_sizes: tuple[int, ...]  # group sizes that the user may choose
    layout: str
    rounding: str  # default rounding
    activations: str | None = None  # activation quantization, static or token; None: weights only

    def refusal(self, shape: tuple[int, ...], group_size: int | None) -> str:
        """Why a weight of this shape can't be quantized with this group size; '' if it can."""
        if self.layout != TORCHAO or not group_size:
            return ""
        if math.prod(shape[2:]) != 1:
            return f"--block {group_size}: torchao has no blocks for kernels of {'x'.join(map(str, shape[2:]))}"
        return f"--block {group_size} doesn't divide its {shape[1]} inputs" if shape[1] % group_size else ""

    def weight_spec(
        self, shape: tuple[int, ...], group_size: int | None, rounding: str | None, *, smooth: bool = False
    ) -> WeightSpec:
        """The WeightSpec of a weight of this shape; None means the scheme's default."""
        group_size = group_size or self.group_size
        shared = group_size if group_size and group_size < math.prod(shape[1:]) else None
        activations = ActivationSpec(self.activations, smooth) if self.activations else None
        return WeightSpec(self.name, self.dtype, shared, shape, rounding or self.rounding, activations)


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8-wo", "int8", None, (32, 64, 128), TORCHAO, "nearest"),
        Scheme("int4-wo", "int4", 64, (32, 64, 128), PACKED, "search"),
        Scheme("fp8-wo", "fp8", None, (32, 64, 128), PACKED, "nearest"),
        Scheme("int8", "int8", None, (), PACKED, "nearest", STATIC),
        Scheme("int8-dynamic", "int8", None, (), PACKED, "nearest", TOKEN),
        Scheme("fp8", "fp8", None, (), PACKED, "tensor", STATIC),
        Scheme("fp8-dynamic", "fp8", None, (), PACKED, "nearest", TOKEN),
    )
}


def scheme_of(name: str, group_size: int | None = None) -> Scheme:
    """The scheme `name`; UsageError if it doesn't exist or doesn't support this group size."""
    if name not in SCHEMES:
        raise UsageError(f"there is no scheme {name!r}", hint=f"pass one of {', '.join(SCHEMES)}")
    found = SCHEMES[name]
    if group_size is not None and group_size not in found.group_sizes:
        hint = (
            f"pass one of {', '.join(map(str, found.group_sizes))}"
            if found.group_sizes
            else "it has one scale per output channel"
        )
        raise UsageError(f"{name} doesn't support --group-size {group_size}", hint=hint)
    return found
