"""quant.json: which weights of a component are quantized, how, and why others are not. Untrusted input.

It is stored next to the weights as their only description: the torch model, the ONNX graph and the report are built
from it. A weight `a.b.weight` is stored as `a.b._weight_qdata` and `a.b._weight_scale` (torchao's own
names, whose `a.b._weight_zero_point` is all zeros here); where the activations are smoothed, the exponents are in
`a.b._weight_smooth`. The file carries a digest of its own content and of the headers of its weight files: an edited
quant.json, or one next to another model's weights, is refused.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from sanac.core import json_files
from sanac.core.errors import InvalidInput
from sanac.core.safetensors_header import Header, TensorRef

FILE = "quant.json"
SCHEMA = 2
PACKED_FILE = "quantized"  # stem of weights that only sanac can read: stock diffusers finds no weights at all
QUANT_DTYPES = {"int8": ("I8", 1), "int4": ("U8", 2), "fp8": ("F8_E4M3", 1)}  # storage dtype, values per stored item
SCALES = ("BF16", "F16", "F32")
TORCHAO, PACKED = "torchao", "packed"
STATIC, TOKEN = "static", "token"
_FIELDS = {  # of a weight's entry: the key in the file, the field here
    "scheme": "scheme",
    "form": "dtype",
    "block": "group_size",
    "shape": "shape",
    "rounding": "rounding",
    "given": "activations",
}
_LEAST = 2.0**-126  # smallest normal fp32 number
_WORD = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class ActivationSpec:
    """How a layer's activations (the inputs that its weight multiplies) are quantized."""

    kind: str  # static: one scale per tensor, from calibration; token: one dynamic scale per token
    smooth: bool  # SmoothQuant: channels are divided by powers of two, and the weight's inputs multiplied by them
    scale: float | None = None  # of kind static


