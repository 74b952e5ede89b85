"""Halving: at chosen steps the better share of the candidates goes on, ranked by the potential of their previews.

It never empties a pool, and the size of every batch is known beforehand: N candidates that are cut to a share a_i after
step t_i cost

    sum over stages of (alive candidates) x (steps of the stage).
"""

import math
from collections.abc import Sequence

from sanac.nn.stepwise import Noise, StepCost
from sanac.search.pool import Dropped, Found, PromptSearch, best

Cut = tuple[int, float]  # after so many steps, the share that goes on


def halving(search: PromptSearch, noises: Sequence[Noise], cuts: Sequence[Cut]) -> Found:
    """Begin as many candidates as the budget pays for, cut them, finish and score the rest."""
    count = most_candidates(search, len(noises) if search.in_time else 1, cuts)
    found = Found()
    if not count:
        return found
    pool = search.start(noises[:count])
    for step, share in cuts:
        pool.advance(step)
        potential = {row: reading.potential for row, reading in pool.read().items()}
        kept = best(potential, kept_of(len(pool.rows), share))
        origins = pool.origins
        found.dropped += [Dropped(origins[row], step, potential[row]) for row in pool.rows if row not in kept]
        pool.keep(kept)
    found.candidates = pool.finish()
    return found


def most_candidates(search: PromptSearch, wanted: int, cuts: Sequence[Cut]) -> int:
    """The largest number of candidates, at most `wanted`, that the budget pays for."""
    if search.left is None:
        return wanted
    return next((count for count in range(wanted, 0, -1) if cost_of(count, search.costs, cuts) <= search.left), 0)


def cost_of(count: int, costs: Sequence[StepCost], cuts: Sequence[Cut]) -> int:
    """Forward passes of halving `count` candidates."""
    return spent_by(count, [cost.forwards for cost in costs], cuts)


def spent_by(count: int, each: Sequence[int], cuts: Sequence[Cut]) -> int:
    """What halving `count` candidates spends, where a step takes `each` of one candidate."""
    spent, start = 0, 0
    for step, share in cuts:
        spent += count * sum(each[start:step])
        count, start = kept_of(count, share), step
    return spent + count * sum(each[start:])


def kept_of(count: int, share: float) -> int:
    """How many of `count` candidates go on: the share, rounded up."""
    return max(1, math.ceil(count * share - 1e-9))
