"""Graphs of traced programs, each held against what the memo would give."""

from collections.abc import Callable

import onnx_ir as ir

from sanac.export.graph import completed, serialized, translated
from sanac.export.graph_cache import restored, stored
from sanac.export.tracing import Traced

_traced: dict[object, tuple[bytes, int]] = {}


def checked_once(key: object, trace: Callable[[], Traced]) -> ir.Model:
    """`checked_graph`, traced and checked once for each key: what the trace depends on."""
    if key not in _traced:
        traced = trace()
        _traced[key] = _checked(traced)[1], traced.blocks
    data, blocks = _traced[key]
    return completed(restored(data), range(blocks))


def checked_graph(traced: Traced) -> ir.Model:
    """The graph, made without the memo; with it, it would have the same bytes, and the same weights in that order."""
    return _checked(traced)[0]


def _checked(traced: Traced) -> tuple[ir.Model, bytes]:
    plain = translated(traced)
    data = stored(plain)
    assert data == stored(plain), "storing changes nothing"
    again = completed(restored(data), range(traced.blocks))
    graph = completed(plain, range(traced.blocks))
    assert serialized(again) == serialized(graph)
    assert list(again.graph.initializers) == list(graph.graph.initializers)
    return graph, data
