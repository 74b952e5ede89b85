"""The schemes by name: how many bits, what shares a scale, and who can read the result."""

import math
from dataclasses import dataclass

from sanac.core.checkpoint.quant_json import PACKED, STATIC, TOKEN, TORCHAO, ActivationSpec, WeightSpec
from sanac.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store weights."""

    name: str
    form: str
    block: int | None  # inputs that share a scale, unless the user says otherwise; None: all of an output channel
    blocks: tuple[int, ...]  # that may be asked for
    layout: str
    rounding: str  # unless the user says otherwise
    given: str | None = None  # how what weights are multiplied by is quantized, too; None: it stays as it is

    def refusal(self, shape: tuple[int, ...], block: int | None) -> str:
        """Why a weight of this shape can't be stored; '' if it can."""
        if self.layout != TORCHAO or not block:
            return ""
        if math.prod(shape[2:]) != 1:
            return f"--block {block}: torchao has no blocks for kernels of {'x'.join(map(str, shape[2:]))}"
        return f"--block {block} doesn't divide its {shape[1]} inputs" if shape[1] % block else ""

    def packing(
        self, shape: tuple[int, ...], block: int | None, rounding: str | None, *, smooth: bool = False
    ) -> WeightSpec:
        """How a weight of this shape is stored, if nothing speaks against it."""
        block = block or self.block
        shared = block if block and block < math.prod(shape[1:]) else None
        given = ActivationSpec(self.given, smooth) if self.given else None
        return WeightSpec(self.name, self.form, shared, shape, rounding or self.rounding, given)


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


def scheme_of(name: str, block: int | None = None) -> Scheme:
    """The scheme asked for, with its block size."""
    if name not in SCHEMES:
        raise UsageError(f"there is no scheme {name!r}", hint=f"one of {', '.join(SCHEMES)}")
    found = SCHEMES[name]
    if block is not None and block not in found.blocks:
        hint = f"one of {', '.join(map(str, found.blocks))}" if found.blocks else "its products need whole rows"
        raise UsageError(f"--block {block} is not for {name}", hint=hint)
    return found
