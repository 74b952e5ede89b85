"""Best of N: every candidate is finished and scored alone; the best one wins.

Scores are pointwise, so N calls of the verifier and a sort give the true order; a tournament would take twice as many.
With `until`, candidates are drawn one by one until the verifier is that sure of one: 1/p of them instead of N, if a
share p is right.
"""

from collections.abc import Sequence

from sanac.nn.stepwise import Noise
from sanac.search.pool import Found, PromptSearch, affordable, forwards


def best_of(search: PromptSearch, noises: Sequence[Noise], batch: int, until: float | None = None) -> Found:
    """Finish as many candidates as the budget pays for, batch by batch; at least one, however long it takes."""
    found, each = Found(), forwards(search.costs)
    size = 1 if until is not None else batch
    count = affordable(search, each, len(noises))
    for start in range(0, count, size):
        if found.candidates and not search.in_time:
            break
        found.candidates += search.start(noises[start : min(count, start + size)]).finish()
        if until is not None and found.winner.score >= until:
            break
    return found
