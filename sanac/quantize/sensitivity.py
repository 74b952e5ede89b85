"""How far the velocity is off when some weights are quantized and the others are not.

One sweep over the blocks answers for many questions: up to the first block that a question changes, its states are the
model's own, and are computed once for all.
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

Packings = Mapping[str, WeightSpec]


@dataclass(frozen=True, slots=True)
class QuantAssignment:
    """Weights that are quantized, by name, in the transformer and in the text encoder."""

    transformer: Packings = field(default_factory=dict)
    text_encoder: Packings = field(default_factory=dict)


@dataclass(frozen=True)
class SensitivityEvaluator:
    """Where questions are answered."""

    states: CalibrationStates
    prompts: tuple[str, ...]
    encoder: Encoder | None  # for questions about the text encoder
    dtypes: Mapping[str, torch.dtype]  # of scales, by component
    together: int  # questions whose states are held at a time

    def errors(self, questions: Sequence[QuantAssignment]) -> Iterator[list[float]]:
        """The relative square error of the guided velocity under each question, some at a time, in order."""
        for start in range(0, len(questions), self.together):
            some = questions[start : start + self.together]
            if any(question.text_encoder for question in some):  # each has captions of its own
                for question in some:
                    yield self._errors([question])
            else:
                yield self._errors(some)

    def _errors(self, questions: Sequence[QuantAssignment]) -> list[float]:
        states = self.states
        if questions[0].text_encoder:
            states = replace(states, captions=self._captions(questions[0].text_encoder))
        parts = [(part, moment) for part in states.parts() for moment in part.moments]
        starts = [start for part, moment in parts for start in part.starts(moment)]
        plain, apart = [start.state for start in starts], dict[int, list[Tensor]]()
        for index, tensors in states.blocks.sweep(range(len(states.blocks))):
            for place, question in enumerate(questions):
                changed = self._changed(index, tensors, question.transformer)
                if changed or place in apart:
                    used, given = {**tensors, **changed}, apart.get(place, plain)
                    apart[place] = [
                        block(used, state, start.condition, states.geometry)
                        for state, start in zip(given, starts, strict=True)
                    ]
            if len(apart) < len(questions):
                plain = [
                    block(tensors, state, start.condition, states.geometry)
                    for state, start in zip(plain, starts, strict=True)
                ]
        found = []
        for place in range(len(questions)):
            given = [
                head(states.outside, state, start) for state, start in zip(apart.get(place, plain), starts, strict=True)
            ]
            pairs = zip(parts, given[::2], given[1::2], strict=True)
            errors = [relative_error(states.guided(*both), moment.velocity) for (_, moment), *both in pairs]
            found.append(float(torch.cat(errors).mean()))
        return found

    def _changed(self, index: int, tensors: Tensors, packings: Packings) -> dict[str, Tensor]:
        places = ((split_block(name), packing) for name, packing in packings.items())
        mine = {place[1]: packing for place, packing in places if place and place[0] == index}
        return {
            rest: fake_quantize(tensors[rest], packing, self.dtypes["transformer"]) for rest, packing in mine.items()
        }

    def _captions(self, packings: Packings) -> EncodedPrompts:
        assert self.encoder is not None
        with fake_quantized(self.encoder.module, packings, self.dtypes["text_encoder"]):
            found = self.encoder(self.prompts)
        return found.to(self.states.blocks.device, self.states.blocks.dtype)


def fake_quantize(weight: Tensor, packing: WeightSpec, dtype: torch.dtype) -> Tensor:
    """A weight as it will be computed with."""
    scale = ROUNDINGS[packing.rounding](weight, packing, dtype)
    return dequantize_weight(quantize_weight(weight, scale, packing), scale, packing, weight.dtype)


@contextmanager
def fake_quantized(module: nn.Module, packings: Packings, dtype: torch.dtype) -> Iterator[None]:
    """A module whose weights are these for a while."""
    before = {name: module.get_parameter(name).data for name in packings}
    try:
        for name, packing in packings.items():
            module.get_parameter(name).data = fake_quantize(before[name], packing, dtype)
        yield
    finally:
        for name, weight in before.items():
            module.get_parameter(name).data = weight
