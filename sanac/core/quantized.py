"""quant.json: which weights of a component are quantized, how, and why others are not. Read as an attack.

It lies beside the weights and is the one source of truth about them: the torch model, the graph and the report are made
from it. A weight `a.b.weight` is stored as `a.b._weight_qdata` and `a.b._weight_scale` (torchao's own names, which has
`a.b._weight_zero_point` besides, all zeros here). It carries a digest of its own content, and of the headers of the
weight files that it belongs to: edited, or beside another model's weights, it is refused.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from sanac.core import jsonfile
from sanac.core.errors import BadInput
from sanac.core.header import Header, TensorRef

FILE = "quant.json"
SCHEMA = 1
PACKED_FILE = "quantized"  # stem of weights that only sanac reads: stock diffusers finds none, instead of nonsense
FORMS = {"int8": ("I8", 1), "int4": ("U8", 2), "fp8": ("F8_E4M3", 1)}  # how stored, values per stored one
SCALES = ("BF16", "F16", "F32")
TORCHAO, PACKED = "torchao", "packed"
_ZERO_POINT = "zero_point"
_WORD = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Packing:
    """How one weight is quantized."""

    scheme: str
    form: str  # int8, int4, fp8
    block: int | None  # inputs that share a scale; None: all of an output channel
    shape: tuple[int, ...]  # of the weight
    rounding: str

    @property
    def columns(self) -> int:
        """Inputs of one output channel."""
        return math.prod(self.shape[1:])

    @property
    def width(self) -> int:
        """How many of them share a scale."""
        return self.block or self.columns

    @property
    def groups(self) -> int:
        """Scales of one output channel; the last group may be shorter."""
        return -(-self.columns // self.width)

    def stored_shape(self, layout: str) -> tuple[int, ...]:
        """Of `qdata`: four-bit values lie two to a byte, along the inputs."""
        per = FORMS[self.form][1] if layout == PACKED else 1
        return self.shape if per == 1 else (self.shape[0], -(-self.columns // per))

    def scale_shape(self, layout: str) -> tuple[int, ...]:
        """Of `scale`: torchao keeps the weight's rank."""
        rest = (1,) * (len(self.shape) - 2) if layout == TORCHAO else ()
        return (self.shape[0], self.groups, *rest)


@dataclass(frozen=True)
class Quantized:
    """What quant.json says."""

    layout: str  # torchao: diffusers reads it, with torchao; packed: sanac reads it
    dtype: str  # of the weights before, and when they are computed with
    weights: Mapping[str, Packing]  # by the weight's name
    left: Mapping[str, str]  # weight -> why it was not quantized
    headers: Mapping[str, str]  # weight file -> digest of its header

    def to_json(self) -> dict[str, Any]:
        """The content of the file, sealed."""
        content = {"schema": SCHEMA, **asdict(self)}
        return content | {"seal": _digest(jsonfile.canonical(content))}


def part_name(weight: str, part: str) -> str:
    """`a.b.weight`, `scale` -> `a.b._weight_scale`."""
    stem, _, last = weight.rpartition(".")
    return f"{stem}._{last}_{part}"


def header_digest(raw: bytes) -> str:
    """What a weight file is known by: its header's JSON."""
    return _digest(raw)


def _digest(data: bytes) -> str:
    return blake3(data).hexdigest()


def read_quantized(path: Path) -> Quantized:
    """The content of a quant.json, its seal and its form checked."""
    value = jsonfile.read_object(path)
    seal = value.pop("seal", None)
    if seal != _digest(jsonfile.canonical(value)):
        raise BadInput(f"{path} was edited", why="its seal doesn't fit its content", hint="quantize the model again")
    if value.pop("schema", None) != SCHEMA:
        raise BadInput(f"{path} is of another version of sanac", hint="quantize the model again")
    try:
        found = Quantized(**{**value, "weights": {name: _packing(entry) for name, entry in value["weights"].items()}})
        if (found.layout, found.dtype) not in [(layout, dtype) for layout in (TORCHAO, PACKED) for dtype in SCALES]:
            raise ValueError(f"layout {found.layout!r}, dtype {found.dtype!r}")
        if not isinstance(found.left, dict) or not isinstance(found.headers, dict):
            raise ValueError("left and headers are not objects")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is broken", why=str(error), hint="quantize the model again") from error
    return found


def _packing(entry: Mapping[str, Any]) -> Packing:
    found = Packing(**{**entry, "shape": tuple(entry["shape"])})
    words = all(type(w) is str and _WORD.fullmatch(w) for w in (found.scheme, found.form, found.rounding))
    sizes = len(found.shape) >= 2 and all(type(size) is int and size > 0 for size in found.shape)
    sound = words and sizes and found.form in FORMS
    if not sound or not (found.block is None or (type(found.block) is int and found.block > 0)):
        raise ValueError(f"{dict(entry)!r} describes no weight")
    return found


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts of one quantized weight lie."""

    packing: Packing
    stored: TensorRef
    scale: TensorRef
    zero_point: TensorRef | None = None  # torchao's, all zeros

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """All of them, under the names that they have on disk."""
        return tuple(filter(None, (self.stored, self.scale, self.zero_point)))

    @property
    def size(self) -> int:
        """Bytes of them all."""
        return sum(ref.size for ref in self.refs)


def attach(
    found: Quantized, tensors: Mapping[str, TensorRef], headers: Sequence[Header], where: Path
) -> tuple[dict[str, TensorRef], dict[str, Parts]]:
    """(all tensors under the names of the plain model, the quantized ones' parts); BadInput where they disagree."""
    files = {header.path.name: header_digest(header.raw) for header in headers}
    if files != dict(found.headers):
        raise BadInput(
            f"{where / FILE} does not belong to the weights beside it",
            why="it was made for files with other headers",
            hint="quantize the model again",
        )
    plain, parts, problems = dict(tensors), {}, []
    for name, packing in found.weights.items():
        dtype = FORMS[packing.form][0]
        stored, scale = (plain.pop(part_name(name, part), None) for part in ("qdata", "scale"))
        zeros = plain.pop(part_name(name, _ZERO_POINT), None)
        if found.layout == TORCHAO:
            dtype = "F8_E4M3" if packing.form == "fp8" else "I8"
        if stored is None or scale is None:
            problems.append(f"the parts of {name} are missing")
        elif (stored.dtype, stored.shape) != (dtype, packing.stored_shape(found.layout)):
            problems.append(f"{name}: {stored.dtype} {list(stored.shape)} doesn't fit what quant.json says")
        elif scale.dtype not in SCALES or scale.shape != packing.scale_shape(found.layout):
            problems.append(f"the scale of {name}: {scale.dtype} {list(scale.shape)} doesn't fit what quant.json says")
        elif found.layout == TORCHAO and (not zeros or (zeros.dtype, zeros.shape) != ("I8", scale.shape)):
            problems.append(f"the zero points of {name} are missing or misshapen")
        else:
            plain[name] = TensorRef(name, packing.form.upper(), packing.shape, stored.path, stored.start, stored.size)
            parts[name] = Parts(packing, stored, scale, zeros)
    if problems:
        raise BadInput(f"{where} contradicts its quant.json", why=problems[0], problems=problems)
    return plain, parts