@dataclass(frozen=True, slots=True)
class WeightSpec:
    """How one weight is quantized."""

    scheme: str
    dtype: str  # int8, int4, fp8
    group_size: int | None  # group size: inputs that share a scale; None: one scale per output channel
    shape: tuple[int, ...]  # of the original weight
    rounding: str
    activations: ActivationSpec | None = None  # None: activations are not quantized

    @property
    def columns(self) -> int:
        """Number of weights of one output channel."""
        return math.prod(self.shape[1:])

    @property
    def width(self) -> int:
        """Number of weights that share a scale."""
        return self.group_size or self.columns

    @property
    def groups(self) -> int:
        """Number of scales of one output channel; the last group may be shorter."""
        return -(-self.columns // self.width)

    def stored_shape(self, layout: str) -> tuple[int, ...]:
        """Shape of `qdata`; the packed layout stores two 4-bit values per byte, along the inputs."""
        per = QUANT_DTYPES[self.dtype][1] if layout == PACKED else 1
        return self.shape if per == 1 else (self.shape[0], -(-self.columns // per))

    def scale_shape(self, layout: str) -> tuple[int, ...]:
        """Shape of `scale`; torchao's layout keeps the weight's rank."""
        rest = (1,) * (len(self.shape) - 2) if layout == TORCHAO else ()
        return (self.shape[0], self.groups, *rest)


@dataclass(frozen=True)
class QuantConfig:
    """The content of quant.json."""

    layout: str  # torchao: diffusers can load it with torchao; packed: only sanac can
    dtype: str  # of the weights before quantization, and after dequantization
    weights: Mapping[str, WeightSpec]  # by weight name
    skipped: Mapping[str, str]  # weight -> why it was not quantized
    headers: Mapping[str, str]  # weight file -> digest of its header

    def to_json(self) -> dict[str, Any]:
        """The content of the file, with its seal."""
        content = {
            "schema": SCHEMA,
            "layout": self.layout,
            "dtype": self.dtype,
            "weights": {name: _weight_json(spec) for name, spec in self.weights.items()},
            "left": dict(self.skipped),
            "headers": dict(self.headers),
        }
        return content | {"seal": _digest(json_files.canonical(content))}


def _weight_json(spec: WeightSpec) -> dict[str, Any]:
    """A weight's entry, under the file's keys."""
    fields = asdict(spec)
    return {key: fields[name] for key, name in _FIELDS.items()}


def part_name(weight: str, part: str) -> str:
    """Stored name of a part of a quantized weight: `a.b.weight`, `scale` -> `a.b._weight_scale`."""
    stem, _, last = weight.rpartition(".")
    return f"{stem}._{last}_{part}"


def header_digest(raw: bytes) -> str:
    """The digest that identifies a weight file: that of its header's JSON."""
    return _digest(raw)


def _digest(data: bytes) -> str:
    return blake3(data).hexdigest()


def read_quantized(path: Path) -> QuantConfig:
    """The content of a quant.json; InvalidInput if its seal, version or form is wrong."""
    value = json_files.read_object(path)
    seal = value.pop("seal", None)
    if seal != _digest(json_files.canonical(value)):
        raise InvalidInput(
            f"{path} was edited", why="its seal doesn't match its content", hint="quantize the model again"
        )
    if value.pop("schema", None) != SCHEMA:
        raise InvalidInput(f"{path} was written by another version of sanac", hint="quantize the model again")
    try:
        weights = {name: _weight_spec(entry) for name, entry in value.pop("weights").items()}
        found = QuantConfig(weights=weights, skipped=value.pop("left"), **value)
        if (found.layout, found.dtype) not in [(layout, dtype) for layout in (TORCHAO, PACKED) for dtype in SCALES]:
            raise ValueError(f"layout {found.layout!r}, dtype {found.dtype!r}")
        if found.layout == TORCHAO and any(spec.activations for spec in found.weights.values()):
            raise ValueError("the torchao layout can't have quantized activations")
        if not isinstance(found.skipped, dict) or not isinstance(found.headers, dict):
            raise ValueError("left and headers are not objects")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path} is broken", why=str(error), hint="quantize the model again") from error
    return found


def _weight_spec(entry: Mapping[str, Any]) -> WeightSpec:
    activations = None if entry["given"] is None else ActivationSpec(**entry["given"])
    fields = {_FIELDS[key]: value for key, value in entry.items()}
    spec = WeightSpec(**{**fields, "shape": tuple(entry["shape"]), "activations": activations})
    words = all(type(w) is str and _WORD.fullmatch(w) for w in (spec.scheme, spec.dtype, spec.rounding))
    sizes = len(spec.shape) >= 2 and all(type(size) is int and size > 0 for size in spec.shape)
    sound = words and sizes and spec.dtype in QUANT_DTYPES
    if not sound or not (spec.group_size is None or (type(spec.group_size) is int and spec.group_size > 0)):
        raise ValueError(f"{dict(entry)!r} is not a valid weight entry")
    if activations and (spec.group_size is not None or not _sound(activations, spec)):
        raise ValueError(f"{entry['given']!r} is not a valid activation entry for {spec.dtype} weights")
    return spec


def _sound(activations: ActivationSpec, spec: WeightSpec) -> bool:
    words = spec.dtype in {"int8", "fp8"} and activations.kind in {STATIC, TOKEN}
    if not words or type(activations.smooth) is not bool:
        return False
    if activations.kind == TOKEN:
        return activations.scale is None
    whole = spec.dtype != "fp8" or spec.rounding == "tensor"
    return whole and type(activations.scale) is float and _LEAST <= activations.scale <= 1 / _LEAST


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """The stored tensors of one quantized weight."""

    spec: WeightSpec
    stored: TensorRef
    scale: TensorRef
    zero_point: TensorRef | None = None  # torchao layout only, all zeros
    smooth: TensorRef | None = None  # one exponent of two per input

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """All stored tensors of the weight, under their names on disk."""
        return tuple(filter(None, (self.stored, self.scale, self.zero_point, self.smooth)))

    @property
    def size(self) -> int:
        """Bytes of all stored tensors of the weight."""
        return sum(ref.size for ref in self.refs)


def attach(
    found: QuantConfig, tensors: Mapping[str, TensorRef], headers: Sequence[Header], where: Path
) -> tuple[dict[str, TensorRef], dict[str, QuantizedTensor]]:
    """(tensors by unquantized name, stored parts of the quantized ones); InvalidInput if they don't match `found`."""
    files = {header.path.name: header_digest(header.raw) for header in headers}
    if files != dict(found.headers):
        raise InvalidInput(
            f"{where / FILE} does not belong to the weights next to it",
            why="it was written for weight files with other headers",
            hint="quantize the model again",
        )
    plain, parts, problems = dict(tensors), {}, []
    for name, spec in found.weights.items():
        stored, scale, zeros, smooth = (
            plain.pop(part_name(name, part), None) for part in ("qdata", "scale", "zero_point", "smooth")
        )
        if stored is None or scale is None:
            problems.append(f"the parts of {name} are missing")
        elif problem := _misfit(QuantizedTensor(spec, stored, scale, zeros, smooth), found.layout):
            problems.append(f"{name}: {problem}")
        else:
            plain[name] = TensorRef(name, spec.dtype.upper(), spec.shape, stored.path, stored.start, stored.size)
            parts[name] = QuantizedTensor(spec, stored, scale, zeros, smooth)
    if problems:
        raise InvalidInput(f"the weights in {where} don't match quant.json", why=problems[0], problems=problems)
    return plain, parts


def _misfit(parts: QuantizedTensor, layout: str) -> str:
    """Which stored tensor of a weight doesn't match quant.json; '' if all match."""
    spec, stored, scale, zeros, smooth = parts.spec, parts.stored, parts.scale, parts.zero_point, parts.smooth
    dtype = QUANT_DTYPES[spec.dtype][0]
    if layout == TORCHAO:
        dtype = "F8_E4M3" if spec.dtype == "fp8" else "I8"
    if (stored.dtype, stored.shape) != (dtype, spec.stored_shape(layout)):
        return f"{stored.dtype} {list(stored.shape)} doesn't match quant.json"
    if scale.dtype not in SCALES or scale.shape != spec.scale_shape(layout):
        return f"its scale, {scale.dtype} {list(scale.shape)}, doesn't match quant.json"
    if layout == TORCHAO and (not zeros or (zeros.dtype, zeros.shape) != ("I8", scale.shape)):
        return "its zero points are missing or misshapen"
    expected = bool(spec.activations and spec.activations.smooth)
    if expected != bool(smooth):
        return f"its smoothing is {'missing' if expected else 'not in quant.json'}"
    if smooth and (smooth.dtype, smooth.shape) != ("I8", (spec.columns,)):
        return f"its smoothing, {smooth.dtype} {list(smooth.shape)}, doesn't match its number of inputs"
    return ""
