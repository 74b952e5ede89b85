"""One sweep over the blocks: each is fitted to what quantizing left of those before it, and takes the states along."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sanac.core.checkpoint.quant_json import PACKED, STATIC, QuantConfig, WeightSpec, part_name
from sanac.core.errors import InvalidInput
from sanac.core.family.architecture import block_name
from sanac.core.safetensors_header import Header, read_header
from sanac.nn.blocks.block import Conditioning, QuantizedBlock, Tensors, block
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.quant.activations import ActivationQuantizer, channels_last, factors
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, pack, quantize_weight
from sanac.nn.save_tensors import save_tensors
from sanac.nn.streaming import DTYPES, map_tensor
from sanac.quantize.activation_scales import ActivationSample, fit_activations, smoothed_weight
from sanac.quantize.gptq import corrected, order_and_factor
from sanac.quantize.tensor_packing import CalibratedWeight

SAMPLE = 1024  # tokens that smoothing and ranges are tried on
_SAME = {  # weights that are given the same as another
    "attn1.to_k.weight": "attn1.to_q.weight",
    "attn1.to_v.weight": "attn1.to_q.weight",
    "attn2.to_v.weight": "attn2.to_k.weight",
}
_EACH = 7919  # a prime: which tokens are kept moves on from sample to sample


def shared_input_of(rest: str) -> str:
    """The weight of a block that stands for all that are given the same."""
    return _SAME.get(rest, rest)


@dataclass(frozen=True, slots=True)
class Fitted:
    """One weight, as looking at its inputs left it."""

    packing: WeightSpec
    scale: Tensor
    stored: Tensor
    exponents: Tensor | None


class Sweep:
    """The states, as quantizing left the blocks so far."""

    def __init__(self, key: str, quantized: QuantConfig, ranges: str, states: CalibrationStates) -> None:
        """Before the first block."""
        self.key, self.packings, self.ranges, self.geometry = key, quantized.weights, ranges, states.geometry
        self.layout, self.dtype = quantized.layout, DTYPES[quantized.dtype]
        count, moments = len(states.captions), len(states.moments)
        self.each = max(1, SAMPLE // (2 * count * moments))  # tokens of a prompt at a moment in a branch
        self.streams, self.numbers = [], list[range]()
        for first, part in zip(range(0, count, states.batch), states.parts(), strict=True):
            for place, moment in enumerate(part.moments):
                for branch, start in enumerate(part.starts(moment)):
                    self.streams.append(start)
                    begin = (2 * place + branch) * count + first
                    self.numbers.append(range(begin, begin + len(start.state)))

    def advance(self, index: int, tensors: Tensors, file: Path) -> None:
        """Fit a block, if that was not done before, and take the states through it."""
        packings = {rest: self.packings[name] for rest in tensors if (name := block_name(index, rest)) in self.packings}
        fitted = self._read(file, index, tensors, packings)
        if fitted is None:
            fitted = self._fit(tensors, packings, index) if packings else {}
            self._write(file, index, fitted)
        weights = {rest: dequantize_weight(f.stored, f.scale, f.packing, torch.float32) for rest, f in fitted.items()}
        uses = {
            rest: ActivationQuantizer(found.packing, found.exponents)
            for rest, found in fitted.items()
            if found.packing.given
        }
        used = QuantizedBlock({**tensors, **weights}, uses)
        for number, start in enumerate(self.streams):
            self.streams[number] = replace(start, state=block(used, start.state, start.condition, self.geometry))

    def _fit(self, tensors: Tensors, packings: Mapping[str, WeightSpec], index: int) -> dict[str, Fitted]:
        looks = {shared_input_of(rest): _Looked(packing, self.each) for rest, packing in packings.items()}
        for start, numbers in zip(self.streams, self.numbers, strict=True):
            look = partial(_look, looks, numbers, start.condition)
            block(tensors, start.state, start.condition, self.geometry, look)
        found: dict[str, Fitted] = {}
        for first, looked in looks.items():
            group = {rest: tensors[rest] for rest in packings if shared_input_of(rest) == first}
            looked.check([block_name(index, rest) for rest in group])
            given, exponents = looked.packing.given, None
            if given:
                matrices = [weight.flatten(1) for weight in group.values()]
                given, exponents = fit_activations(looked.seen, matrices, looked.packing, self.dtype, self.ranges)
            solved = order_and_factor(looked.gram_of(exponents)) if looked.gram is not None else None
            for rest, weight in group.items():
                found[rest] = self._fitted(weight, replace(packings[rest], given=given), exponents, solved=solved)
        return found

    def _fitted(
        self,
        weight: Tensor,
        packing: WeightSpec,
        exponents: Tensor | None,
        stored: Tensor | None = None,
        solved: tuple[Tensor, Tensor] | None = None,
    ) -> Fitted:
        weight = smoothed_weight(weight, exponents)
        scale = ROUNDINGS[packing.rounding](weight, packing, self.dtype)
        if solved:
            stored = corrected(weight, scale, *solved, packing)
        return Fitted(packing, scale, quantize_weight(weight, scale, packing) if stored is None else stored, exponents)

    def _read(
        self, file: Path, index: int, tensors: Tensors, packings: Mapping[str, WeightSpec]
    ) -> dict[str, Fitted] | None:
        """What a stopped run left of a block."""
        try:
            header = read_header(file)
        except InvalidInput:
            return None
        if header.metadata.get("key") != self.key:
            return None
        found = {}
        for rest, packing in packings.items():
            fit, weight = fit_in(header, block_name(index, rest)), tensors[rest]
            exponents, stored = (map_tensor(ref).to(weight.device) if ref else None for ref in (fit.smooth, fit.stored))
            found[rest] = self._fitted(weight, fit.packing(packing), exponents, stored)
        return found

    def _write(self, file: Path, index: int, fitted: Mapping[str, Fitted]) -> None:
        """What does not follow from the weights."""
        tensors, scales = {}, {}
        for rest, found in fitted.items():
            name = block_name(index, rest)
            if found.packing.rounding == "gptq":
                values = pack(found.stored) if self.layout == PACKED and found.packing.form == "int4" else found.stored
                tensors[part_name(name, "qdata")] = values.view(found.packing.stored_shape(self.layout))
            if found.exponents is not None:
                tensors[part_name(name, "smooth")] = found.exponents
            if found.packing.given and found.packing.given.scale:
                scales[name] = found.packing.given.scale
        save_tensors(tensors, file, {"key": self.key, "scales": json.dumps(scales)})


def fit_in(header: Header, name: str) -> CalibratedWeight:
    """What a block's file holds of a weight."""
    stored, smooth = (header.tensors.get(part_name(name, part)) for part in ("qdata", "smooth"))
    return CalibratedWeight(stored, smooth, json.loads(header.metadata["scales"]).get(name))


