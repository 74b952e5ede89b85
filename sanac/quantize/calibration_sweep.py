"""The calibration sweep: fits each block on activations that the already quantized blocks produced."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sanac.core.checkpoint.quant_json import PACKED, STATIC, QuantConfig, WeightSpec, part_name
from sanac.core.confined import ConfinedPath
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

SAMPLE = 1024  # tokens on which smoothing and ranges are evaluated
_SAME = {  # weight -> the weight whose input it shares
    "attn1.to_k.weight": "attn1.to_q.weight",
    "attn1.to_v.weight": "attn1.to_q.weight",
    "attn2.to_v.weight": "attn2.to_k.weight",
}
_EACH = 7919  # a prime that shifts the sampled tokens from sample to sample


def shared_input_of(rest: str) -> str:
    """The weight that represents all weights of a block with the same input as `rest`."""
    return _SAME.get(rest, rest)


@dataclass(frozen=True, slots=True)
class Fitted:
    """One calibrated weight: quantized values, scales and smoothing exponents."""

    spec: WeightSpec
    scale: Tensor
    stored: Tensor
    exponents: Tensor | None


class Sweep:
    """The hidden states of all prompts, as produced by the blocks quantized so far."""

    def __init__(self, key: str, quant_config: QuantConfig, ranges: str, states: CalibrationStates) -> None:
        """Embed all prompts; no block is computed yet."""
        self.key, self.specs, self.ranges, self.geometry = key, quant_config.weights, ranges, states.geometry
        self.layout, self.dtype = quant_config.layout, DTYPES[quant_config.dtype]
        count, moments, branches = len(states.captions), len(states.moments), states.guidance.branches
        self.each = max(
            1, SAMPLE // (branches * count * moments)
        )  # sampled tokens per prompt, step and guidance branch
        self.streams, self.numbers = [], list[range]()
        for first, part in zip(range(0, count, states.batch), states.parts(), strict=True):
            for place, moment in enumerate(part.moments):
                for branch, start in enumerate(part.starts(moment)):
                    self.streams.append(start)
                    begin = (branches * place + branch) * count + first
                    self.numbers.append(range(begin, begin + len(start.state)))

    def advance(self, index: int, tensors: Tensors, file: ConfinedPath) -> None:
        """Calibrate block `index`, or read it from `file`, and run the hidden states through the quantized block."""
        specs = {rest: self.specs[name] for rest in tensors if (name := block_name(index, rest)) in self.specs}
        fitted = self._read(file, index, tensors, specs)
        if fitted is None:
            fitted = self._fit(tensors, specs, index) if specs else {}
            self._write(file, index, fitted)
        weights = {rest: dequantize_weight(f.stored, f.scale, f.spec, torch.float32) for rest, f in fitted.items()}
        transforms = {
            rest: ActivationQuantizer(found.spec, found.exponents)
            for rest, found in fitted.items()
            if found.spec.activations
        }
        quantized_block = QuantizedBlock({**tensors, **weights}, transforms)
        for number, start in enumerate(self.streams):
            self.streams[number] = replace(
                start, state=block(quantized_block, start.state, start.conditioning, self.geometry)
            )

    def _fit(self, tensors: Tensors, specs: Mapping[str, WeightSpec], index: int) -> dict[str, Fitted]:
        recorders = {shared_input_of(rest): _InputRecorder(spec, self.each) for rest, spec in specs.items()}
        for start, numbers in zip(self.streams, self.numbers, strict=True):
            hook = partial(_record, recorders, numbers, start.conditioning)
            block(tensors, start.state, start.conditioning, self.geometry, hook)
        found: dict[str, Fitted] = {}
        for first, recorder in recorders.items():
            group = {rest: tensors[rest] for rest in specs if shared_input_of(rest) == first}
            recorder.check([block_name(index, rest) for rest in group])
            activations, exponents = recorder.spec.activations, None
            if activations:
                matrices = [weight.flatten(1) for weight in group.values()]
                activations, exponents = fit_activations(
                    recorder.seen, matrices, recorder.spec, self.dtype, self.ranges
                )
            solved = order_and_factor(recorder.gram_of(exponents)) if recorder.gram is not None else None
            for rest, weight in group.items():
                found[rest] = self._fitted(
                    weight, replace(specs[rest], activations=activations), exponents, solved=solved
                )
        return found

    def _fitted(
        self,
        weight: Tensor,
        spec: WeightSpec,
        exponents: Tensor | None,
        stored: Tensor | None = None,
        solved: tuple[Tensor, Tensor] | None = None,
    ) -> Fitted:
        weight = smoothed_weight(weight, exponents)
        scale = ROUNDINGS[spec.rounding](weight, spec, self.dtype)
        if solved:
            stored = corrected(weight, scale, *solved, spec)
        return Fitted(spec, scale, quantize_weight(weight, scale, spec) if stored is None else stored, exponents)

    def _read(
        self, file: ConfinedPath, index: int, tensors: Tensors, specs: Mapping[str, WeightSpec]
    ) -> dict[str, Fitted] | None:
        """Calibrated weights of a block from the file of a stopped run; None if there is none for this key."""
        try:
            header = read_header(Path(file))
        except InvalidInput:
            return None
        if header.metadata.get("key") != self.key:
            return None
        found = {}
        for rest, spec in specs.items():
            fit, weight = fit_in(header, block_name(index, rest)), tensors[rest]
            exponents, stored = (map_tensor(ref).to(weight.device) if ref else None for ref in (fit.smooth, fit.stored))
            found[rest] = self._fitted(weight, fit.applied_to(spec), exponents, stored)
        return found

    def _write(self, file: ConfinedPath, index: int, fitted: Mapping[str, Fitted]) -> None:
        """Write GPTQ values, smoothing exponents and static scales of a block; the rest follows from the weights."""
        tensors, scales = {}, {}
        for rest, found in fitted.items():
            name = block_name(index, rest)
            if found.spec.rounding == "gptq":
                values = pack(found.stored) if self.layout == PACKED and found.spec.dtype == "int4" else found.stored
                tensors[part_name(name, "qdata")] = values.view(found.spec.stored_shape(self.layout))
            if found.exponents is not None:
                tensors[part_name(name, "smooth")] = found.exponents
            if found.spec.activations and found.spec.activations.scale:
                scales[name] = found.spec.activations.scale
        save_tensors(tensors, file, {"key": self.key, "scales": json.dumps(scales)})


def fit_in(header: Header, name: str) -> CalibratedWeight:
    """Calibration result of the weight `name` in a block's file."""
    stored, smooth = (header.tensors.get(part_name(name, part)) for part in ("qdata", "smooth"))
    return CalibratedWeight(stored, smooth, json.loads(header.metadata["scales"]).get(name))


