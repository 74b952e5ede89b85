"""Compares the graphs or engines of a schedule's depths with the reference cut to the same blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sanac.core.artifact.model import Model
from sanac.core.check import Check
from sanac.verify.onnx_candidates import Candidate
from sanac.verify.parity import Case, ParityBackend, compare
from sanac.verify.parity_backends import TorchBackend

Opened = Callable[[Candidate], ParityBackend]
Fitted = Callable[[Case, Candidate], Case]


def compare_depths(
    candidate: Model,
    reference: Model,
    graphs: Mapping[int, Candidate],
    cases: Sequence[Case],
    opened: Opened,
    fitted: Fitted,
    *,
    limit: float | None,
    device: str,
) -> list[Check]:
    """The checks of each depth: the same inputs through its graph and through the blocks that it stands for."""
    schedule = candidate.schedule
    found: list[Check] = []
    for depth, graph in sorted(graphs.items()):
        assert schedule
        theirs = TorchBackend(reference, device, schedule.kept(depth))
        selected = [fitted(case, graph) for case in cases]
        median = (limit or graph.median_limit) if graph.rounds_activations else None
        parity = compare(
            opened(graph), theirs, reference.architecture, limit or graph.limit, selected, median_limit=median
        )
        found += [replace(figure, name=f"{depth} blocks: {figure.name}") for figure in parity.figures]
    return found
