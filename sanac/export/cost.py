"""Cost of `sanac export` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape
from sanac.export.settings import ExportSettings

_TRACING = 40.0  # seconds to trace four graphs
_CHECKED = 4 * 12 * 2 + 20  # forward passes of the comparison afterwards


def export(settings: ExportSettings, before: ModelShape, _others: int) -> Cost:
    """Tracing, engines, and the comparison with the model."""
    engines = 2 * before.size if settings.trt else 0.0
    compared = 0.0 if settings.no_verify else 2 * before.size_fp32
    work = 0.0 if settings.no_verify else before.forward(_CHECKED)
    return Cost(before, OVERHEAD + max(engines, compared), work, 2 * before.size, _TRACING)