@dataclass
class _InputRecorder:
    """Activation statistics of a group of layers that share their input, collected during a block's forward."""

    spec: WeightSpec  # of one layer of the group
    tokens_each: int  # tokens kept per sample
    gram: Tensor | None = None  # X'X, one row of X per token
    _rows: dict[int, Tensor] = field(default_factory=dict)
    _largest: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Accumulate the Gram matrix and channel maxima over the tokens of some samples."""
        if self.spec.rounding == "gptq":
            gram = (rows.T @ rows).double()
            self.gram = gram if self.gram is None else self.gram + gram
        if self.spec.activations:
            largest = rows.abs().amax(dim=0)
            self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def keep(self, rows: Tensor, number: int) -> None:
        """Keep some tokens of one sample; which ones depends on its number alone, not on the batching."""
        if self.spec.activations and len(rows):
            count = min(len(rows), self.tokens_each)
            self._rows[number] = rows[(torch.arange(count) * len(rows) // count + number * _EACH) % len(rows)]

    @property
    def seen(self) -> ActivationSample:
        """The kept tokens and the largest magnitude of each channel."""
        assert self._largest is not None
        return ActivationSample(torch.cat([self._rows[number] for number in sorted(self._rows)]), self._largest)

    def check(self, names: Sequence[str]) -> None:
        """Raise InvalidInput if the activations can't be calibrated on: NaN, infinite, or all zero."""
        power = self.gram.diagonal() if self.gram is not None else self._largest
        assert power is not None
        if not torch.isfinite(power).all():
            raise InvalidInput(f"the activations of {names[0]} are NaN or infinite", hint="sanac inspect MODEL --scan")
        if self.spec.activations and self.spec.activations.kind == STATIC and not power.any():
            hint = " ".join(f"--skip {name}" for name in names)
            raise InvalidInput(
                f"the activations of {names[0]} are all zero", why="a static scale needs a range", hint=hint
            )

    def gram_of(self, exponents: Tensor | None) -> Tensor:
        """Gram matrix X'X of the smoothed activations."""
        assert self.gram is not None
        if exponents is None:
            return self.gram
        spread = factors(-exponents, torch.float64)
        return self.gram * spread * spread[:, None]


def _record(
    recorders: Mapping[str, _InputRecorder], numbers: range, condition: Conditioning, name: str, activations: Tensor
) -> None:
    if name not in recorders:
        return
    samples = list(channels_last(activations).flatten(1, -2))
    if name == "attn2.to_k.weight" and condition.bias is not None:
        samples = [rows[bias == 0] for rows, bias in zip(samples, condition.bias[:, 0], strict=True)]  # no padding
    recorders[name].add(torch.cat(samples))
    for number, rows in zip(numbers, samples, strict=True):
        recorders[name].keep(rows, number)
