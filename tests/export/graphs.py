"""Graphs of traced programs, each held against what the memo would give."""

import onnx_ir as ir

from sanac.export.graph import completed, serialized, translated
from sanac.export.graph_cache import restored, stored
from sanac.export.tracing import Traced


def checked_graph(traced: Traced) -> ir.Model:
    """The graph, made without the memo; with it, it would have the same bytes, and the same weights in that order."""
    plain = translated(traced)
    data = stored(plain)
    assert data == stored(plain), "storing changes nothing"
    again = completed(restored(data), traced.blocks)
    graph = completed(plain, traced.blocks)
    assert serialized(again) == serialized(graph)
    assert list(again.graph.initializers) == list(graph.graph.initializers)
    return graph
