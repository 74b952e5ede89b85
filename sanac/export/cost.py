"""Cost of `sanac export` in a recipe."""

from sanac.core.cost import OVERHEAD, Cost, ModelShape, comparison_memory
from sanac.export.settings import ExportSettings

_TRACING = 40.0  # seconds to trace four graphs
_CHECKED = 4 * 12 * 2 + 20  # forward passes of the comparison afterwards


def export(settings: ExportSettings, before: ModelShape, _others: int) -> Cost:
    """Tracing, engines, and the comparison with the model; its images are left out where memory is short."""
    engines = 2 * before.size if settings.trt else 0.0
    compared = 0.0 if settings.no_verify else comparison_memory(before) - OVERHEAD
    work = 0.0 if settings.no_verify else before.forward(_CHECKED)
    return Cost(before, OVERHEAD + max(engines, compared), work, 2 * before.size, _TRACING)