@dataclass
class _Looked:
    """What layers that share their inputs were given, gathered while a block is computed."""

    packing: WeightSpec  # of one of them
    each: int  # tokens of every sample that are kept
    gram: Tensor | None = None  # X'X, each token a row of X
    _rows: dict[int, Tensor] = field(default_factory=dict)
    _largest: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Tokens of some samples together."""
        if self.packing.rounding == "gptq":
            gram = (rows.T @ rows).double()
            self.gram = gram if self.gram is None else self.gram + gram
        if self.packing.given:
            largest = rows.abs().amax(dim=0)
            self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def keep(self, rows: Tensor, number: int) -> None:
        """Some of one sample's tokens: which, hangs on its number alone, not on what it is computed together with."""
        if self.packing.given and len(rows):
            count = min(len(rows), self.each)
            self._rows[number] = rows[(torch.arange(count) * len(rows) // count + number * _EACH) % len(rows)]

    @property
    def seen(self) -> ActivationSample:
        """Some of the tokens, and the largest value of each channel."""
        assert self._largest is not None
        return ActivationSample(torch.cat([self._rows[number] for number in sorted(self._rows)]), self._largest)

    def check(self, names: Sequence[str]) -> None:
        """BadInput if nothing can be fitted to it."""
        power = self.gram.diagonal() if self.gram is not None else self._largest
        assert power is not None
        if not torch.isfinite(power).all():
            raise InvalidInput(
                f"what {names[0]} is multiplied by is NaN or infinite", hint="sanac inspect MODEL --scan"
            )
        if self.packing.given and self.packing.given.kind == STATIC and not power.any():
            hint = " ".join(f"--leave {name}" for name in names)
            raise InvalidInput(f"what {names[0]} is multiplied by is zero", why="there is no range to find", hint=hint)

    def gram_of(self, exponents: Tensor | None) -> Tensor:
        """X'X of smoothed inputs."""
        assert self.gram is not None
        if exponents is None:
            return self.gram
        spread = factors(-exponents, torch.float64)
        return self.gram * spread * spread[:, None]


def _look(looks: Mapping[str, _Looked], numbers: range, condition: Conditioning, name: str, given: Tensor) -> None:
    if name not in looks:
        return
    samples = list(channels_last(given).flatten(1, -2))
    if name == "attn2.to_k.weight" and condition.bias is not None:
        samples = [rows[bias == 0] for rows, bias in zip(samples, condition.bias[:, 0], strict=True)]  # no padding
    looks[name].add(torch.cat(samples))
    for number, rows in zip(numbers, samples, strict=True):
        looks[name].keep(rows, number)
