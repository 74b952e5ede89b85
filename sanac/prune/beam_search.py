"""Which blocks stay, by search: subsets judged by the velocity they leave, on states that the model passed itself.

One-shot scores judge every block as if all others stayed. Here blocks leave one at a time, the `beam` best subsets kept
on the way; then a kept block and a dropped one change places as long as that helps.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sanac.core.progress import NULL_REPORTER, Reporter

if TYPE_CHECKING:
    from sanac.nn.calibration.block_subsets import BlockSubset

Evaluator = Callable[[list["BlockSubset"]], Mapping["BlockSubset", float]]  # the error of each choice of blocks

TRIED = 64  # swaps that a round may try


@dataclass(frozen=True, slots=True)
class SearchStep:
    """A round of the search: the best subset so far and its error."""

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
    """The best subset at every depth down to `target`, then what swaps made of the last; the last is the result."""
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
    """Each subset without each of its blocks in turn."""
    for kept in front:
        for dropped in kept:
            if dropped not in protected:
                yield tuple(index for index in kept if index != dropped)


def _swapped(best: SearchStep, blocks: int, protected: frozenset[int], evaluate: Evaluator) -> SearchStep | None:
    """The best subset that differs in one block, if it is better. Neighbours of a gap are tried first."""
    dropped = [index for index in range(blocks) if index not in best.kept]
    pairs = [(out, new) for out in best.kept if out not in protected for new in dropped]
    nearest = sorted(pairs, key=lambda pair: (abs(pair[0] - pair[1]), pair))[:TRIED]
    choices = [tuple(sorted({*best.kept, new} - {out})) for out, new in nearest]
    errors = evaluate(choices)
    found = min(errors, key=lambda kept: (errors[kept], kept), default=best.kept)
    return SearchStep(found, errors[found]) if errors and errors[found] < best.error else None
