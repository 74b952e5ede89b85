"""Velocity error when only some weights are quantized, for many assignments in one sweep over the blocks.

Up to the first block that an assignment changes, its hidden states equal the unquantized model's, which are computed
once for all assignments.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sanac.core.checkpoint.quant_json import WeightSpec
from sanac.core.family.architecture import split_block
from sanac.nn.blocks.block import Tensors, block
from sanac.nn.blocks.embed_head import head
from sanac.nn.calibration.block_subsets import relative_error
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.calibration.text_encoding import EncodedPrompts, Encoder
from sanac.nn.quant.weights import ROUNDINGS, dequantize_weight, quantize_weight

Specs = Mapping[str, WeightSpec]


@dataclass(frozen=True, slots=True)
class QuantAssignment:
    """The weights to quantize, by name, in the transformer and in the text encoder."""

    transformer: Specs = field(default_factory=dict)
    text_encoder: Specs = field(default_factory=dict)


@dataclass(frozen=True)
class SensitivityEvaluator:
    """Evaluates quantization assignments on calibration states."""

    states: CalibrationStates
    prompts: tuple[str, ...]
    encoder: Encoder | None  # for assignments of the text encoder
    dtypes: Mapping[str, torch.dtype]  # component -> dtype of its scales
    at_once: int  # assignments evaluated per sweep

    def errors(self, assignments: Sequence[QuantAssignment]) -> Iterator[list[float]]:
        """Relative squared error of the guided velocity under each assignment, yielded in order, one list per sweep."""
        for start in range(0, len(assignments), self.at_once):
            some = assignments[start : start + self.at_once]
            if any(assignment.text_encoder for assignment in some):  # each assignment encodes its own captions
                for assignment in some:
                    yield self._errors([assignment])
            else:
                yield self._errors(some)

    def _errors(self, assignments: Sequence[QuantAssignment]) -> list[float]:
        states = self.states
        if assignments[0].text_encoder:
            states = replace(states, captions=self._captions(assignments[0].text_encoder))
        parts = [(part, moment) for part in states.parts() for moment in part.moments]
        starts = [start for part, moment in parts for start in part.starts(moment)]
        plain, diverged = [start.state for start in starts], dict[int, list[Tensor]]()
        for index, tensors in states.blocks.sweep(range(len(states.blocks))):
            for place, assignment in enumerate(assignments):
                changed = self._changed(index, tensors, assignment.transformer)
                if changed or place in diverged:
                    used, current = {**tensors, **changed}, diverged.get(place, plain)
                    diverged[place] = [
                        block(used, state, start.conditioning, states.geometry)
                        for state, start in zip(current, starts, strict=True)
                    ]
            if len(diverged) < len(assignments):
                plain = [
                    block(tensors, state, start.conditioning, states.geometry)
                    for state, start in zip(plain, starts, strict=True)
                ]
        found = []
        for place in range(len(assignments)):
            current = [
                head(states.outside, state, start)
                for state, start in zip(diverged.get(place, plain), starts, strict=True)
            ]
            pairs = zip(parts, states.guided(current), strict=True)
            errors = [relative_error(guided, moment.velocity) for (_, moment), guided in pairs]
            found.append(float(torch.cat(errors).mean()))
        return found

    def _changed(self, index: int, tensors: Tensors, specs: Specs) -> dict[str, Tensor]:
        places = ((split_block(name), spec) for name, spec in specs.items())
        mine = {place[1]: spec for place, spec in places if place and place[0] == index}
        return {rest: fake_quantize(tensors[rest], spec, self.dtypes["transformer"]) for rest, spec in mine.items()}

    def _captions(self, specs: Specs) -> EncodedPrompts:
        assert self.encoder is not None
        with fake_quantized(self.encoder.module, specs, self.dtypes["text_encoder"]):
            found = self.encoder(self.prompts)
        return found.to(self.states.blocks.device, self.states.blocks.dtype)


def fake_quantize(weight: Tensor, spec: WeightSpec, dtype: torch.dtype) -> Tensor:
    """A weight quantized and dequantized."""
    scale = ROUNDINGS[spec.rounding](weight, spec, dtype)
    return dequantize_weight(quantize_weight(weight, scale, spec), scale, spec, weight.dtype)


@contextmanager
def fake_quantized(module: nn.Module, specs: Specs, dtype: torch.dtype) -> Iterator[None]:
    """Replace the listed weights of a module by fake-quantized ones within the context."""
    before = {name: module.get_parameter(name).data for name in specs}
    try:
        for name, spec in specs.items():
            module.get_parameter(name).data = fake_quantize(before[name], spec, dtype)
        yield
    finally:
        for name, weight in before.items():
            module.get_parameter(name).data = weight
