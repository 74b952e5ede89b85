"""Cost of `sanac quantize` in a recipe."""

from dataclasses import replace

from sanac.core.cost import OVERHEAD, STREAMED, Cost, ModelShape
from sanac.quantize.settings import QuantizeSettings

_BITS = {"int8": 9.1, "fp8": 9.1, "int4": 5.9}  # per weight, with scales and the layers that are skipped
_PROMPTS = 32


def quantize(settings: QuantizeSettings, before: ModelShape, _others: int) -> Cost:
    """Cost of writing a quantized copy, plus calibration if activations or errors are needed."""
    after = _shape(settings, before)
    calibrates = settings.scheme is None or not settings.scheme.endswith("-wo") or settings.rounding == "gptq"
    forwards = (settings.num_prompts or _PROMPTS) * (settings.timesteps or before.steps) * 2
    work = before.forward(forwards) if calibrates else 0.0
    return Cost(after, STREAMED + (OVERHEAD if calibrates else 0), work, before.size + after.size)


def _shape(settings: QuantizeSettings, before: ModelShape) -> ModelShape:
    if settings.scheme is None:
        return before
    bits = min(before.bits, _BITS[settings.scheme.partition("-")[0]])
    after = replace(before, bits=bits) if "transformer" in settings.component else before
    smaller = min(before.others, before.other_parameters * bits / 8)
    return replace(after, others=smaller) if len(settings.component) > 1 else after
