"""Beam search for the blocks to keep, by velocity error on calibration states from the model's own trajectories.

One-shot scores rate each block as if all others were kept. The search drops one block per round and keeps the `beam`
best subsets; then it swaps a kept block with a dropped one as long as that lowers the error.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sanac.core.progress import NULL_REPORTER, Reporter

if TYPE_CHECKING:
    from sanac.nn.calibration.block_subsets import BlockSubset

Evaluator = Callable[[list["BlockSubset"]], Mapping["BlockSubset", float]]  # subset of blocks -> error

TRIED = 64  # most swaps evaluated per round


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One round of the search: the best subset found and its error."""

    kept: "BlockSubset"
    error: float


def search(
    blocks: int,
    target: int,
    protected: frozenset[int],
    evaluate: Evaluator,
    *,
    beam: int = 4,
    reporter: Reporter = NULL_REPORTER,
) -> list[SearchStep]:
    """The best subset of each round: one per depth down to `target`, then one per improving swap. The last wins."""
    whole = tuple(range(blocks))
    found = [SearchStep(whole, 0.0)]
    front: list[BlockSubset] = [whole]
    reporter.begin("searching", blocks - target, "blocks")
    try:
        while len(front[0]) > target:
            errors = evaluate(list(dict.fromkeys(_smaller(front, protected))))
            front = sorted(errors, key=lambda kept: (errors[kept], kept))[:beam]
            found.append(SearchStep(front[0], errors[front[0]]))
            reporter.advance(1)
        while better := _swapped(found[-1], blocks, protected, evaluate):
            found.append(better)
    finally:
        reporter.end()
    return found


def _smaller(front: "Iterable[BlockSubset]", protected: frozenset[int]) -> "Iterable[BlockSubset]":
    """Every subset that drops one unprotected block from a subset of `front`."""
    for kept in front:
        for dropped in kept:
            if dropped not in protected:
                yield tuple(index for index in kept if index != dropped)


def _swapped(best: SearchStep, blocks: int, protected: frozenset[int], evaluate: Evaluator) -> SearchStep | None:
    """The best subset one swap away from `best`, or None if none is better. Swaps of nearby blocks are tried first."""
    dropped = [index for index in range(blocks) if index not in best.kept]
    pairs = [(out, new) for out in best.kept if out not in protected for new in dropped]
    nearest = sorted(pairs, key=lambda pair: (abs(pair[0] - pair[1]), pair))[:TRIED]
    choices = [tuple(sorted({*best.kept, new} - {out})) for out, new in nearest]
    errors = evaluate(choices)
    found = min(errors, key=lambda kept: (errors[kept], kept), default=best.kept)
    return SearchStep(found, errors[found]) if errors and errors[found] < best.error else None
